"""Rename as only renameat2(2) can: onto a free name only, or by an exchange of two names.

Runs in:    whoever gives a file its final name.
Source:     renameat2(2). Not every file system knows the flags (NFS and most of FUSE do not), nor
            every C library the call: then the error is one of `UNSUPPORTED`.
"""

import errno
import functools
import os
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from collector.store.rundir.locks import loading

if TYPE_CHECKING:
    from collections.abc import Callable

UNSUPPORTED: Final = frozenset(
    {
        errno.EACCES,
        errno.EINVAL,
        errno.EIO,
        errno.EMLINK,
        errno.ENOSYS,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.EPERM,
    }
)
"""What file systems and sandboxes say to link(2) or renameat2(2) if they do not know it.

Where the error means something else, the next way that is tried meets it again, and reports it.
"""

_NOREPLACE: Final = 1
_EXCHANGE: Final = 2


class NameIn(NamedTuple):
    """A name in an open directory."""

    directory_fd: int
    name: str


def rename_to_free(source: NameIn, target: NameIn) -> None:
    """Rename, unless something has the name `target`.

    Raises:
        FileExistsError: Something has it.
        OSError: As it came from the system.
    """
    _rename(source, target, _NOREPLACE)


def exchange(one: NameIn, other: NameIn) -> None:
    """Give each of two files the name of the other, at once.

    Raises:
        FileNotFoundError: One of them is not there.
        OSError: As it came from the system.
    """
    _rename(one, other, _EXCHANGE)


def _rename(source: NameIn, target: NameIn, flags: int) -> None:
    sys.audit("os.rename", source.name, target.name, source.directory_fd, target.directory_fd)
    try:
        number = _renameat2()(*source, *target, flags)
    except ImportError:  # there is no ctypes, or no descriptor for it
        number = errno.ENOSYS
    if number:
        raise OSError(number, os.strerror(number), source.name, None, target.name)


@functools.cache
def _renameat2() -> "Callable[[int, str, int, str, int], int]":
    """Make a function of it that returns an errno, or 0."""
    with loading("ctypes"):
        import ctypes  # noqa: PLC0415 - 10 ms, for few

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)

    def renameat2(from_fd: int, from_name: str, to_fd: int, to_name: str, flags: int) -> int:
        if call is None:
            return errno.ENOSYS
        done = call(from_fd, os.fsencode(from_name), to_fd, os.fsencode(to_name), flags)
        return ctypes.get_errno() if done else 0

    return renameat2
