"""The phases of a growing output: its bytes in memory, then in a file, then handed over or gone.

Runs in:    wherever a SpillManager is used, which goes from one phase to the next.
Owns:       the buffer, or the file. Never both.
States:     as `TABLE` says; each has a class with what can be done in it.
Invariants: I1  what raises, also a signal handler between two lines, changes nothing: a write is
                there with all its bytes and its count, or not at all.
            I2  what was counted is what the file holds, or `seal` says that it is lost.
Source:     two states after Rust tempfile's SpooledTempFile. BytesIO, since its `getvalue` shares
            the bytes and its `getbuffer` goes to the file without a second copy.
"""

import enum
import io
from typing import Final, final

from collector.errors import ClosedError, CollectorError, spill_error
from collector.store.output.chunk import Buffer
from collector.store.output.progress import Mode, Progress
from collector.store.output.spill_file import SpillFile


class State(enum.Enum):
    """Where the bytes of an output are that grows."""

    MEMORY = "memory"
    FILE = "file"
    CLOSED = "closed"


class Event(enum.Enum):
    """What moves them."""

    SPILLED = "spilled"
    FINALIZED = "finalized"
    DISPOSED = "disposed"


TABLE: Final = {
    State.MEMORY: {
        Event.SPILLED: State.FILE,
        Event.FINALIZED: State.CLOSED,
        Event.DISPOSED: State.CLOSED,
    },
    State.FILE: {Event.FINALIZED: State.CLOSED, Event.DISPOSED: State.CLOSED},
    State.CLOSED: {},
}


@final
class InMemory:
    """All bytes are in `buffer`: fewer than `threshold`, by `room`."""

    __slots__ = ("append", "buffer", "chunks", "room", "threshold")

    state: Final = State.MEMORY

    def __init__(self, threshold: int) -> None:
        self.buffer = io.BytesIO()
        self.append = self.buffer.write
        self.chunks = 0
        self.room = threshold
        self.threshold = threshold

    @property
    def size(self) -> int:
        """Bytes held."""
        return self.threshold - self.room

    @property
    def progress(self) -> Progress:
        """How far the output has come."""
        return Progress(Mode.MEMORY, self.size, self.chunks, None, threshold_exceeded=False)

    def write(self, data: Buffer, chunks: int) -> None:
        """Take bytes for which there is room; SpillManager.write does the same in line."""
        room = self.room
        try:
            self.append(data)
            self.room = room - len(data)
            self.chunks += chunks
        except BaseException:
            self.rewind(room)
            raise

    def rewind(self, room: int) -> None:
        """Drop what was appended since there was `room`."""
        self.room = room
        if not self.buffer.closed:  # it is when it could not grow: all is lost, and `seal` says so
            self.buffer.seek(self.size)
            self.buffer.truncate()

    def move(self, file: SpillFile, more: Buffer, chunks: int) -> "InFile":
        """Write what is held to a new file, and `more` behind it.

        Raises:
            SpillError: The file cannot be written. It is gone, and what is held is as it was.
        """
        with self.buffer.getbuffer() as held:
            file.fill(held, more)
        return InFile(file, self.size + len(more), self.chunks + chunks, self.threshold)


@final
class InFile:
    """All bytes are in `file`, and it has no others."""

    __slots__ = ("chunks", "file", "path", "size", "threshold")

    state: Final = State.FILE
    room: Final = 0

    def __init__(self, file: SpillFile, size: int, chunks: int, threshold: int) -> None:
        self.file = file
        self.path = file.path
        self.size = size
        self.chunks = chunks
        self.threshold = threshold

    @property
    def progress(self) -> Progress:
        """How far the output has come."""
        exceeded = self.size >= self.threshold
        return Progress(Mode.STREAMING, self.size, self.chunks, self.path, exceeded)

    def write(self, data: Buffer, chunks: int) -> None:
        """Append bytes to the file.

        Raises:
            SpillError: They could not be written; what the file took of them is cut off again.
            OutputLostError: This process does not hold the file any more.
        """
        size = self.size
        try:
            self.file.append(data)
            self.size = size + len(data)
            self.chunks += chunks
        except BaseException as error:
            self.size = size
            self.file.cut(size)
            if isinstance(error, OSError) and not isinstance(error, CollectorError):
                raise spill_error(error, self.path) from error
            raise

    def grown(self, more_bytes: int, chunks: int) -> None:
        """Count what another process has appended to the file; `seal` finds whether it has."""
        self.size += more_bytes
        self.chunks += chunks

    def seal(self) -> None:
        """Write no more; make sure that all is there.

        Raises:
            SpillError: The system reports a failed write only now.
            OutputLostError: Somebody removed or truncated the file.
        """
        try:
            self.file.seal(self.size)
        except CollectorError:
            raise
        except OSError as error:
            raise spill_error(error, self.path) from error


@final
class Ended:
    """Nothing is held; `how` it came to that, and how far the output had come."""

    __slots__ = ("how", "progress")

    state: Final = State.CLOSED
    room: Final = 0

    def __init__(self, how: str, progress: Progress) -> None:
        self.how = how
        self.progress = progress

    def error(self, wish: str) -> ClosedError:
        """Say that `wish` comes too late."""
        return ClosedError(f"cannot {wish} an output that was {self.how}; make a new SpillManager")


Phase = InMemory | InFile | Ended
