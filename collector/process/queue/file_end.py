"""The end of a job's file, where the worker of the job writes itself what was granted to it.

Whole extents, not chunks, are what the sink hears of: the worker appends to the file, then says
with one frame how much there is more.

Runs in:    the worker.
Owns:       a descriptor of the file, from the first grant to the end of the job.
Invariants: I1  it only appends. So whatever the file holds is what the job wrote, in order; and a
                file that others truncate never gets its old size back by itself.
            I2  nothing is written beyond what was granted.
            I3  what the disk refuses is no error here: whoever writes hears how much was taken, and
                the rest goes through the slots to the sink, which meets the refusal itself.
            I4  before each write the descriptor's position is compared with the end of the last
                one, at a fourth of the cost of `Held.check`, which decides where they differ. So no
                byte goes to a file of the job's that has taken the descriptor's number.
Source:     docs/decisions/0021-extents.md.
"""

import os
import stat
from collections.abc import Sequence
from typing import Final, Self, final

from collector import settings
from collector.process.queue.held import Held
from collector.wire.credits import Grant

_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Without a wait: what stands under the name now may be a FIFO of somebody else's."""


@final
class FileEnd:
    """A file that ends where this worker has written last.

    Args:
        file: The file.
        size: Its size.
        granted: Up to where it may be written.
    """

    __slots__ = ("_fd", "_file", "at", "chunks", "due", "end", "published")

    def __init__(self, file: Held, size: int, granted: int) -> None:
        self._file: Final = file
        self._fd: Final = file.fd
        self.at = size
        self.published = size
        self.due = size + settings.EXTENT_BYTES
        self.end = granted
        self.chunks = 0

    @classmethod
    def open(cls, grant: Grant, size: int) -> Self | None:
        """Open the granted file; None if it cannot be opened, or does not have that size.

        It cannot be opened by a job that has changed its root, user or mounts, for example, or if
        others have removed the file.
        """
        try:
            fd = os.open(grant.path, _FLAGS)
        except (OSError, ValueError):
            return None
        try:
            status = os.fstat(fd)
            which = status.st_dev, status.st_ino, status.st_size
            if stat.S_ISREG(status.st_mode) and which == (grant.device, grant.inode, size):
                os.lseek(fd, 0, os.SEEK_END)
                return cls(Held(fd), size, grant.end)
        except OSError:
            pass
        os.close(fd)
        return None

    def append(self, data: bytes, start: int) -> int:
        """Write as much of `data` from `start` on as is granted, and as the disk takes.

        Returns:
            How much that was; 0 if the disk refused it.
        """
        room = self.end - self.at
        piece: bytes | memoryview = data
        if start or len(data) > room:
            piece = memoryview(data)[start : start + room]
        try:
            taken = os.write(self._checked(), piece)
        except OSError:
            return 0
        self.at += taken
        return taken

    def append_together(self, chunks: Sequence[bytes], size: int) -> int:
        """Write chunks of so many bytes together, without a copy, if so much is granted.

        Returns:
            How much the disk took; 0 also if less is granted, or the chunks are too many.
        """
        if size > self.end - self.at or len(chunks) > settings.TOGETHER_CHUNKS:
            return 0
        try:
            taken = os.writev(self._checked(), chunks)
        except OSError:
            return 0
        self.at += taken
        return taken

    def _checked(self) -> int:
        """Return the descriptor, which still leads to the file (I4)."""
        fd = self._fd
        try:
            if os.lseek(fd, 0, os.SEEK_CUR) == self.at:
                return fd
        except OSError:
            pass
        return self._file.check()

    def is_astray(self) -> bool:
        """Whether others have truncated the file, or written to it: what it holds is lost."""
        return os.fstat(self._file.check()).st_size != self.at

    def take(self) -> tuple[int, int]:
        """Return how many bytes and chunks are to be published, and count them as published."""
        news = self.at - self.published, self.chunks
        self.published, self.chunks = self.at, 0
        self.due = self.at + settings.EXTENT_BYTES
        return news

    def close(self) -> None:
        """Close the file."""
        self._file.close()
