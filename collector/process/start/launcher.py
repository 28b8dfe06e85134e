"""A process that this one has started, and what starts one by some start method.

Runs in:    the parent.
Owns:       of each child: one descriptor that becomes readable when it is dead.
Invariants: I1  a death is read from a pidfd where the kernel has them; else from the end of a pipe
                that only the process holds open (a grandchild may hold it too: noticed later, never
                wrongly).
            I2  no signal is sent to a process, or a group, that is known to be dead and reaped.
"""

import contextlib
import errno
import os
import select
import signal
from collections.abc import Callable, Sequence
from typing import Protocol

from collector.process.process_group import end_further, end_group, end_process

Role = Callable[[Sequence[int], bytes], None]
"""What a child runs: a module-level function of its descriptors and its encoded arguments."""


def name_of(role: Role) -> str:
    """Return what a process that runs this is called: `collector-worker`."""
    return f"collector-{role.__module__.split('.')[-2]}"  # the room is named after the role


class Launcher(Protocol):
    """Starts processes by one start method."""

    method: str

    def prepare(self) -> None:
        """Begin with what starting a process will need, if that can be had now.

        Raises:
            NoPythonError: No process can be started, now or later.
        """

    def start(
        self, role: Role, descriptors: Sequence[int], arguments: bytes, not_for_it: Sequence[int]
    ) -> "Child":
        """Start a process that runs `role`.

        Args:
            role: What it runs.
            descriptors: What it gets; they stay the caller's to close.
            arguments: What it is told.
            not_for_it: Descriptors of the caller's that a child must not inherit, by fork either.

        Raises:
            OSError: No process, descriptor or memory is to be had.
        """

    def close(self) -> None:
        """Let go of what starting needed; the children live on."""

    def abandon(self) -> list[int]:
        """In a forked child of the parent: return the descriptors to be closed there."""


def open_pidfd(pid: int) -> int | None:
    """Return a pidfd of ourselves or of a child; None where there are none, or it is collected.

    Raises:
        OSError: No descriptor is to be had.
    """
    opener = getattr(os, "pidfd_open", None)
    if opener is None:
        return None
    try:
        return int(opener(pid))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return None


def has_pidfds() -> bool:
    """Whether there are pidfds here: neither every system nor every sandbox has them.

    Raises:
        OSError: No descriptor is to be had.
    """
    pidfd = open_pidfd(os.getpid())
    if pidfd is not None:
        os.close(pidfd)
    return pidfd is not None


class Life:
    """A descriptor that becomes readable when this process dies, to be handed to others."""

    def __init__(self) -> None:
        self._held: int | None = None
        pidfd = open_pidfd(os.getpid())
        if pidfd is None:
            pidfd, self._held = os.pipe()
        self.fd = pidfd

    def descriptors(self) -> list[int]:
        """Return every descriptor this holds; once it is closed, their numbers are others'."""
        return [fd for fd in (self.fd, self._held) if fd is not None and fd >= 0]

    def close(self) -> None:
        """Close them: without pidfds this looks like a death to those who watch."""
        fds, self.fd, self._held = self.descriptors(), -1, None
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)


class Child:
    """A process that this one started."""

    def __init__(
        self,
        pid: int,
        death_fd: int,
        exitcode: Callable[[], int | None],
        *,
        has_pidfd: bool = True,
    ) -> None:
        self.pid = pid
        self.death_fd = death_fd
        self.has_pidfd = has_pidfd
        self._exitcode = exitcode
        self.leads: Callable[[], int] = _no_group
        """Tells which further process group it has begun; 0 for none."""
        self._code: int | None = None
        self._reaped = False
        self._asked_to_end: set[int] = set()

    def dead(self, timeout_s: float = 0) -> bool:
        """Tell whether it is dead; wait for that at most so long."""
        if self._reaped:
            return True
        poller = select.poll()
        poller.register(self.death_fd, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))

    def reap(self) -> int | None:
        """Kill what is left of its group, collect it, return its exit code (None: unknown)."""
        if not self._reaped:
            # It leads a group from its first lines on; before them there is no such group.
            end_group(self.pid)
            end_further(self.leads())
            self._reaped = True
            self._code = self._exitcode()
        return self._code

    def kill(self) -> None:
        """End it and all processes of its group at once."""
        if not self._reaped:
            end_process(self.pid)
            end_further(self.leads())

    def signal(self, number: int, *, itself: bool) -> None:
        """Send a signal to the further process group that it has begun, and to its own if asked.

        A group gets SIGTERM once, however often it is sent: many programs end at the second one
        without cleaning up.
        """
        if self._reaped:
            return
        for group in filter(None, (max(self.leads(), 0), self.pid if itself else 0)):
            if number == signal.SIGTERM:
                if group in self._asked_to_end:
                    continue
                self._asked_to_end.add(group)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)

    def terminate(self) -> None:
        """Ask it to end, by SIGTERM."""
        if not self._reaped:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGTERM)

    def close(self) -> None:
        """Close the descriptor; for a child that was reaped."""
        os.close(self.death_fd)


def _no_group() -> int:
    return 0
