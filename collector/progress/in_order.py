"""Does what threads and signal handlers ask for, one thing at a time, and makes nobody wait.

Runs in:    the parent, in any thread, also in a signal handler that interrupts it here.
Owns:       what has been asked for and is not done yet.
Invariants: I1  what is asked for is done once, after what was asked for before it, by whoever asks
                or by whoever is at it just then.
            I2  nobody waits for a lock: one that a signal handler has interrupted while it held a
                lock would keep it until the handler returns, and the handler may wait for others.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import final


@final
class InOrder:
    """Acts, one after the other. An act must not wait, and must not raise."""

    def __init__(self) -> None:
        self._asked: deque[Callable[[], object]] = deque()
        self._at_it = threading.Lock()

    def do(self, act: Callable[[], object]) -> None:
        """Do this now, or have it done by who is at it: another thread, or what we interrupt."""
        self._asked.append(act)
        # Look again after each release: somebody may have asked just before it, and gone.
        while self._asked and self._at_it.acquire(blocking=False):
            try:
                while self._asked:
                    self._asked.popleft()()
            finally:
                self._at_it.release()
