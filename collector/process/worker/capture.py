"""Send what a job prints to its log: a file in the run directory, on the level of descriptors.

The worker writes the file itself, so that nothing is lost when it is killed, prints of C code and
of subprocesses count, and a process that outlives its job can never print into the log of another
one (docs/decisions/0007-logs.md).

Runs in:    the worker.
Owns:       while a job runs: the file, and copies of the worker's own stdout and stderr.
Invariants: I1  a job that closes or replaces one of these fails with its worker: else what later
                jobs print would be in a file of that job's.
            I2  nothing is imported once the job has begun: it may have changed its root, or have
                left no descriptor for that.
            I3  nothing that was printed before the job began, or by it, gets into another log.
"""

import contextlib
import ctypes
import errno
import functools
import io
import os
import resource  # not later: a job may have shut itself in, where nothing can be imported
import sys
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, Final, final

from collector import settings
from collector.errors import SPARE_IT, CollectorError, OutputLostError, SpillError
from collector.process.queue.held import Held
from collector.process.worker.run_directory import WorkerDirectory
from collector.store.output.spill_file import write_all

_STDOUT: Final = 1
_STDERR: Final = 2
_LINE_BUFFERED: Final = 1
_KEEP_SIZE: Final = 1
"""FALLOC_FL_KEEP_SIZE of `linux/falloc.h`."""

_PAGE_BYTES: Final = 4096
"""A file system takes a write in steps of this size, each whole or not at all."""

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


@final
class Captured:
    """Appends to a new file whatever this process and its children print in the meantime.

    Args:
        directory: Where the file is made.
        name: Its name there.
        stdout: Where stdout leads instead; None for the file, too.

    No generator stands around the job: one would set an attribute of the exception that passes it,
    which some exceptions forbid.

    Raises:
        SpillError: The file cannot be made, or did not take all that was printed; it is dropped.
        OutputLostError: Others have removed it.
    """

    def __init__(self, directory: WorkerDirectory, name: str, stdout: int | None = None) -> None:
        self._log = _Log(directory, name)
        self._stdout = self._log.file.fd if stdout is None else stdout
        self._led = contextlib.ExitStack()

    def __enter__(self) -> None:
        try:
            self._led = _led_to(self._log, self._stdout)
        except OSError as error:
            self._log.drop()
            self._log.file.close()
            raise self._log.error(error) from error
        except BaseException:
            self._log.file.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        log = self._log
        try:
            self._led.close()
            if log.failure is not None and (error is None or _is_refusal(error)):
                log.drop()
                raise log.failure from error
        finally:
            log.file.close()


def _is_refusal(error: BaseException | None) -> bool:
    """Whether this is what the job was told by the disk."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


@final
class _Log:
    """The file, and whether it has taken all that was printed.

    A program whose write is refused may ignore that. But a disk that has refused a byte refuses the
    next one too, so one more is tried at the end: in a file without a name where the disk had room
    when the job began, and in the log itself if that is refused, or if there was little room.

    Args:
        directory: Where it is made.
        name: Its name there.
    """

    def __init__(self, directory: WorkerDirectory, name: str) -> None:
        self.failure: SpillError | OutputLostError | None = None
        self._directory = directory
        self._name = name
        self.path = name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            with directory.current() as (path, fd):
                self.path = os.path.join(path, name)
                self.file = Held(os.open(name, flags, 0o600, dir_fd=fd))
        except OSError as error:
            raise self.error(error) from error
        try:
            self._reserves = not _is_roomy(self.file.fd)
            if self._reserves:  # else nobody could tell whether the first byte was refused
                _reserve(self.file.fd, 0)
        except OSError as error:
            self.drop()
            self.file.close()
            raise self.error(error) from error

    def judge(self, flushed: OSError | None) -> None:
        """Find out whether all is there, when all has been flushed, or could not be."""
        status = os.fstat(self.file.check())
        if not status.st_nlink:
            self.failure = OutputLostError(
                errno.ENOENT,
                "what the job printed is lost: something else than collector removed the file of "
                f"its log; {SPARE_IT}",
                self.path,
            )
            return
        refusal = self._refusal(status.st_size)
        if refusal is None and _is_refusal(flushed):
            again = _flush()  # there is room again
            refusal = again if _is_refusal(again) else None
        if refusal is not None:
            self.failure = self.error(refusal)

    def drop(self) -> None:
        """Remove the file: what failed takes no room."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.file.fd, 0)
        self._directory.remove_file(self.path)

    def error(self, error: OSError) -> SpillError:
        """Say why what is printed cannot be kept."""
        message = f"cannot keep what the job prints: {error.strerror}; make room, or print less"
        where = error.filename if isinstance(error, CollectorError) else self.path
        return SpillError(error.errno or errno.EIO, message, where)

    def _refusal(self, size: int) -> OSError | None:
        """Return the error with which the next byte would be refused; None if it would be taken."""
        fd = self.file.fd
        try:
            if not self._reserves:
                if self._takes_a_page():
                    return _limit(size)
                os.fdatasync(fd)  # what it has got is its own now, and reserved already
            if _reserve(fd, size):
                return _limit(size)
            try:
                write_all(fd, bytes(_PAGE_BYTES - size % _PAGE_BYTES))
            finally:
                os.ftruncate(fd, size)
        except OSError as error:
            return error
        return None

    def _takes_a_page(self) -> bool:
        """Whether the disk takes one page more, in another file, of which it never has to know.

        A page that is reserved is known to it: on ext4 that took longer than all else of a job.
        """
        fd = self._directory.unnamed_file(self.path)
        if fd is None:
            return False
        try:
            return os.write(fd, bytes(_PAGE_BYTES)) == _PAGE_BYTES
        except OSError:
            return False
        finally:
            os.close(fd)


