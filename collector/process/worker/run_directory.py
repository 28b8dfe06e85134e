"""The run directory as a worker has it: when others have taken it away, the parent is asked.

Runs in:    the worker, in any thread of the job.
Owns:       nothing; workers hold no lease.
Invariants: I1  nothing is made by a path: what stands there may be another directory by now, or a
                link. Only the directory that the parent has told of is used, by its descriptor.
"""

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Final, final

from collector import settings
from collector.errors import SPARE_IT, RunDirectoryError
from collector.store.rundir.locks import close_private, open_private
from collector.wire.messages import RunDirectoryAt

_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ESTALE})


@final
class WorkerDirectory:
    """Finds the directory for a new file, log or scratch directory.

    Args:
        at: Where it was when the worker was started.
        ask: Asks the parent where it is now, and waits for the answer.
    """

    def __init__(self, at: RunDirectoryAt, ask: Callable[[], RunDirectoryAt]) -> None:
        self._at = at
        self._ask = ask
        self._lock = threading.RLock()  # a signal handler may come while its own thread holds it
        self._errno: int = errno.ENOENT

    def disown(self) -> None:
        """In a process that a job forked: another thread may have held the lock at the fork."""
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def current(self) -> Iterator[tuple[str, int]]:
        """Open the one to make files in; gives its path and a descriptor for the block.

        Raises:
            RunDirectoryError: There is none.
            OSError: No descriptor is to be had.
        """
        path, fd = self._find()
        try:
            yield path, fd
        finally:
            close_private(fd, locked=False)

    def is_at(self, path: str) -> bool:
        """Tell whether the run directory of that path is still the one to make files in."""
        fd = self._open() if path == self._at.path else None
        if fd is not None:
            close_private(fd, locked=False)
        return fd is not None

    def unnamed_file(self, beside: str) -> int | None:
        """Open a new file without a name in the directory of that file; None where none can be."""
        with contextlib.suppress(OSError, AttributeError):
            fd = self._open() if os.path.dirname(beside) == self._at.path else None
            if fd is not None:
                flags = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
                try:
                    return os.open(".", flags, 0o600, dir_fd=fd)
                finally:
                    close_private(fd, locked=False)
        return None

    def remove_file(self, path: str) -> None:
        """Remove a file of the run directory, if that is still in place; never raises."""
        place, name = os.path.split(path)
        with contextlib.suppress(OSError):
            fd = self._open() if place == self._at.path else None
            if fd is not None:
                try:
                    os.unlink(name, dir_fd=fd)
                finally:
                    close_private(fd, locked=False)

    def _find(self) -> tuple[str, int]:
        with self._lock:
            for _ in range(settings.DIRECTORY_TRIES):
                fd = self._open()
                if fd is not None:
                    return self._at.path, fd
                answer = self._ask()
                if answer.error:
                    raise RunDirectoryError(answer.error_number, answer.error, answer.path)
                self._at = answer
            fd = self._open()
            if fd is not None:
                return self._at.path, fd
        why = f"{os.strerror(self._errno)}, for each new one too; {SPARE_IT}"
        raise RunDirectoryError(self._errno, f"cannot use the run directory: {why}", self._at.path)

    def _open(self) -> int | None:
        """Open the directory that the parent has told of; None if it is not there any more."""
        try:
            fd = open_private(self._at.path)
        except OSError as error:
            if error.errno in _GONE:
                self._errno = error.errno or errno.ENOENT
                return None
            raise
        status = os.fstat(fd)
        usable = status.st_mode & stat.S_IRWXU == stat.S_IRWXU
        if usable and f"{status.st_dev}:{status.st_ino}" == self._at.identity:
            return fd
        close_private(fd, locked=False)
        return None
