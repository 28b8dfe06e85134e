"""Know a file by its bytes, where its inode number may become another one.

Runs in:    the process that saves an output, and reads it afterwards.
Source:     the inodes of FUSE (rclone, sshfs), FAT and some network file systems are numbered as
            the kernel comes to see them, and again after a rename or when it has forgotten them.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from collector.settings import READ_BLOCK_BYTES
from collector.store.rundir.locks import loading

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Callable

_RENUMBERING: Final = frozenset(
    {
        0x65735546,  # FUSE
        0x01021997,  # 9P
        0x4D44,  # FAT
        0x2011BAB0,  # exFAT
        0x517B,  # SMB
        0xFE534D42,  # SMB2
        0xFF534D42,  # CIFS
    }
)
"""What statfs(2) calls the types that number their inodes anew, as in linux/magic.h."""

_STATFS_BYTES: Final = 256
"""Room for a `struct statfs` of any architecture; the type is the first number in it."""


def new_digest(fd: int) -> "hashlib._Hash | None":
    """Begin a digest of a file on the file system of `fd`; None where inode numbers stay.

    The file system is asked each time: the kernel gives the number of one that was unmounted to
    the next at once.

    Raises:
        OSError: As it came from the system.
    """
    try:
        type_of_filesystem = _type_of_filesystem()
    except ImportError:  # there is no ctypes, or no descriptor for it: nobody knows the type
        return _new()
    return _new() if type_of_filesystem(fd) in _RENUMBERING else None


def digest_of(fd: int) -> bytes:
    """Read a whole file and tell its digest.

    Raises:
        OSError: As it came from the system.
    """
    digest = _new()
    for block in _blocks(fd):
        digest.update(block)
    return digest.digest()


def mark_of(fd: int, digest: bytes | None) -> str:
    """Return what a file is known by to another process: its digest, or its number and time.

    A number alone is given to the next file where this one goes; no later file has the time, too.

    Args:
        fd: The file, to which nothing is written any more.
        digest: Of its bytes, where inode numbers do not stay.

    Raises:
        OSError: As it came from the system.
    """
    if digest is not None:
        return digest.hex()
    status = os.fstat(fd)
    return f"{status.st_ino}-{status.st_mtime_ns}"


def has_mark(path: str, mark: str) -> bool:
    """Tell whether the file of a name is the one that had that mark; never raises."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            by_number = "-" in mark
            return mark == mark_of(fd, None if by_number else digest_of(fd))
        finally:
            os.close(fd)
    return False


@functools.cache
def _type_of_filesystem() -> "Callable[[int], int]":
    """Make a function of fstatfs(2), which Python has without the type; it takes 1 us."""
    with loading("ctypes"):
        import ctypes  # noqa: PLC0415 - 2 to 10 ms, for those who save

    call = ctypes.CDLL(None, use_errno=True).fstatfs

    def type_of_filesystem(fd: int) -> int:
        answer = ctypes.create_string_buffer(_STATFS_BYTES)
        if call(fd, answer):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return ctypes.c_long.from_buffer(answer).value & 0xFFFFFFFF

    return type_of_filesystem


def _new() -> "hashlib._Hash":
    with loading("hashlib"):
        import hashlib  # noqa: PLC0415 - few files need it

    return hashlib.sha256(usedforsecurity=False)


def _blocks(fd: int) -> Iterator[bytes]:
    start = 0
    while block := os.pread(fd, READ_BLOCK_BYTES, start):
        yield block
        start += len(block)
