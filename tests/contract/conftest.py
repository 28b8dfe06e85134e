"""Fixtures of the contract: each kind of executor in turn."""

import multiprocessing.forkserver
import multiprocessing.resource_tracker
import multiprocessing.util
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

import pytest

from tests.contract.kinds import KINDS, Kind

HERE: Final = Path(__file__).parent
# Forking beside threads is what the start method "fork" is; Python 3.12 and later warn of it.
FORK_WARNING: Final = (
    r"ignore:This process \(pid=\d+\) is multi-threaded, use of fork\(\):DeprecationWarning"
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests of this directory fork; with the standard executor all are campaigns."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.filterwarnings(FORK_WARNING))
            if any(mark.name == "campaign" for mark in item.own_markers):
                item.own_markers[:] = [mark for mark in item.own_markers if mark.name != "slow"]


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kind]:
    """Each kind in turn; what the standard library leaves running on purpose is stopped."""
    asked: Kind = request.param
    # Or else every worker of the standard executor imports pytest first: it runs `__main__` again.
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    yield asked
    if not asked.ours:
        multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
        multiprocessing.util._run_finalizers()  # type: ignore[attr-defined]
        multiprocessing.resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


@pytest.fixture
def executor(kind: Kind) -> Iterator[Executor]:
    """An executor with two workers, shut down in the end."""
    with kind.make() as made:
        yield made
