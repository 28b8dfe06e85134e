"""Signals that a person or a system sends to a running batch.

Runs in:    the parent, in the main thread.
Owns:       the handlers of SIGINT, SIGTERM, SIGHUP and SIGTSTP, until `__exit__`; one that is
            ignored (`nohup`, a job in the background of a script) stays that.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, NamedTuple, Self, final

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals(NamedTuple):
    """One that has come."""

    number: int


class StoppedError(BaseException):
    """A second signal has come while a write waits for a reader, who may never come back.

    Attributes:
        number: Of the first signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number: Final = number


@final
class Handlers:
    """Has signals told, and jobs stopped and continued with this process.

    Args:
        heard: Is told of a signal that ends the batch.
        stopping: Called before this process is stopped (Ctrl-Z).
        continuing: Called when it goes on.
        stuck: Tells whether the main thread waits for others and hears nothing: a second signal
            raises `StoppedError` there.
    """

    def __init__(
        self,
        heard: Callable[[Signals], None],
        stopping: Callable[[], None],
        continuing: Callable[[], None],
        stuck: Callable[[], bool],
    ) -> None:
        self._heard = heard
        self._stopping = stopping
        self._continuing = continuing
        self._stuck = stuck
        self._first = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in _ENDING:
            self._take(number, self._end)
        self._take(signal.SIGTSTP, self._stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _take(self, number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        before = signal.getsignal(number)
        if before is not signal.SIG_IGN:
            self._before[number] = before
            signal.signal(number, handler)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self._heard(Signals(number))
        if self._first and self._stuck():
            raise StoppedError(self._first)
        self._first = self._first or number

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self._stopping()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # and here it stands until SIGCONT
        signal.signal(number, self._stop)
        self._continuing()
