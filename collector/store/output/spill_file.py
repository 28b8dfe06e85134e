"""Own one temporary file in a run directory, from its making until it is removed or handed over.

Runs in:    every process that holds an output on disk.
Owns:       the file's name, its descriptor while it is written, one reference to its directory.
States:     OPEN for writing -> SEALED, each -> REMOVED (`remove`, the last reference, the end of
            the process) or RELEASED (it is somebody else's from then on)
Invariants: I1  the file goes exactly once, and only in the process that owns it: a forked child
                loses the descriptor at once, and its run directory removes nothing there.
            I2  what the garbage collector calls takes no lock of this module.
            I3  a file that others truncate while it is written never gets its old size back by
                itself: it is appended to, so that its size tells at `seal`.
Source:     git's tempfile: a list of active files, the owner's pid with each.
"""

import contextlib
import errno
import fcntl
import os
import struct
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self, final

from collector import interpreter
from collector.errors import SPARE_IT, OutputLostError, spill_error
from collector.settings import DIRECTORY_TRIES, TEMP_FILE_BASE_NAME
from collector.store.output.chunk import Buffer
from collector.store.rundir.directory import RunDirectory, process_run_directory

Identity = tuple[int, ...]
"""Device, inode and its generation, as far as the system tells: the same file, whatever its name.

A file system gives a removed file's inode to another, ext4 at once; that is a new generation of it.
"""

_GET_GENERATION: Final = 2 << 30 | struct.calcsize("l") << 16 | ord("v") << 8 | 1
"""FS_IOC_GETVERSION of `linux/fs.h`."""


@final
class SpillFile:
    """One file of this process in a run directory; it is removed with the last reference to this.

    Args:
        directory: Where it lies; it is retained as long as the file is ours.
        name: Its name there.
    """

    __slots__ = ("__weakref__", "_grip", "_remove")

    def __init__(self, directory: RunDirectory, name: str) -> None:
        directory.retain()
        self._grip = _Grip(directory, name)
        self._remove = weakref.finalize(self, self._grip.remove)
        _owned[self._grip] = self._remove

    @classmethod
    def create(
        cls,
        find: Callable[[], RunDirectory] | None,
        temp_root: str | os.PathLike[str] | None,
        base_name: str = TEMP_FILE_BASE_NAME,
    ) -> Self:
        """Make a new, empty file, open for writing.

        Args:
            find: Finds the run directory that there is now; None for this process's own.
            temp_root: Where that is made.
            base_name: How the file's name begins.

        Raises:
            SpillError: The file or the run directory cannot be made.
        """
        tries = 0
        while True:
            try:
                directory = find() if find else process_run_directory(temp_root)
            except OSError as error:
                raise spill_error(error, error.filename or temp_root or "") from error
            try:
                return cls._create_in(directory, base_name)
            except OSError as error:
                tries += 1
                gone = isinstance(error, FileNotFoundError) or directory.fd < 0
                if not gone or tries == DIRECTORY_TRIES:
                    raise spill_error(error, directory.path) from error
                # Others removed it just now, or another thread let go of it: there is a new one.

    @classmethod
    def _create_in(cls, directory: RunDirectory, base_name: str) -> Self:
        file = cls(directory, "")  # made before the file, which so has an owner at every instant
        try:
            file._grip.fd, file._grip.name = directory.create_file(base_name)
            fcntl.fcntl(file._grip.fd, fcntl.F_SETFL, os.O_APPEND)  # I3
        except BaseException:
            file.remove()
            raise
        return file

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self._grip.path

    @property
    def name(self) -> str:
        """Its name in the run directory."""
        return self._grip.name

    @property
    def directory_fd(self) -> int:
        """Descriptor of the run directory."""
        return self._grip.directory.fd

    @property
    def owned(self) -> bool:
        """Whether this process may move or remove the file."""
        return self._remove.alive and self._grip.owner_pid == os.getpid()

    def device_and_inode(self) -> tuple[int, int]:
        """Tell which file it is, while it is written.

        Raises:
            OutputLostError: The file is no longer ours to write to.
        """
        status = os.fstat(self._fd())
        return status.st_dev, status.st_ino

    def fill(self, *parts: Buffer) -> None:
        """Write all of `parts`, or remove the file at once: what failed takes no room.

        Raises:
            SpillError: They could not be written.
        """
        try:
            for part in parts:
                self.append(part)
        except BaseException as error:
            self.remove()
            if isinstance(error, OSError):
                raise spill_error(error, self.path) from error
            raise

    def append(self, data: Buffer) -> None:
        """Write all of `data` to the end of the file, in as many steps as the system takes.

        Raises:
            OSError: as it came from the system; part of `data` may be in the file, see `cut`.
            OutputLostError: the file is no longer ours to write to.
        """
        write_all(self._fd(), data)

    def cut(self, size: int) -> None:
        """Take off what lies beyond `size` bytes, if that can be done; `seal` finds the rest."""
        with contextlib.suppress(OSError):
            # never the other way: making a file longer that others truncated would hide their doing
            if os.fstat(self._grip.fd).st_size > size:
                os.ftruncate(self._grip.fd, size)

    def seal(self, size: int) -> None:
        """Write no more; make sure that the file holds what was written.

        May be called again if an exception of a signal handler's came behind it.

        Raises:
            OutputLostError: the file has not `size` bytes, or no name any more.
            OSError: the system reports a failed write only now.
        """
        if self._grip.sealed:
            return
        status = os.fstat(self._fd())
        if status.st_nlink == 0:
            reason = f"somebody removed its file while it was written; {SPARE_IT}"
            raise lost_error(errno.ENOENT, reason, self.path)
        if status.st_size != size:
            message = f"its file has {status.st_size} bytes where {size} were written"
            raise lost_error(errno.EIO, message, self.path)
        self._grip.sealed = True  # first: behind the close nobody could tell how that went
        try:
            self._grip.close()
        except OSError:
            self._grip.sealed = False
            raise

    def open(self) -> int:
        """Open the file for reading.

        Returns:
            A descriptor, the caller's to close.

        Raises:
            OSError: as it came from the system.
        """
        return self._grip.directory.open_file(self._grip.name)

    def identity(self) -> Identity:
        """Tell which file the name leads to now.

        Raises no error: if there is no such file, the answer is one that no file has.
        """
        try:
            fd = self.open()
            try:
                return identity_of(fd)
            finally:
                os.close(fd)
        except FileNotFoundError:
            return (0, 0)
        except OSError:  # no descriptor is to be had, or the like
            return self._identity_by_name()

    def _identity_by_name(self) -> Identity:
        try:
            status = os.stat(self.name, dir_fd=self.directory_fd, follow_symlinks=False)
        except OSError:
            return ()
        return status.st_dev, status.st_ino

    def remove(self) -> None:
        """Remove the file now; any number of times."""
        try:
            self._remove()
        except BaseException:
            self._grip.remove()  # a signal handler came in between: nobody else would go on
            raise

    def release(self) -> None:
        """Let the file be somebody else's: it stays, whatever happens to this object."""
        if self._remove.detach() is not None:
            self._grip.let_go()

    def _fd(self) -> int:
        if self._grip.fd < 0:
            raise lost_error(
                errno.ENOENT,
                "its file was removed by cleanup_temp_files(), could not be closed, or belongs to "
                "the process that this one was forked from",
                self.path,
            )
        return self._grip.fd