def _limit(size: int) -> OSError | None:
    """Return the error of the next byte where the process may make no larger files."""
    if 0 <= resource.getrlimit(resource.RLIMIT_FSIZE)[0] <= size:
        return OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return None


def _is_roomy(fd: int) -> bool:
    """Whether its disk has so much room that what is free is not looked for page by page."""
    status = os.fstatvfs(fd)
    return status.f_bavail * status.f_frsize >= settings.LOG_ROOM_BYTES


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _reserve(fd: int, size: int) -> bool:
    """Reserve room for what comes next, to the end of its page.

    Returns:
        False if the file system or the operating system cannot do that.

    Raises:
        OSError: There is no room.
    """
    fallocate = getattr(_libc(), "fallocate", None)
    if fallocate is None:
        return False
    start, length = ctypes.c_long(size), ctypes.c_long(_PAGE_BYTES - size % _PAGE_BYTES)
    if not fallocate(fd, _KEEP_SIZE, start, length):
        return True
    number = ctypes.get_errno()
    if number in _NO_ROOM:
        raise OSError(number, os.strerror(number))
    return False


def _led_to(log: _Log, stdout: int) -> contextlib.ExitStack:
    """Lead stderr to the log, and stdout to that descriptor; closing the result undoes it."""
    refused = _flush()
    with contextlib.ExitStack() as undo:
        for fd in (_STDOUT, _STDERR):
            kept = Held(fd, copy=True)
            undo.callback(_restore, kept, fd)
        if refused is not None:
            _drain()
        for fd, to in ((_STDOUT, stdout), (_STDERR, log.file.fd)):
            os.dup2(to, fd)
        _buffer_lines(undo)
        undo.callback(_finish, log)
        return undo.pop_all()


def _finish(log: _Log) -> None:
    """Flush; what is refused then must not get into the log of the next job."""
    refused = _flush()
    log.judge(refused)
    if log.failure is not None or refused is not None:
        _drain()


def _drain() -> None:
    """Let what cannot be flushed go nowhere."""
    nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    for fd in (_STDOUT, _STDERR):
        os.dup2(nothing, fd)
    os.close(nothing)
    _flush()


def _restore(kept: Held, fd: int) -> None:
    os.dup2(kept.check(), fd)
    os.close(kept.fd)  # it was ours a moment ago


def _buffer_lines(undo: contextlib.ExitStack) -> None:
    """Let each printed line leave the process at once: a killed worker has lost none."""
    libc = _libc()
    with contextlib.suppress(ValueError, AttributeError):
        for name in ("stdout", "stderr"):
            libc.setvbuf(ctypes.c_void_p.in_dll(libc, name), None, _LINE_BUFFERED, 0)
    for name, fd in (("stdout", _STDOUT), ("stderr", _STDERR)):
        undo.callback(_lead_to_descriptor(name, fd))


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


def _leads_to(stream: IO[str], fd: int) -> bool:
    try:
        return stream.fileno() == fd
    except (ValueError, OSError):  # closed, or without a descriptor
        return False


def _nothing() -> None:
    """It was right as it was."""


def _flush() -> OSError | None:
    """Flush the streams of Python and of C; return the error of what could not be."""
    refused = None
    for stream, fd in ((sys.stdout, _STDOUT), (sys.stderr, _STDERR)):
        # None, closed, with nowhere to go; or what a job has put there, which can only `write`.
        try:
            stream.flush()
        except OSError as error:
            if _leads_to(stream, fd) and not _is_refusal(refused):
                refused = error
        except Exception:  # noqa: BLE001, S112 - as above: nothing of the job's prints is in there
            continue
    if _libc().fflush(None) and refused is None:
        refused = OSError()  # nobody says why, nor which stream of C it was
    return refused
