"""A fixture for tests of code that uses collector: a small Collector that may leave nothing behind.

Runs in:    the process of pytest, which loads this module in each of its runs wherever collector is
            installed: so it imports nothing until a test asks for the fixture.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collector import Collector

_THRESHOLD_BYTES: Final = 64 * 1024
_BUDGET_BYTES: Final = 1024 * 1024
_returned: Final = pytest.StashKey[bool]()
"""Of a test: whether its function has returned, where it raised, was skipped or never called."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Remember how the function of a test has ended."""
    if call.when == "call":
        item.stash[_returned] = call.excinfo is None


@pytest.fixture
def collector(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator["Collector"]:
    """Give a Collector of two workers whose outputs spill at 64 KiB, into a directory of the test.

    It is shut down after the test. A test that passed fails then if it left anything: the file of
    an output that something still holds, or a callback that has not returned. Other settings:
    `with_options`.
    """
    from collector import Collector  # noqa: PLC0415 - see above
    from collector.executor.inner import has_left_behind  # noqa: PLC0415 - as above

    root = tmp_path / "collector"
    root.mkdir(mode=0o700)
    failures = request.session.testsfailed
    with Collector(
        max_workers=2,
        memory_threshold=_THRESHOLD_BYTES,
        memory_budget=_BUDGET_BYTES,
        progress=False,
        temp_root=root,
    ) as made:
        yield made
    left = []
    if has_left_behind(made):
        left.append("thread collector-report: a callback that does not return")
    del made
    if not request.node.stash.get(_returned, False) or request.session.testsfailed != failures:
        return
    if _held(root):  # by fixtures that have ended, whose values pytest drops with the test
        getattr(request.node, "funcargs", {}).clear()
    left += [f"{path}: an output that was neither closed nor dropped" for path in _held(root)]
    if left:
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)


def _held(root: Path) -> list[str]:
    gc.collect()
    return [
        os.path.join(parent, name)
        for parent, _, names in os.walk(root)
        for name in names
        if name.endswith(".spill")
    ]
