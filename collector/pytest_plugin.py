"""A fixture for tests of code that uses collector: a small Collector that may leave nothing behind.

Runs in:    the process of pytest, which loads this module in each of its runs wherever collector is
            installed: so it imports nothing until a test asks for the fixture.
"""

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collector import Collector

_THRESHOLD_BYTES: Final = 64 * 1024
_BUDGET_BYTES: Final = 1024 * 1024


@pytest.fixture
def collector(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator["Collector"]:
    """Give a Collector of two workers whose outputs spill at 64 KiB, into a directory of the test.

    It is shut down after the test. A test that passed fails then if it left anything: outputs that
    something still holds, or a callback that has not returned. Other settings: `with_options`.
    """
    from collector import Collector  # noqa: PLC0415 - see above

    root = tmp_path / "collector"
    root.mkdir(mode=0o700)
    before = frozenset(threading.enumerate())
    failures = request.session.testsfailed
    with Collector(
        max_workers=2,
        memory_threshold=_THRESHOLD_BYTES,
        memory_budget=_BUDGET_BYTES,
        progress=False,
        temp_root=root,
    ) as made:
        yield made
    del made
    left = _left_behind(root, before)
    if left and request.session.testsfailed == failures:
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)


def _left_behind(root: Path, before: frozenset[threading.Thread]) -> list[str]:
    gc.collect()
    found = [
        f"{os.path.join(parent, name)}: an output that was neither closed nor dropped"
        for parent, _, names in os.walk(root)
        for name in names
        if name.endswith(".spill")
    ]
    found += [
        f"thread {thread.name}: a callback that does not return"
        for thread in threading.enumerate()
        if thread not in before and thread.name.startswith("collector-") and thread.is_alive()
    ]
    return found
