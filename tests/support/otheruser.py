"""Root becomes another user for good, who may read all that root may, and whose limits hold."""

import ctypes
import os
import struct
from typing import Final

_CAP_DAC_READ_SEARCH: Final = 2
_CAPABILITIES_OF_TWO_WORDS: Final = 0x20080522
_PR_SET_KEEPCAPS: Final = 8
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2


def become(user: int) -> None:
    """Be this user and its group, here and in all children, also in those by exec.

    A new interpreter must read the tests and the packages, which may lie where only root may look:
    the right to read (CAP_DAC_READ_SEARCH) is kept, and handed on to what is executed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    os.setgroups([])
    os.setresgid(user, user, user)
    _check(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setresuid(user, user, user)
    kept = 1 << _CAP_DAC_READ_SEARCH
    header = struct.pack("=Ii", _CAPABILITIES_OF_TWO_WORDS, 0)
    _check(libc.capset(header, struct.pack("=6I", kept, kept, kept, 0, 0, 0)))
    _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_READ_SEARCH, 0, 0))


def lose_privileges() -> None:
    """Be root for files that are root's, and nobody for all others: here, and as long as we live.

    What a file's mode says holds from here on.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", _CAPABILITIES_OF_TWO_WORDS, 0)
    _check(libc.capset(header, bytes(24)))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
