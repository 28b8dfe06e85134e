"""The log of a job whose function writes it itself; there is no file where nothing is written.

Runs in:    the worker.
Owns:       the file until the job's end.
"""

import contextlib
import errno
import os
from typing import final

from collector.errors import CollectorError, SpillError
from collector.process.worker.run_directory import WorkerDirectory
from collector.store.output.spill_file import write_all


@final
class OwnLog:
    """A file in the run directory, made by the first bytes.

    Args:
        directory: Where it is made.
        name: Its name there.
    """

    def __init__(self, directory: WorkerDirectory, name: str) -> None:
        self._directory = directory
        self._name = name
        self._fd: int | None = None
        self._path = name

    def write(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            SpillError: They cannot be kept; then the whole log is dropped.
        """
        try:
            if self._fd is None:
                self._fd = self._open()
            write_all(self._fd, data)
        except OSError as error:
            self._drop()
            message = f"cannot keep what the job writes to stderr: {error.strerror}; make room"
            where = error.filename if isinstance(error, CollectorError) else self._path
            raise SpillError(error.errno or errno.EIO, message, where) from error

    def close(self) -> None:
        """Close the file; any number of times."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        with self._directory.current() as (path, fd):
            self._path = os.path.join(path, self._name)
            return os.open(self._name, flags, 0o600, dir_fd=fd)

    def _drop(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            self._directory.remove_file(self._path)
        self.close()
