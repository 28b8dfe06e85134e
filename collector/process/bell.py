"""Notes for the supervising thread, and the bell that wakes it.

Runs in:    `note` in any thread, the others in the supervising one.
Owns:       a pair of sockets.
Invariants: I1  `note` takes no lock: it may be called whatever is held, also in a finalizer.
            I2  a note that was left before the bell is stopped is read.
"""

import contextlib
import socket
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar, final

N = TypeVar("N")


@final
class Bell(Generic[N]):
    """A queue of notes that a selector can wait for."""

    def __init__(self) -> None:
        self._notes: deque[N] = deque()
        self._rung = False
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)

    def fileno(self) -> int:
        """The descriptor that becomes readable when somebody leaves a note."""
        return self._bell.fileno()

    def __bool__(self) -> bool:
        return bool(self._notes)

    def note(self, note: N) -> None:
        """Leave a note, and ring unless somebody has."""
        self._notes.append(note)
        if not self._rung:
            self._rung = True
            with contextlib.suppress(OSError):  # full: it wakes anyway; closed: nobody is left
                self._rope.send(b"!")

    def hear(self) -> None:
        """Silence the bell."""
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(4096)

    def notes(self) -> Iterator[N]:
        """Yield and remove the notes, also those that come meanwhile."""
        self._rung = False
        while self._notes:
            yield self._notes.popleft()

    def detach(self) -> list[int]:
        """Give up the descriptors and return them."""
        return [self._bell.detach(), self._rope.detach()]

    def close(self) -> None:
        """Close both ends; notes that come now are not read."""
        self._bell.close()
        self._rope.close()
