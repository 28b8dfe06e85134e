"""The places where a sealed output can be: held in memory, spilled, saved, or nowhere.

Runs in:    wherever an Output is used, which goes from one place to the next.
Invariants: I1  `open` gives the file that was left there, with all its bytes, or raises.
"""

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import final

from collector.errors import CollectorError, spill_error
from collector.store.spillfile import Identity, SpillFile, lost_error


@final
class Held:
    """The bytes are held here."""

    __slots__ = ("data",)

    path = None

    def __init__(self, data: bytes | bytearray) -> None:
        self.data = data


@final
class Spilled:
    """The bytes are in a file in a run directory, and the file is ours.

    One that may grow is still appended to by somebody: its first bytes are the output.
    """

    __slots__ = ("file", "identity", "may_grow")

    def __init__(self, file: SpillFile, *, may_grow: bool = False) -> None:
        self.file = file
        self.may_grow = may_grow
        self.identity = file.identity()

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    def open(self, size: int) -> int:
        """Open the file and make sure that it is the one that was left here, with `size` bytes."""
        return _checked(self.file.open, self.path, self.identity, size, may_grow=self.may_grow)


@final
class Saved:
    """The bytes are in a file of the user's."""

    __slots__ = ("identity", "path")

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self.identity = identity

    def open(self, size: int) -> int:
        """Open the file, with the same care."""
        return _checked(self._open, self.path, self.identity, size)

    def _open(self) -> int:
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)


@final
class Closed:
    """Nothing is held."""

    __slots__ = ()


Place = Held | Spilled | Saved | Closed


def _checked(
    open_fd: Callable[[], int], path: Path, identity: Identity, size: int, *, may_grow: bool = False
) -> int:
    """Open a file and make sure that it is the one that was left there."""
    try:
        fd = open_fd()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise lost_error(errno.ENOENT, "somebody removed its file", path) from error
    status = os.fstat(fd)
    size_is_right = status.st_size >= size if may_grow else status.st_size == size
    if (status.st_dev, status.st_ino) == identity and size_is_right:
        return fd
    os.close(fd)
    if not size_is_right:
        reason = f"its file has {status.st_size} bytes where {size} were written"
        raise lost_error(errno.EIO, reason, path)
    raise lost_error(errno.ESTALE, "somebody replaced its file", path)


def spill_blocks(
    blocks: Iterable[bytes | bytearray], size: int, temp_root: str | os.PathLike[str] | None
) -> Spilled:
    """Write `size` bytes to a new file of this process.

    Raises:
        SpillError: They cannot be written; no file is left.
    """
    file = SpillFile.create(None, temp_root)
    try:
        for block in blocks:
            file.fill(block)
        file.seal(size)
    except BaseException as error:
        file.remove()
        if isinstance(error, OSError) and not isinstance(error, CollectorError):
            raise spill_error(error, file.path) from error
        raise
    return Spilled(file)
