"""A descriptor of a worker that its job may close or replace: each use checks that it is ours.

A job may close every descriptor (`os.closerange(3, 65536)`, as a library that makes a daemon of its
process does) and open files, which get the lowest numbers: what the worker wrote next would be in a
file of the job's. So ours have high numbers, and each is looked at before it is used.

Runs in:    the worker.
Owns:       the descriptor.
Source:     one `fstat` is 1.1 us on the machine of docs/benchmarks.md, less than 2 % of a tiny job
            or of a slot; the size of the pipe is had in 0.3 us, and tells a pipe from a file only.
"""

import fcntl
import os
from typing import Final, final

from collector.errors import EXIT_DESCRIPTOR_LOST

_HIGHEST: Final = 1024
"""Above this a table of descriptors costs memory."""
_ROOM: Final = 32
"""Numbers below the highest one, for ours."""


@final
class Held:
    """One descriptor, which the job may have closed or replaced whenever it is used.

    Args:
        fd: The descriptor.
        copy: Hold a copy of it.
    """

    __slots__ = ("_device", "_inode", "fd")

    def __init__(self, fd: int, *, copy: bool = False) -> None:
        self.fd: Final = out_of_the_way(fd, copy=copy)
        status = os.fstat(self.fd)
        self._inode, self._device = status.st_ino, status.st_dev

    @property
    def ours(self) -> bool:
        """Whether it still leads where it did."""
        try:
            status = os.fstat(self.fd)
        except OSError:
            return False
        return status.st_ino == self._inode and status.st_dev == self._device

    def check(self) -> int:
        """Return its number; if it is not ours any more, the process ends: its job has failed."""
        fd = self.fd
        try:
            status = os.fstat(fd)
        except OSError:
            os._exit(EXIT_DESCRIPTOR_LOST)
        if status.st_ino != self._inode or status.st_dev != self._device:
            os._exit(EXIT_DESCRIPTOR_LOST)
        return fd

    def close(self) -> None:
        """Close it, unless the number is another's by now."""
        if self.ours:
            os.close(self.fd)


def out_of_the_way(fd: int, *, copy: bool = False) -> int:
    """Give it, or a copy, a number that no new file gets, if one is to be had."""
    highest = min(os.sysconf("SC_OPEN_MAX"), _HIGHEST)
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(highest - _ROOM, fd + 1))
    except OSError:
        return os.dup(fd) if copy else fd
    if not copy:
        os.close(fd)
    return moved
