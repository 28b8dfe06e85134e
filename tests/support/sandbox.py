"""What a sandbox refuses: system calls that fail with EPERM from here on, in children too."""

import ctypes
import os
import struct
from typing import Final

_NUMBERS: Final = {
    "pidfd_open": {"x86_64": 434, "aarch64": 434},
    "memfd_create": {"x86_64": 319, "aarch64": 279},
    "linkat": {"x86_64": 265, "aarch64": 37},
    "renameat2": {"x86_64": 316, "aarch64": 276},
}
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_LOAD_NUMBER: Final = (0x20, 0, 0, 0)
_ALLOW: Final = (0x06, 0, 0, 0x7FFF0000)
_EPERM: Final = (0x06, 0, 0, 0x00050001)


def refuse(*calls: str) -> None:
    """Have the kernel refuse these system calls to this process and all its children (seccomp)."""
    program = [_LOAD_NUMBER]
    for call in calls:
        program += [(0x15, 0, 1, _NUMBERS[call][os.uname().machine]), _EPERM]
    program.append(_ALLOW)
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    told = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, told, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl(PR_SET_SECCOMP)")
