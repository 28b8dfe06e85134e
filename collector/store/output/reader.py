"""Read an output like a file: seekable, exact to the last byte or an error.

Runs in:    the process that reads an output, in any thread; each reader is its own.
Owns:       one descriptor (on disk), or a share of the bytes (in memory). Where these have no file
            of their own, once asked for, a copy of them behind a descriptor.
Invariants: I1  a reader gives the output's size in bytes or raises OutputLostError; never fewer.
            I2  a reader that is open goes on working, whatever becomes of the output and its name.
"""

import contextlib
import errno
import io
import mmap
import os
import sys
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, final

from collector.settings import READ_BLOCK_BYTES
from collector.store.output.spill_file import lost_error, write_all
from collector.store.rundir.locks import loading

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

READ_AHEAD_BYTES: Final = 64 * 1024
"""What a buffered reader asks for at once; larger reads go past its buffer."""


def open_file(fd: int, size: int, path: str, *, may_grow: bool = False) -> io.BufferedReader:
    """Read the `size` bytes of the file behind `fd`, which is the reader's from now on.

    Args:
        fd: The file, open.
        size: How many bytes of it are to be read.
        path: Its name.
        may_grow: There may be more; whoever asks for the descriptor gets one that has no more.
    """
    return io.BufferedReader(_FileReader(fd, size, path, may_grow), READ_AHEAD_BYTES)


def open_memory(data: bytes | bytearray) -> io.BufferedReader:
    """Read bytes that are held in memory."""
    return io.BufferedReader(_MemoryReader(data), READ_AHEAD_BYTES)


def iterate_lines(reader: io.BufferedReader, encoding: str, errors: str) -> Iterator[str]:
    """Give the lines of `reader` without their ends, and close it after the last one."""
    return _lines(io.TextIOWrapper(reader, encoding, errors, newline="\n"))


def map_file(fd: int, size: int) -> memoryview:
    """Show the `size` bytes of the file behind `fd` where they are, and close `fd`."""
    try:
        if not size:
            return memoryview(b"")
        if sys.version_info >= (3, 13):  # before, a mapping keeps a descriptor as long as it lives
            mapped = mmap.mmap(fd, size, access=mmap.ACCESS_READ, trackfd=False)
        else:
            mapped = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
        return memoryview(mapped)
    finally:
        os.close(fd)


class _Reader(io.RawIOBase):
    """What both readers have in common: `size` bytes, and a position that the subclass keeps.

    Whoever asks it for `mode` and `name` (requests does, before it sends a length) is told what a
    file opened with "rb" would tell.
    """

    mode: Final = "rb"
    name: str
    _size: int

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        match whence:
            case os.SEEK_SET:
                position = offset
            case os.SEEK_CUR:
                position = self.tell() + offset
            case os.SEEK_END:
                position = self._size + offset
            case _:
                raise ValueError(f"whence must be 0, 1 or 2, not {whence}")
        if position < 0:
            raise ValueError(f"cannot seek to {position}, before the first byte")
        return self._move(position)

    @abstractmethod
    def _move(self, position: int) -> int:
        """Go there; returns where that is."""


@final
class _FileReader(_Reader):
    """Reads through the position of the descriptor itself, as whoever asks for `fileno` expects.

    Of a file that may grow, `fileno` makes a copy without a name: what is behind the descriptor is
    sent, mapped and read to its end.
    """

    def __init__(self, fd: int, size: int, path: str, may_grow: bool) -> None:
        self._fd = fd
        self._size = size
        self.name = path
        self._may_grow = may_grow

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        position = self.tell()
        wanted = memoryview(buffer).cast("B")[: max(0, self._size - position)]
        with self._named():
            taken = os.readv(self._fd, [wanted])
        if not taken and len(wanted):
            raise self._lost(position)
        return taken

    def readall(self) -> bytes:
        # RawIOBase reads 8 KiB at a time.
        pieces = list[bytes]()
        while (left := self._size - (position := self.tell())) > 0:
            with self._named():
                piece = os.read(self._fd, left)
            if not piece:
                raise self._lost(position)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def tell(self) -> int:
        return os.lseek(self._open_fd(), 0, os.SEEK_CUR)

    def fileno(self) -> int:
        if self._may_grow and not self.closed:
            self._leave_file()
        return self._open_fd()

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._fd)

    def _move(self, position: int) -> int:
        return os.lseek(self._open_fd(), position, os.SEEK_SET)

    def _open_fd(self) -> int:
        if self.closed:
            raise ValueError("I/O operation on a closed reader")
        return self._fd

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Name the file where its disk refuses: the system does not say of which one."""
        try:
            yield
        except OSError as error:
            error.filename = self.name
            raise

    def _lost(self, end: int) -> OSError:
        reason = f"its file ends at {end} of {self._size} bytes"
        return lost_error(errno.EIO, reason, self.name)

    def _leave_file(self) -> None:
        position, start = self.tell(), 0
        fd = _unlinked_file()
        try:
            while start < self._size:
                block = os.pread(self._fd, min(READ_BLOCK_BYTES, self._size - start), start)
                if not block:
                    raise self._lost(start)  # noqa: TRY301
                write_all(fd, block)
                start += len(block)
            os.lseek(fd, position, os.SEEK_SET)
        except BaseException:
            os.close(fd)
            raise
        left, self._fd, self._may_grow = self._fd, fd, False
        os.close(left)


@final
class _MemoryReader(_Reader):
    """Reads the bytes where they are; asked for a descriptor, it makes one with a copy of them.

    Its position is that of the descriptor from then on, as of any file: whoever is given the
    descriptor moves the reader, and is moved by it.
    """

    name = "<output in memory>"

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = memoryview(data)
        self._size = len(data)
        self._position = 0
        self._fd = -1

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        position = self.tell()
        part = self._data[position:]
        wanted = memoryview(buffer).cast("B")
        taken = min(len(part), len(wanted))
        wanted[:taken] = part[:taken]
        self._move(position + taken)
        return taken

    def readall(self) -> bytes:
        position = self.tell()
        left = bytes(self._data[position:])
        self._move(position + len(left))
        return left

    def tell(self) -> int:
        return self._position if self._fd < 0 else os.lseek(self._fd, 0, os.SEEK_CUR)

    def fileno(self) -> int:
        if self.closed:
            raise ValueError("I/O operation on a closed reader")
        if self._fd < 0:
            self._fd = _unlinked_copy(self._data, self._position)
        return self._fd

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._data.release()
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)

    def _move(self, position: int) -> int:
        if self._fd >= 0:
            return os.lseek(self._fd, position, os.SEEK_SET)
        self._position = position
        return position


def _lines(reader: io.TextIOWrapper) -> Iterator[str]:
    with reader:
        for line in reader:
            yield line[:-1].removesuffix("\r") if line.endswith("\n") else line


def _unlinked_copy(data: memoryview, position: int) -> int:
    """Copy `data` to a file without a name, in memory where that can be had."""
    try:
        fd = os.memfd_create("collector-output", os.MFD_CLOEXEC)
    except (AttributeError, OSError):  # not Linux, or a sandbox that refuses it
        fd = _unlinked_file()
    try:
        write_all(fd, data)
        os.lseek(fd, position, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _unlinked_file() -> int:
    """Make a file without a name, on disk."""
    with loading("tempfile"):
        import tempfile  # noqa: PLC0415 - 3 ms, also of the start of each process

    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())
