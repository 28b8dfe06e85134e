"""Ctrl-C while a `collect` opens its batch: the same call goes on with it at once."""

import contextlib
import linecache
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

from collector import Collector
from collector.batch import collecting, recorder, writer
from collector.executor import collecting as loops
from tests.support.batchjobs import double

pytestmark = pytest.mark.usefixtures("one_server")

FILES: Final = {one.__file__ for one in (collecting, recorder, writer, loops)}
FUNCTIONS: Final = {"collected", "begin", "open", "__init__"}


class CtrlC:
    """Interrupts at a line of what opens a batch; counts these lines.

    Args:
        line: At which; 0 for none. At a `with` none is: Python hears signals behind calls, and what
            has been entered is left then.
    """

    def __init__(self, line: int) -> None:
        self.lines = 0
        self._line = line
        self._is_open = False

    def trace(self, frame: FrameType, event: str, _argument: object) -> Any:
        code = frame.f_code
        self._is_open |= code.co_name == loops._to_the_end.__name__
        if self._is_open or code.co_filename not in FILES or code.co_name not in FUNCTIONS:
            return None
        if event == "line" and not self._is_open:
            text = linecache.getline(code.co_filename, frame.f_lineno)
            self.lines += not text.lstrip().startswith("with ")
            if self.lines == self._line:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.trace


def results(collector: Collector, path: Path, line: int = 0) -> tuple[dict[int, int], int]:
    """Run the batch; returns what it has and how many lines there were."""
    ctrl_c, before = CtrlC(line), sys.gettrace()
    jobs = collector.collect(double, range(2), batch=path)
    sys.settrace(ctrl_c.trace)
    try:
        found = {job.args[0]: job.result() for job in jobs}
    finally:
        sys.settrace(before)
    return found, ctrl_c.lines


@pytest.mark.slow
def test_the_same_call_goes_on_after_a_ctrl_c(tmp_path: Path) -> None:
    """The directory was locked until the program ended, if it came behind its opening."""
    with Collector(1, progress=False) as collector:
        wanted, count = results(collector, tmp_path / "all")
        assert count > 50
        for line in range(1, count + 1):
            with contextlib.suppress(KeyboardInterrupt):
                results(collector, tmp_path / str(line), line)
            assert results(collector, tmp_path / str(line))[0] == wanted, line
