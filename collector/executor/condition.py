"""A condition that is small while nobody waits for it: 100,000 jobs that wait have one each.

Runs in:    the parent, in any thread.
Source:     `threading.Condition` keeps a deque (760 bytes) and five methods of its lock, each an
            object of its own: a third of the memory of a waiting job, and a fourth of the time of
            a tiny one, by what the garbage collector has to look at (docs/decisions/0009-speed.md).
"""

import threading
from typing import Any, final


@final
class SmallCondition(threading.Condition):
    """As `threading.Condition()`."""

    def __init__(self) -> None:
        self._lock: Any = threading.RLock()
        self._waiters: Any = ()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until notified; as `Condition.wait`."""
        if self._waiters == () and self._is_owned():
            self._waiters = []  # a list will do: few threads ever wait here
        return super().wait(timeout)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock; as `RLock.acquire`."""
        return bool(self._lock.acquire(blocking, timeout))

    def release(self) -> None:
        """Release the lock; as `RLock.release`."""
        self._lock.release()

    def _release_save(self) -> Any:
        return self._lock._release_save()  # noqa: SLF001 - as Condition does; so below

    def _acquire_restore(self, state: Any) -> None:
        self._lock._acquire_restore(state)  # noqa: SLF001

    def _is_owned(self) -> bool:
        return bool(self._lock._is_owned())  # noqa: SLF001
