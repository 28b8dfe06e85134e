"""Notes for a thread that waits in a select, and the wake-up pipe that tells it of them.

Runs in:    `note` in any thread, the others in the one that waits: supervising or answering.
Owns:       a pair of sockets.
Invariants: I1  `note` takes no lock: it may be called whatever is held, also in a finalizer.
            I2  each note is read by the next `notes`, or by one that runs meanwhile.
"""

import contextlib
import socket
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar, final

N = TypeVar("N")


@final
class Mailbox(Generic[N]):
    """A queue of notes, with a descriptor that a selector can wait for."""

    def __init__(self) -> None:
        self._notes: deque[N] = deque()
        self._woken = False
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._wake_w.setblocking(False)

    def fileno(self) -> int:
        """The descriptor that becomes readable when somebody leaves a note."""
        return self._wake_r.fileno()

    def __bool__(self) -> bool:
        return bool(self._notes)

    def note(self, note: N) -> None:
        """Leave a note, and wake the thread unless somebody has."""
        self._notes.append(note)
        if not self._woken:
            self._woken = True
            with contextlib.suppress(OSError):  # full: it wakes anyway; closed: nobody is left
                self._wake_w.send(b"!")

    def clear(self) -> None:
        """Empty the wake-up pipe: `notes` is called next."""
        with contextlib.suppress(BlockingIOError):
            self._wake_r.recv(4096)

    def notes(self) -> Iterator[N]:
        """Yield and remove the notes, also those that come meanwhile."""
        self._woken = False
        while self._notes:
            yield self._notes.popleft()

    def detach(self) -> list[int]:
        """Give up the descriptors and return them."""
        return [self._wake_r.detach(), self._wake_w.detach()]

    def close(self) -> None:
        """Close both ends; notes that come now are not read."""
        self._wake_r.close()
        self._wake_w.close()
