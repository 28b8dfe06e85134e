"""A program that a signal handler interrupts at any line of what it does.

Runs in:    the main thread, traced.
"""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, _base
from types import FrameType
from typing import Any, Final

import collector
from collector import Collector, Job
from tests.support.jobs import square

OURS: Final = os.path.dirname(collector.__file__)
PROGRESS: Final = os.path.join(OURS, "progress")


def acts_on(executor: Collector, job: "Job[Any]") -> dict[str, Callable[[], object]]:
    """What a program, and its signal handler, may do."""
    return {
        "kill": job.kill,
        "cancel": job.cancel,
        "result": job.result,
        "shutdown": executor.shutdown,
        "shutdown that cancels": lambda: executor.shutdown(cancel_futures=True),
        "kill_workers": executor.kill_workers,
        "submit": lambda: executor.submit(square, 3),
    }


class Interrupted:
    """Does one act, and another one at a line of that; counts the lines.

    Args:
        act: Is interrupted.
        handler: Interrupts it, once.
        line: At which of its lines; 0 for none.
        among: Files whose lines count; those of the package and of what it builds on if not given.
    """

    def __init__(
        self,
        act: Callable[[], object],
        handler: Callable[[], object],
        line: int,
        among: tuple[str, ...] = (OURS, _base.__file__, threading.__file__),
    ) -> None:
        self.lines = 0
        self.made: list[Any] = []
        self._handler = handler
        self._line = line
        self._among = among
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            self._call(act)
        finally:
            sys.settrace(before)

    def _call(self, act: Callable[[], object]) -> None:
        try:
            self.made.append(act())
        except CancelledError:
            pass
        except RuntimeError as error:
            if "after shutdown" not in str(error):
                raise

    def _trace(self, frame: FrameType, event: str, _argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(self._among):
            return None
        self.lines += event == "line"
        if event == "line" and self.lines == self._line:
            sys.settrace(None)
            self._call(self._handler)
            sys.settrace(self._trace)
        return self._trace
