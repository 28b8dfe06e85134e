"""A pipe into a job's output, for what writes to a descriptor: subprocesses, C code.

One thread of ours reads it and hands on what has come as chunks of the job. Before the job writes
a chunk itself, that thread takes what is in the pipe: so the output of a program that has ended, or
of C code that has returned, stands before the chunk.

Runs in:    the worker, while a job runs that asked for a descriptor.
Owns:       both ends of the pipe, and the descriptor that the job was given, until the job's end;
            a second pipe, to wake our thread.
Invariants: I1  only our thread reads, where no signal handler runs, and nobody else takes a lock
                that it needs: an exception of a handler loses nothing and stops nothing.
            I2  `end` waits for what is in the pipe at that moment and for nothing else: not for a
                process that keeps its end open, nor for one that writes without end.
            I3  after `end` both of our ends are closed: whoever writes later gets EPIPE.
            I4  a descriptor that others closed is not used: its number may be a file of theirs.
                Ours have high numbers.
"""

import contextlib
import errno
import fcntl
import os
import select
import struct
import termios
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, final

from collector import settings
from collector.errors import EXIT_BROKEN_OFF, ClosedError
from collector.process.queue.held import out_of_the_way

_INT: Final = struct.Struct("i")
_BEHIND_STDERR: Final = 3
"""The lowest number for the job's: what it prints after it has closed stdout is no output."""


@final
class JobPipe:
    """A pipe whose bytes go to `put`, in pieces as they come.

    Args:
        put: Takes each piece; in our thread, and one at a time.
        is_publishing: Whether the calling thread is in the midst of what `put` does.

    Raises:
        OSError: No descriptors are to be had.
        RuntimeError: No thread is.
    """

    def __init__(self, put: Callable[[bytes], None], is_publishing: Callable[[], bool]) -> None:
        self._put = put
        self._is_publishing = is_publishing
        self._given: int | None = None
        self._over = self._lost = self._busy = False
        self._asked: deque[threading.Lock] = deque()
        self._thread = threading.Thread(target=self._pump, name="collector-pipe", daemon=True)
        with contextlib.ExitStack() as undo:
            self._read, self._write = _pipe(undo)
            self._wake_r, self._wake_w = _pipe(undo)
            self._inodes = {_inode(self._read), _inode(self._wake_r)}
            _enlarge(self._read)
            self._thread.start()
            undo.pop_all()

    def fileno(self) -> int:
        """Return the descriptor to write to; a new one if somebody closed the last.

        Raises:
            OSError: Somebody closed our end of the pipe, or no descriptor is to be had.
        """
        if self._given is None or not self._is_ours(self._given):
            if not self._is_ours(self._write):
                raise _lost_error()
            self._given = fcntl.fcntl(self._write, fcntl.F_DUPFD_CLOEXEC, _BEHIND_STDERR)
        return self._given

    def settle(self) -> None:
        """Wait until what is in the pipe now has been taken."""
        if threading.get_ident() == self._thread.ident or self._is_publishing():
            return  # of a finalizer or of a signal handler: it would wait for itself
        if self._is_settled():
            return
        taken = threading.Lock()
        taken.acquire()
        self._asked.append(taken)
        if not self._is_settled():  # else our thread may sleep by now, and wake nobody
            taken.acquire()

    def end(self) -> None:
        """Take what is in the pipe now, then nothing more.

        Raises:
            OSError: Somebody closed our end of the pipe: what was in it is lost.
        """
        try:
            self.settle()
        finally:
            self._over = True
            if self._is_ours(self._wake_w):
                os.write(self._wake_w, b"\0")
                self._thread.join()
            self._close(self._wake_r, self._wake_w, self._read, self._write)
            if self._given is not None:
                self._close(self._given)
        if self._lost:
            raise _lost_error()

    def disown(self) -> None:
        """In a process that the job forked: keep what the job was given, close what is ours."""
        self._over = True
        self._close(self._wake_r, self._wake_w, self._read, self._write)

    def _is_settled(self) -> bool:
        # In this order: our thread is busy from before it reads until what it read is handed on.
        return self._over or (not self._bytes_here() and not self._busy) or self._lost

    def _bytes_here(self) -> int:
        if not self._is_ours(self._read):
            self._lost = True
            return 0
        here: int
        (here,) = _INT.unpack(fcntl.ioctl(self._read, termios.FIONREAD, bytes(_INT.size)))
        return here

    def _pump(self) -> None:
        poller = select.poll()
        poller.register(self._read, select.POLLIN)
        poller.register(self._wake_r, select.POLLIN)
        try:
            while not self._lost:
                ready = dict(poller.poll())
                if self._over:
                    break
                # Woken before the end, or by an end without bytes: somebody has closed our ends.
                self._lost = self._wake_r in ready or not ready[self._read] & select.POLLIN
                self._take()
                while self._asked:
                    self._take()
        except ClosedError:
            pass  # `end` was broken off by a signal handler, and the job is over
        except BaseException:  # noqa: BLE001 - for want of memory: the job must not go on without it
            os._exit(EXIT_BROKEN_OFF)
        self._over = True
        while self._asked:
            self._asked.popleft().release()

    def _take(self) -> None:
        """Hand on what is in the pipe now, then release those who had asked for that before."""
        asked = [self._asked.popleft() for _ in range(len(self._asked))]
        self._busy = True
        try:
            here = self._bytes_here()
            while here > 0:
                piece = os.read(self._read, min(here, settings.JOB_PIPE_BYTES))
                self._put(piece)
                here -= len(piece)
            self._busy = False
        finally:
            for taken in asked:
                taken.release()

    def _close(self, *descriptors: int) -> None:
        for fd in descriptors:
            if self._is_ours(fd):
                os.close(fd)

    def _is_ours(self, fd: int) -> bool:
        return _inode(fd) in self._inodes


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    reading, writing = map(out_of_the_way, os.pipe())
    for fd in (reading, writing):
        undo.callback(os.close, fd)
    return reading, writing


def _inode(fd: int) -> tuple[int, int] | None:
    """Tell which file a descriptor leads to; None if it is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _enlarge(fd: int) -> None:
    # Not Linux, or this user has too many large ones: it holds less.
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, settings.JOB_PIPE_BYTES)


def _lost_error() -> OSError:
    return OSError(
        errno.EBADF,
        "the job closed descriptors that were not its own, among them our end of the pipe behind "
        "current_job().fileno(): what comes by it is not complete",
    )
