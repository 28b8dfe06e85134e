"""Writes to the user's stderr from a thread of ours, without being caught by what is wrong with it.

Runs in:    the drawing thread of the parent.
Owns:       nothing: the stream is the user's; but of a terminal a descriptor of its own.
Invariants: I1  what was begun is finished before anything else is written.
            I2  a stream that is closed, broken, full for too long or replaced by another file is
                given up, once and for all, without a word.
"""

import contextlib
import os
import select
import stat
import time
import weakref
from typing import Final, TextIO, final

from collector import settings

_LOOK_S: Final = 1.0
"""So often who waits for room looks whether it is to wait on."""


@final
class Outlet:
    """A place to write whole texts to.

    Args:
        stream: Usually `sys.stderr`. If it has a descriptor, that is written to, past its buffer:
            a text is one system call then.
        patience_s: How long a text may wait for room; None for as long as it takes. It may be
            changed while a text waits.
        keeps: Write there also when the stream's descriptor is closed or leads elsewhere meanwhile:
            a terminal has to be given back.
    """

    def __init__(self, stream: TextIO, patience_s: float | None, *, keeps: bool = False) -> None:
        self._stream = stream
        self.patience_s = patience_s
        self._encoding: Final = getattr(stream, "encoding", None) or "utf-8"
        self._fd = descriptor_of(stream)
        if keeps and self._fd is not None:
            with contextlib.suppress(OSError):  # none is to be had
                self._fd = os.dup(self._fd)
                weakref.finalize(self, os.close, self._fd).atexit = False
        self._file: tuple[int, int] | None = None
        if self._fd is not None:
            with contextlib.suppress(OSError):  # it is closed, which the first text finds out
                self._file = _identity(self._fd)
        self.is_terminal: Final = self._fd is not None and os.isatty(self._fd)
        self.coloured: Final = self.is_terminal and not os.environ.get("NO_COLOR")
        self._most = None if self._fd is None else _most_at_once(self._fd)
        self.gone = False

    def size(self) -> os.terminal_size:
        """Return columns and lines of the terminal; 80 and 0 where they are not known."""
        columns = lines = 0
        if self._fd is not None and not self.gone:
            try:
                columns, lines = os.get_terminal_size(self._fd)
            except OSError:  # no terminal
                columns = lines = 0
        return os.terminal_size((columns or settings.TERMINAL_COLUMNS, lines))

    def write(self, text: str, *, wait: bool = True) -> bool:
        """Write a text; tell whether it was written.

        Args:
            text: Whole lines, or a whole picture.
            wait: Wait for room; otherwise the text is dropped if there is none.
        """
        if self.gone:
            return False
        try:
            if self._fd is None:
                self._stream.write(text)
                self._stream.flush()
                return True
            return self._write(self._fd, text.encode(self._encoding, "replace"), wait=wait)
        except (OSError, ValueError):  # ValueError: a closed stream
            self.gone = True
            return False

    def _write(self, fd: int, data: bytes, *, wait: bool) -> bool:
        if _identity(fd) != self._file:
            self.gone = True
            return False
        if not wait and not has_room(fd, 0.0):
            return False
        begun_s = time.monotonic()
        while data:
            if has_room(fd, _LOOK_S if self.patience_s is None else self.patience_s):
                data = data[_write_some(fd, data[: self._most]) :]
            elif is_over(begun_s, self.patience_s):
                self.gone = True
                return False
        return True


def has_room(fd: int, wait_s: float) -> bool:
    """Tell whether a descriptor takes more, or takes it within so long, of which a second is tried.

    A handler of a signal that comes meanwhile has run when this returns.
    """
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(1000 * min(wait_s, _LOOK_S)))


def is_over(begun_s: float, patience_s: float | None) -> bool:
    """Tell whether what has begun then, by the monotonic clock, has been waited for so long."""
    return patience_s is not None and time.monotonic() >= begun_s + patience_s


def open_anew(path: str | os.PathLike[str]) -> int:
    """Open a file for lines of ours, in the place of what is in it.

    Where it is a file that stdout or stderr leads to (`/dev/stderr`), what stands there stays, and
    the lines come in turn with what is written there.

    Raises:
        OSError: It cannot be opened.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        for standard in (1, 2):
            with contextlib.suppress(OSError):  # it is closed
                if _identity(standard) == _identity(fd):
                    os.dup2(standard, fd, inheritable=False)
                    return fd
        os.ftruncate(fd, 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def cut_short(fd: int, taken_bytes: int) -> None:
    """Take off a file again what it took of a line that it did not take whole; never raises.

    What others have appended since stays, and then so does the piece.
    """
    with contextlib.suppress(OSError):  # a FIFO, or a disk that refuses this too
        end = os.lseek(fd, 0, os.SEEK_CUR)
        status = os.fstat(fd)
        if taken_bytes and stat.S_ISREG(status.st_mode) and status.st_size == end:
            os.ftruncate(fd, end - taken_bytes)
            os.lseek(fd, -taken_bytes, os.SEEK_CUR)


def reader_folds() -> bool:
    """Tell whether GitHub Actions reads what is written: it folds groups, and obeys commands."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def descriptor_of(stream: TextIO) -> int | None:
    """Return the descriptor of a stream, if it has one; what stands for one may say anything."""
    try:
        fd: object = stream.fileno()
    except Exception:  # noqa: BLE001 - code of whoever has replaced stderr
        return None
    return fd if isinstance(fd, int) and fd >= 0 else None


def _write_some(fd: int, data: bytes) -> int:
    try:
        return os.write(fd, data)
    except BlockingIOError:  # somebody made it non-blocking, and it has less room than that
        return 0


def _most_at_once(fd: int) -> int | None:
    """Return how many bytes a pipe that has room takes at once; None for what is no pipe."""
    try:
        return select.PIPE_BUF if stat.S_ISFIFO(os.fstat(fd).st_mode) else None
    except OSError:  # as above
        return None


def _identity(fd: int) -> tuple[int, int]:
    state = os.fstat(fd)
    return state.st_dev, state.st_ino
