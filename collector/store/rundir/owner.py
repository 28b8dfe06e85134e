"""Write and read owner.json: whose run directory this is, as advice for people.

Runs in:    the process that creates a run directory; whoever lists or sweeps it.
Invariants: I1  nothing here is ever proof of life or death: only the kernel's locks are.
            I2  any content is tolerated: missing, a FIFO, a link, huge, no UTF-8, no JSON.
"""

import contextlib
import math
import os
import stat
import sys
import time
from typing import Final, NamedTuple

from collector.settings import VERSION
from collector.store.rundir import kernel
from collector.store.rundir.locks import close_private, loading, open_private

OWNER_NAME: Final = "owner.json"

_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_SIZE_LIMIT_BYTES: Final = 64 * 1024
_COMMAND_LIMIT_CHARS: Final = 1000


class Owner(NamedTuple):
    """What owner.json says; a field that it does not say is None."""

    pid: int | None = None
    started: float | None = None
    host: str | None = None
    command: str | None = None


def write_owner(directory_fd: int, name: str = OWNER_NAME) -> None:
    """Write owner.json of this process into a new run directory, or such a file elsewhere.

    A full disk is no reason to fail: without the file, only the listing knows less.
    """
    with loading("json"):
        import json  # noqa: PLC0415 - 2 ms that a worker never needs

    facts = {
        "pid": os.getpid(),
        "started": time.time(),
        "host": os.uname().nodename,
        "command": " ".join(sys.orig_argv)[:_COMMAND_LIMIT_CHARS],
        "version": VERSION,
    }
    data = json.dumps(facts).encode()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with contextlib.suppress(OSError):
        fd = open_private(name, flags, dir_fd=directory_fd)
        try:
            whole = kernel.write(fd, data) == len(data)
        except OSError:
            whole = False
        finally:
            close_private(fd)
        if not whole:
            kernel.unlink(name, dir_fd=directory_fd)


def read_owner(directory_fd: int, name: str = OWNER_NAME) -> Owner:
    """Read what owner.json, or such a file, says; never raises, whatever lies there."""
    with loading("json"):
        import json  # noqa: PLC0415 - as above

    try:
        facts = json.loads(read_small(name, directory_fd))
    except (OSError, ValueError, RecursionError):
        return Owner()
    if not isinstance(facts, dict):
        return Owner()
    pid, started = facts.get("pid"), facts.get("started")
    host, command = facts.get("host"), facts.get("command")
    return Owner(
        pid=pid if type(pid) is int else None,
        started=started if type(started) is float and math.isfinite(started) else None,
        host=host if isinstance(host, str) else None,
        command=command if isinstance(command, str) else None,
    )


def read_small(name: str, directory_fd: int) -> bytes:
    """Read a small file, whatever has its name; nothing of one that is large, or no file.

    Raises:
        OSError: as `os.open`.
    """
    fd = open_private(name, _READ_FLAGS, dir_fd=directory_fd)
    try:
        status = kernel.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _SIZE_LIMIT_BYTES:
            return b""
        return os.read(fd, _SIZE_LIMIT_BYTES)
    finally:
        close_private(fd)
