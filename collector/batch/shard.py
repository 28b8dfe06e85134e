"""One shard of a batch directory, as it is read: its journal, packs and files.

Runs in:    any process that reads or writes a batch.
Owns:       descriptors of the shard, its journal, and the packs that were read, if it keeps any.
Invariants: I1  what is read is as long as its line says, or an OutputLostError says why not.
            I2  nothing is opened by a name that leads out of the shard, and no link is followed,
                but for the names that the user gave saved files.
"""

import contextlib
import errno
import os
import re
import stat
import threading
import weakref
from collections.abc import Iterator
from typing import Final, final

from collector.batch.directory import SHARD_PREFIX, BatchDirectory, open_plain, refused
from collector.batch.lines import Filed, Packed, Place, Saved
from collector.batch.scan import missing
from collector.errors import BatchError, ClosedError, OutputLostError
from collector.settings import READ_BLOCK_BYTES
from collector.store.absolute import absolute_path
from collector.store.output.output import Output, saved_output
from collector.store.rundir.locks import (
    DIRECTORY_FLAGS,
    close_at_home,
    close_private,
    open_private,
)

JOURNAL_NAME: Final = "journal.jsonl"
FILES_NAME: Final = "files"
RUN_NAME: Final = "run"
PLACE: Final = re.compile(r"[0-9a-f]{2}")
"""A directory for files, in that of all files."""


def pack_name(pack: int) -> str:
    """Return the name of a pack's file."""
    return f"pack-{pack:06}"


