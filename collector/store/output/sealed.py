"""The places where a sealed output can be: held in memory, spilled, saved, or nowhere.

Runs in:    wherever an Output is used, which goes from one place to the next.
Invariants: I1  `open` gives the file that was left there, with all its bytes, or raises.
"""

import errno
import io
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Final, final

from collector.errors import SPARE_IT, CollectorError, spill_error
from collector.store.output.digest import digest_of
from collector.store.output.reader import map_file, open_file, open_memory
from collector.store.output.spill_file import Identity, SpillFile, identity_of, lost_error


@final
class Held:
    """The bytes are held here."""

    __slots__ = ("data",)

    path = None

    def __init__(self, data: bytes | bytearray) -> None:
        self.data = data

    def reader(self) -> io.BufferedReader:
        """Open them for reading."""
        return open_memory(self.data)

    def view(self) -> memoryview:
        """Show them where they are."""
        return memoryview(self.data).toreadonly()


NOTHING: Final = Held(b"")
"""What most jobs write: one for all of them."""


class _OnDisk(ABC):
    """The bytes are in a file: `size` of them, and no others unless it may grow."""

    __slots__ = ("_digest", "identity", "may_grow", "size")

    _gone: ClassVar[str]
    """What has happened where there is no file any more, and what to do."""

    def __init__(
        self,
        identity: Identity,
        size: int,
        *,
        may_grow: bool = False,
        digest: bytes | None = None,
    ) -> None:
        self.identity = identity
        self.size = size
        self.may_grow = may_grow
        self._digest = digest

    def open(self) -> int:
        """Open the file and make sure that it is the one that was left here.

        Raises:
            OutputLostError: It is not.
            OSError: As it came from the system.
        """
        try:
            fd = self._open()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise lost_error(errno.ENOENT, self._gone, self.path) from error
        try:
            self._check(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check(self, fd: int) -> None:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):  # it may have the inode of the file that is gone
            raise lost_error(errno.ESTALE, "somebody replaced its file", self.path)
        found = status.st_size
        if found < self.size or (found > self.size and not self.may_grow):
            reason = f"its file has {found} bytes where {self.size} were written"
            raise lost_error(errno.EIO, reason, self.path)
        both_told = zip(self.identity, identity_of(fd), strict=False)
        if any(left != found for left, found in both_told) and not self._is_renumbered(fd):
            raise lost_error(errno.ESTALE, "somebody replaced its file", self.path)

    def _is_renumbered(self, fd: int) -> bool:
        """Tell whether it is the file that was left here all the same."""
        if self._digest is None or digest_of(fd) != self._digest:
            return False
        self.identity = identity_of(fd)
        return True

    def reader(self) -> io.BufferedReader:
        """Open it for reading."""
        return open_file(self.open(), self.size, str(self.path), may_grow=self.may_grow)

    def view(self) -> memoryview:
        """Map it, read-only."""
        return map_file(self.open(), self.size)

    @property
    @abstractmethod
    def path(self) -> Path:
        """Where it is."""

    @abstractmethod
    def _open(self) -> int:
        """Open what has the name."""


@final
class Spilled(_OnDisk):
    """The bytes are in a file in a run directory, and the file is ours.

    One that may grow is still appended to by somebody: its first bytes are the output.
    """

    __slots__ = ("file",)

    _gone = f"somebody removed its file; {SPARE_IT}"

    def __init__(self, file: SpillFile, size: int, *, may_grow: bool = False) -> None:
        super().__init__(file.identity(), size, may_grow=may_grow)
        self.file = file

    @property
    def path(self) -> Path:
        """Where it is; made when it is asked for: of most outputs and logs it never is."""
        return self.file.path

    def _open(self) -> int:
        return self.file.open()


@final
class Saved(_OnDisk):
    """The bytes are in a file of the user's.

    Args:
        path: Where.
        identity: Which file it is.
        size: How many bytes it has.
        digest: Of its bytes, where it may be the same file although its identity has changed.
    """

    __slots__ = ("path",)

    path: Path

    _gone = "somebody removed or moved its file, which had this name since it was saved"

    def __init__(self, path: str, identity: Identity, size: int, digest: bytes | None) -> None:
        super().__init__(identity, size, digest=digest)
        self.path = Path(path)

    def _open(self) -> int:
        # A FIFO that somebody has put there would wait for a writer.
        return os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


@final
class Closed:
    """Nothing is held."""

    __slots__ = ()


OpenState = Held | Spilled | Saved
SealedState = OpenState | Closed


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
    return Spilled(file, size)
