"""Send what a job prints to its log: a file in the run directory, on the level of descriptors.

The worker writes the file itself, so that nothing is lost when it is killed, prints of C code and
of subprocesses count, and a process that outlives its job can never print into the log of another
one (docs/decisions/0007-logs.md).

Runs in:    the worker.
Owns:       while a job runs: copies of the worker's own stdout and stderr.
"""

import contextlib
import ctypes
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

_STDOUT: Final = 1
_STDERR: Final = 2
_LINE_BUFFERED: Final = 1


@contextlib.contextmanager
def captured(path: str) -> Iterator[None]:
    """Append to a new file whatever this process and its children print in the meantime.

    Raises:
        OSError: The file cannot be made.
    """
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    _flush()
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, log)
        for fd in (_STDOUT, _STDERR):
            kept = _copy(fd)
            undo.callback(_restore, kept, fd)
            os.dup2(log, fd)
        undo.enter_context(_line_buffered())
        undo.callback(_flush)
        yield


def _copy(fd: int) -> int | None:
    try:
        return os.dup(fd)
    except OSError:
        return None  # closed: it is closed again afterwards


def _restore(kept: int | None, fd: int) -> None:
    if kept is None:
        os.close(fd)
    else:
        os.dup2(kept, fd)
        os.close(kept)


@contextlib.contextmanager
def _line_buffered() -> Iterator[None]:
    """Let each printed line leave the process at once: a killed worker has lost none."""
    libc: Any = ctypes.CDLL(None)
    with contextlib.suppress(ValueError, AttributeError):
        for name in ("stdout", "stderr"):
            libc.setvbuf(ctypes.c_void_p.in_dll(libc, name), None, _LINE_BUFFERED, 0)
    with contextlib.ExitStack() as undo:
        for name, fd in (("stdout", _STDOUT), ("stderr", _STDERR)):
            undo.callback(_lead_to_descriptor(name, fd))
        yield


def _lead_to_descriptor(name: str, fd: int) -> Callable[[], None]:
    """Have `sys.stdout` or `sys.stderr` print each line to the descriptor; returns what undoes it.

    One that is not there (the parent had closed it), that an earlier job closed, or that leads
    elsewhere (a fork of a notebook or of pytest) is replaced.
    """
    before = getattr(sys, name)
    if isinstance(before, io.TextIOWrapper) and _leads_to(before, fd):
        before.reconfigure(line_buffering=True)
        return _nothing
    ours = os.fdopen(fd, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    setattr(sys, name, ours)

    def undo() -> None:
        if getattr(sys, name) is ours:
            setattr(sys, name, before)

    return undo


def _leads_to(stream: io.TextIOWrapper, fd: int) -> bool:
    try:
        return stream.fileno() == fd
    except (ValueError, OSError):  # closed, or without a descriptor
        return False


def _nothing() -> None:
    """It was right as it was."""


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # None, closed, with nowhere to go; or what a job has put there, which can only `write`.
        with contextlib.suppress(Exception):
            stream.flush()
    ctypes.CDLL(None).fflush(None)
