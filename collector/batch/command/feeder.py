"""Hands the inputs to whoever starts jobs, without waiting for one that comes late.

Runs in:    the parent; where inputs come from a pipe or a terminal, a thread reads them.
Owns:       that thread, a daemon: it may wait for ever.
Invariants: I1  no more inputs are read than were asked for, and a few.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, final

from collector.batch.command.sources import Row, SourceError

_AHEAD: Final = 64


@final
class Feeder:
    """Gives rows one by one.

    Args:
        rows: The inputs.
        waits: Whether the next one may come late: then it is read in a thread.
        wake: Called in that thread when something has come.
    """

    def __init__(self, rows: Iterator[Row], *, waits: bool, wake: Callable[[], None]) -> None:
        self._rows = rows
        self._wake = wake
        self._read: deque[Row] = deque()
        self._room = threading.Semaphore(_AHEAD)
        self._failure: Exception | None = None
        self._ended = False
        self._waits = waits
        if waits:
            threading.Thread(target=self._pump, name="collector-inputs", daemon=True).start()

    @property
    def over(self) -> bool:
        """Whether there will be no further row, and no failure to raise."""
        return self._ended and not self._read and self._failure is None

    def has_more(self) -> bool:
        """Whether some may be left, when no more are taken; waits for none."""
        try:
            return not self.over and (self._waits or self.take() is not None)
        except SourceError:
            return True

    def take(self) -> Row | None:
        """Return the next row if it is here.

        Raises:
            SourceError: It cannot be had, nor any behind it.
        """
        if self._read:
            self._room.release()
            return self._read.popleft()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self._waits or self._ended:
            return None
        try:
            return next(self._rows)
        except StopIteration:
            self._ended = True
            return None
        except Exception:
            self._ended = True
            raise

    def _pump(self) -> None:
        try:
            for row in self._rows:
                self._room.acquire()
                self._read.append(row)
                self._wake()
        except Exception as error:  # noqa: BLE001 - raised where the row is asked for
            self._failure = error
        self._ended = True
        self._wake()