@final
class Shard:
    """One shard, open for reading.

    Args:
        directory: In which it lies.
        name: Its name, without the prefix.
        keeps: Hold descriptors; else each is opened when it is needed, and closed at once.

    Attributes:
        fd: Descriptor of its directory, if it keeps one.

    Raises:
        BatchError: It cannot be opened.
    """

    def __init__(self, directory: BatchDirectory, name: str, *, keeps: bool = True) -> None:
        self.name = name
        self.path = os.path.join(directory.path, f"{SHARD_PREFIX}{name}")
        self.fd = -1
        self._directory = directory
        self._base = directory.base
        self._is_closed = False
        self._sizes: dict[int, int] = {}
        self._no_links: set[str] = set()
        self._fds: dict[str, int] = {}
        self._opening = threading.Lock()
        self._pid = os.getpid()
        self._close = weakref.finalize(self, _close_all, self._pid, self._fds)
        if keeps:
            self.keep()
        else:
            close_private(self._open_directory(), locked=False)

    def keep(self) -> None:
        """Hold descriptors from now on.

        Raises:
            BatchError: It cannot be opened.
        """
        if self.fd < 0:
            self.fd = self._fds[""] = self._open_directory()

    def close(self) -> None:
        """Let go of all descriptors, as the last reference does; any number of times."""
        self._close()
        self._is_closed = True
        self.fd = -1

    @contextlib.contextmanager
    def directory_fd(self) -> Iterator[int]:
        """Give a descriptor of its directory, which may be closed behind the block.

        Raises:
            BatchError: It cannot be opened.
            ClosedError: It is closed.
        """
        fd = self._held()
        if fd >= 0:
            yield fd
            return
        fd = self._open_directory()
        try:
            yield fd
        finally:
            close_private(fd, locked=False)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """Give a descriptor of one of its files, which may be closed behind the block.

        Raises:
            FileNotFoundError: There is none.
            BatchError: It cannot be opened.
            ClosedError: It is closed.
        """
        if self._held() >= 0:
            yield self._open(name)
            return
        with self.directory_fd() as directory_fd:
            fd = self._opened_in(directory_fd, name)
        try:
            yield fd
        finally:
            close_private(fd, locked=False)

    def journal_size(self) -> int:
        """Return how long the journal is by now; 0 if there is none."""
        with contextlib.suppress(FileNotFoundError), self.opened(JOURNAL_NAME) as fd:
            return os.fstat(fd).st_size
        return 0

    def line(self, at: int) -> bytes:
        """Return the line that begins there; b"" if there is none.

        Raises:
            BatchError: It cannot be read.
        """
        size = 4096
        while True:
            try:
                with self.opened(JOURNAL_NAME) as journal:
                    data = os.pread(journal, size, at)
            except FileNotFoundError:
                return b""
            except OSError as error:
                raise refused(error, os.path.join(self.path, JOURNAL_NAME)) from error
            line, end, _ = data.partition(b"\n")
            if end or len(data) < size:
                return line + end
            size *= 4

    def lines(self, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the lines of the journal with their ends; several may read at once.

        Args:
            begin: Where the first one begins.
            end: Where to stop; None for the end of the journal.
        """
        at, rest = begin, b""
        while end is None or at < end:
            size = READ_BLOCK_BYTES if end is None else min(READ_BLOCK_BYTES, end - at)
            data = b""
            with contextlib.suppress(FileNotFoundError), self.opened(JOURNAL_NAME) as journal:
                data = os.pread(journal, size, at)
            if not data:
                break
            at += len(data)
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                yield line + b"\n"
        if rest:
            yield rest

    def packs(self) -> list[int]:
        """Return the numbers of all packs.

        Raises:
            BatchError: They cannot be told.
        """
        found = []
        try:
            with self.directory_fd() as directory_fd:
                names = os.listdir(directory_fd)
        except OSError as error:
            raise refused(error, self.path) from error
        for name in names:
            number = name.removeprefix("pack-")
            if number.isdecimal() and number != name and pack_name(int(number)) == name:
                found.append(int(number))
        return sorted(found)

    def pack_size(self, pack: int, least: int) -> int:
        """Return the size of a pack, or -1; looks again if it was less than `least`."""
        size = self._sizes.get(pack, -1)
        if size < least:
            with self.directory_fd() as directory_fd:
                size = self._sizes[pack] = self._size_of(pack_name(pack), directory_fd)
        return size

    def missing(self, place: Place) -> str:
        """Say what is not there of a file; "" if all is."""
        match place:
            case Filed(name, size):
                what = os.path.join(FILES_NAME, name)
                with self.directory_fd() as directory_fd:
                    inside = self._is_inside(name, directory_fd)
                    found = self._size_of(what, directory_fd) if inside else -1
            case Saved(path, size):
                found, what = self._size_of(self.saved_path(path), None), path
            case _:
                return missing(place, self)
        if found < 0:
            return f"{what} is gone, or no plain file"
        return "" if found == size else f"{what} has {found} bytes where {size} were written"

    def saved_path(self, path: str) -> str:
        """Return where a saved file is, of which the journal may have a relative name."""
        return os.path.join(self._base, path)

    def read(self, place: Place | None) -> bytes:
        """Return all bytes of a place.

        Raises:
            OutputLostError: They are not all there.
        """
        if place is None:
            return b""
        if isinstance(place, Packed):
            return self._read_pack(place)
        output = self.output(place, complete=True)
        return output.read()

    def output(self, place: Place | None, *, complete: bool) -> Output:
        """Return the output that lies in a place.

        Raises:
            OutputLostError: It is not all there.
        """
        if place is None:
            return Output.in_memory(b"", chunks=0, complete=complete)
        if isinstance(place, Packed):
            return Output.in_memory(self._read_pack(place), chunks=1, complete=complete)
        reason = self.missing(place)
        path = self._path_of(place)
        if reason:
            raise OutputLostError(errno.ENOENT, f"the output is lost: {reason}", path)
        return saved_output(path, place.size, complete=complete)

    def _path_of(self, place: Filed | Saved) -> str:
        if isinstance(place, Saved):
            return absolute_path(self.saved_path(place.path))
        return os.path.join(self.path, FILES_NAME, place.name)

    def _read_pack(self, place: Packed) -> bytes:
        data, name = b"", pack_name(place.pack)
        reason = f"{name} cannot be read to its end"
        try:
            with self.opened(name) as pack:
                if place.at + place.size <= os.fstat(pack).st_size:  # else no room is made for it
                    data = os.pread(pack, place.size, place.at)
        except FileNotFoundError:
            pass
        except BatchError:
            if not missing(place, self):  # it is there, and cannot be opened: the error says why
                raise
        except OSError as error:
            reason = f"{name} cannot be read: {error.strerror}"
        if len(data) != place.size:
            reason = missing(place, self) or reason
            path = os.path.join(self.path, name)
            raise OutputLostError(errno.EIO, f"the output is lost: {reason}", path)
        return data

    def _held(self) -> int:
        """Return the descriptor of its directory, or -1 if it keeps none."""
        if self._is_closed:
            raise ClosedError("this batch is closed; read its records before close()")
        if os.getpid() != self._pid:
            raise ClosedError("this batch was opened before a fork: open it in this process")
        return self.fd

    def _open_directory(self) -> int:
        name = f"{SHARD_PREFIX}{self.name}"
        try:
            return open_private(name, DIRECTORY_FLAGS, dir_fd=self._directory.fd)
        except OSError as error:
            raise refused(error, self.path) from error

    def _open(self, name: str) -> int:
        """Open a file of the shard, once."""
        with self._opening:
            if name not in self._fds:
                self._fds[name] = self._opened_in(self._held(), name)
            return self._fds[name]

    def _opened_in(self, directory_fd: int, name: str) -> int:
        try:
            return open_plain(directory_fd, name)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise refused(error, os.path.join(self.path, name)) from error

    def _is_inside(self, name: str, directory_fd: int) -> bool:
        """Tell whether a file's directory is one, and no link to one."""
        place = os.path.dirname(name)
        if place not in self._no_links:
            try:
                for part in (FILES_NAME, os.path.join(FILES_NAME, place)):
                    if not stat.S_ISDIR(
                        os.stat(part, dir_fd=directory_fd, follow_symlinks=False).st_mode
                    ):
                        return False
            except OSError:
                return False
            self._no_links.add(place)
        return True

    def _size_of(self, name: str, directory_fd: int | None) -> int:
        """Return the size of a plain file, or -1."""
        follow = directory_fd is None  # a user may have put a link in the place of a saved file
        try:
            status = os.stat(name, dir_fd=directory_fd, follow_symlinks=follow)
        except (OSError, ValueError):
            return -1
        return status.st_size if stat.S_ISREG(status.st_mode) else -1


def _close_all(pid: int, fds: dict[str, int]) -> None:
    while fds:
        close_at_home(pid, fds.popitem()[1])