@final
class _Grip:
    """What a SpillFile holds: an object of its own, for the finalizer of a dead SpillFile."""

    __slots__ = ("directory", "fd", "name", "owner_pid", "sealed")

    def __init__(self, directory: RunDirectory, name: str) -> None:
        self.directory = directory
        self.name = name
        self.fd = -1
        self.sealed = False
        self.owner_pid = os.getpid()

    @property
    def path(self) -> Path:
        return self.directory.path / self.name

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def remove(self) -> None:
        with contextlib.suppress(OSError):  # of a write that failed late: the file goes anyway
            self.close()
        self.directory.remove_file(self.name)
        self.let_go()

    def let_go(self) -> None:
        if _owned.pop(self, None) is not None:
            self.directory.release()


_owned: Final[dict[_Grip, "weakref.finalize[[], SpillFile]"]] = {}


def temp_file_count() -> int:
    """Count the temporary files that this process has on disk, of growing and sealed outputs."""
    return len(_owned)


def names_held() -> set[str]:
    """Return the names that the temporary files of this process have in their run directories."""
    return {grip.name for grip in tuple(_owned)}


def cleanup_temp_files() -> int:
    """Remove all temporary files of this process now; outputs that lie in them are lost.

    Call it at the end of a program that needs none of them any more. Reading such an output later
    raises `OutputLostError`; outputs in memory and saved ones stay.

    Returns:
        How many there were.
    """
    owned = list(_owned.items())
    for grip, remove in owned:
        remove()
        if grip in _owned:  # a signal handler's exception broke off the finalizer, which is dead
            grip.remove()
    return len(owned)


def write_all(fd: int, data: Buffer) -> None:
    """Write all of `data` to `fd`, however little of it the system takes at once.

    Raises:
        OSError: as it came from the system; part of `data` may be written.
    """
    written = os.write(fd, data)
    if written == len(data):
        return
    with memoryview(data) as rest:
        while written < len(rest):
            # The slice has no name: an error keeps this frame and would keep the bytes locked.
            taken = os.write(fd, rest[written:])
            if not taken:
                raise OSError(errno.EIO, "the file system takes no more bytes")
            written += taken


def identity_of(fd: int) -> Identity:
    """Tell which file is open there.

    Raises:
        OSError: as `os.fstat`.
    """
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, *_generation_of(fd)


def _generation_of(fd: int) -> tuple[int, ...]:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # not every file system has one
            return (int.from_bytes(fcntl.ioctl(fd, _GET_GENERATION, bytes(8)), sys.byteorder),)
    return ()


def lost_error(number: int, reason: str, path: str | os.PathLike[str]) -> OutputLostError:
    """Say that an output is lost and why."""
    return OutputLostError(number, f"the output is lost: {reason}", path)


def _disown() -> None:
    """Leave in a forked child everything to the parent."""
    for grip in tuple(_owned):
        with contextlib.suppress(OSError):
            grip.close()
    _owned.clear()


interpreter.in_forked_child(_disown)
