"""A condition that is small while nobody waits for it: 100,000 jobs that wait have one each.

Runs in:    the parent, in any thread.
Source:     `threading.Condition` keeps a deque (760 bytes), a lock, and five methods of the lock,
            each an object of its own: a third of the memory of a waiting job, and a fourth of the
            time of a tiny one, by what the garbage collector has to look at
            (docs/decisions/0009-speed.md).
"""

import threading
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    _Lock = threading.Condition
else:
    _Lock = type(threading.RLock())


@final
class SmallCondition(_Lock):
    """As `threading.Condition()`, whose methods it has, and its own lock."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        super().__init__()  # not for C's lock, but for Python's own and gevent's
        self._waiters: Any = ()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until notified; as `Condition.wait`."""
        if self._waiters == () and self._is_owned():  # type: ignore[attr-defined] # of RLock
            self._waiters = []  # a list will do: few threads ever wait here
        return threading.Condition.wait(self, timeout)

    wait_for = threading.Condition.wait_for
    notify = threading.Condition.notify
    notify_all = threading.Condition.notify_all
