"""Keep one growing output in memory until it is large, then in a file.

Runs in:    the sink, for each output of a job; usable alone in any process, by one thread at a
            time.
Owns:       one buffer, or one file in a run directory. Never both.
States:     as the table of `collector.store.output.growing` says: MEMORY, FILE, CLOSED.
Invariants: I1  `bytes_written` equals the bytes that a reader will get: a write that raised has
                added nothing.
            I2  after `dispose` no file of ours exists that was not handed over.
            I3  memory held is less than the threshold; a chunk that does not fit under it is not
                copied.
            I4  MEMORY while fewer bytes than the threshold were taken; a switch that fails leaves
                MEMORY as it was, without the chunk.
Source:     a failed spill keeps the bytes in memory and the output alive to report it: zict.
"""

import logging
import operator
import os
from collections.abc import Callable
from typing import NamedTuple, Self, final

from collector.logger import PackageLogger
from collector.settings import MEMORY_THRESHOLD_BYTES, TEMP_FILE_BASE_NAME
from collector.states import move
from collector.store.output.binary_file import BinaryFile
from collector.store.output.chunk import Buffer, Chunk, chunk_buffer
from collector.store.output.growing import TABLE, Ended, Event, InFile, InMemory, Phase
from collector.store.output.output import Output
from collector.store.output.progress import Progress
from collector.store.output.spill_file import SpillFile
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.root import absolute

_logger = PackageLogger()


@final
class Sealed(NamedTuple):
    """What is left of an output that takes no more, ready to be handed to another process.

    Attributes:
        data: Its bytes, if it stayed in memory.
        name: The name of its file in the run directory, if not. The file is the receiver's.
        size: Bytes.
        chunks: Writes.
    """

    data: bytes | None
    name: str | None
    size: int
    chunks: int


@final
class SpillManager(BinaryFile):
    """Takes the chunks of one output, in memory up to a threshold and beyond it in a file.

    Use it as a context manager, or call `dispose` in the end: what was not finalized then goes.
    One thread at a time may use it.

    It is a binary file, opened for writing: an `io.BufferedIOBase` that cannot seek. Give it to
    whatever writes to a file; that may close it, too: only `finalize` and `dispose` end it.

    Args:
        memory_threshold: Bytes; the write that reaches it moves everything to a file.
        on_progress: Called with a `Progress` after every write. If it raises, that is logged once
            and has no other effect.
        temp_file_base_name: The file's name begins with it; what cannot be in one is replaced.
        verbose: Log the switch to a file and the end at INFO, not at DEBUG.
        temp_root: Where the run directory of this process is made if a file is needed; a relative
            path is taken from the working directory now. Where none can be made, the write that
            needs it raises `SpillError`, whose cause is the `RunDirectoryError`.

    Raises:
        TypeError: An argument of a wrong type.
        ValueError: A negative threshold, or an empty `temp_root`.
        RunDirectoryError: `temp_root` is relative, and the working directory is gone.

    Example:
        >>> from collector import SpillManager
        >>> with SpillManager(memory_threshold=10) as manager:
        ...     for chunk in (b"0123", b"4567", b"89ab"):
        ...         count = manager.write(chunk)
        ...     output = manager.finalize()
        >>> output.read(), str(output.mode)
        (b'0123456789ab', 'streaming')
    """

    __slots__ = (
        "_base_name",
        "_find_directory",
        "_log_level",
        "_on_progress",
        "_phase",
        "_progress_failed",
        "_temp_root",
    )

    def __init__(
        self,
        memory_threshold: int = MEMORY_THRESHOLD_BYTES,
        on_progress: Callable[[Progress], object] | None = None,
        temp_file_base_name: str = TEMP_FILE_BASE_NAME,
        verbose: bool = False,
        *,
        temp_root: str | os.PathLike[str] | None = None,
    ) -> None:
        if on_progress is not None and not callable(on_progress):
            raise TypeError(f"on_progress must be callable or None, not {on_progress!r}")
        if not isinstance(temp_file_base_name, str):
            raise TypeError(f"temp_file_base_name must be a str, not {temp_file_base_name!r}")
        self._phase: Phase = InMemory(_checked_threshold(memory_threshold))
        self._on_progress = on_progress
        self._progress_failed = False
        self._base_name = temp_file_base_name
        self._log_level = logging.INFO if verbose else logging.DEBUG
        self._temp_root = None if temp_root is None else absolute(temp_root)
        self._find_directory: Callable[[], RunDirectory] | None = None

    @classmethod
    def in_directory(
        cls,
        find: Callable[[], RunDirectory],
        *,
        memory_threshold: int = MEMORY_THRESHOLD_BYTES,
        temp_file_base_name: str = TEMP_FILE_BASE_NAME,
    ) -> Self:
        """Make one whose file will lie in the directory that `find` returns when it is needed."""
        manager = cls(memory_threshold, temp_file_base_name=temp_file_base_name)
        manager._find_directory = find
        return manager

    def write(self, chunk: Chunk) -> int:
        """Take a chunk; it counts as one, also if it is empty.

        The chunk is the caller's again when this returns. In streaming mode its bytes are in the
        file by then, where other processes see them.

        Args:
            chunk: Any C-contiguous buffer (bytes, a bytearray, memoryview, array, mmap, a numpy
                array, a buffer of pyarrow or pickle), or a str, which goes as UTF-8.

        Returns:
            The number of bytes taken: all of them.

        Raises:
            TypeError: The chunk is nothing of that.
            ClosedError: After `finalize` or `dispose`; the message says which.
            SpillError: The file cannot be made or written. Nothing of this chunk was taken, all
                that was taken before is there, and the same write may be tried again.
        """
        memory: InMemory = self._phase  # type: ignore[assignment] # no other phase has room
        if type(chunk) is bytes and (left := memory.room - len(chunk)) > 0:
            # InMemory.write, in line: this is what small chunks cost
            try:
                append = memory.append
                taken = append(chunk)
                memory.room = left
                memory.chunks += 1
            except BaseException:
                memory.rewind(left + len(chunk))
                raise
        else:
            taken = self.write_joined(chunk_buffer(chunk), 1)
        if self._on_progress is not None:
            self._report(self._on_progress)
        return taken

    def write_joined(self, data: Buffer, chunks: int) -> int:
        """Take `chunks` chunks that came joined in one contiguous buffer of bytes.

        In streaming mode the buffer goes to the file as it is, without a copy.

        Raises:
            ClosedError: As `write`; so the others.
            SpillError: As `write`.
        """
        phase = self._phase
        if isinstance(phase, InFile):
            phase.write(data, chunks)
        elif isinstance(phase, Ended):
            raise phase.error("write to")
        elif len(data) < phase.room:
            phase.write(data, chunks)
        else:
            self._switch(phase, data, chunks)
        return len(data)

    def grown(self, more_bytes: int, chunks: int) -> None:
        """Count what another process has appended to the file, in streaming mode.

        Raises:
            ClosedError: After `finalize` or `dispose`.
        """
        phase = self._open_phase("write to")
        if isinstance(phase, InMemory):
            raise TypeError("an output in memory has no file that could have grown")
        phase.grown(more_bytes, chunks)

    def identify_file(self) -> tuple[bytes, int, int] | None:
        """Return path, device and inode of the file; None in memory mode.

        Raises:
            ClosedError: After `finalize` or `dispose`.
        """
        phase = self._open_phase("look at")
        if isinstance(phase, InMemory):
            return None
        return os.fsencode(phase.path), *phase.file.device_and_inode()

    def cut(self) -> None:
        """Take off the file what was not counted: another process was killed while it appended."""
        phase = self._phase
        if isinstance(phase, InFile):
            phase.file.cut(phase.size)

    def flush(self) -> None:
        """Do nothing: what was written is where it belongs.

        Raises:
            ClosedError: After `finalize` or `dispose`; so `tell`.
        """
        self._open_phase("flush")

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self._open_phase("tell the position of").size

    @property
    def name(self) -> str:
        """What its file's name begins with."""
        return self._base_name

    @property
    def closed(self) -> bool:
        """Whether it was finalized or disposed; `close` does neither."""
        return isinstance(self._phase, Ended)

    def spill(self) -> None:
        """Switch to streaming mode now, however little is held; once is enough.

        Raises:
            ClosedError: After `finalize` or `dispose`.
            SpillError: The file cannot be made or written; what is held stays as it is.
        """
        phase = self._open_phase("spill")
        if isinstance(phase, InMemory):
            self._switch(phase, b"", 0)

    def finalize(self) -> Output:
        """Seal the output and hand it over; it lives on after `dispose`.

        Raises:
            ClosedError: After `finalize` or `dispose`.
            SpillError: The system reports a failed write only now.
            OutputLostError: Somebody removed or truncated the file while it was written.
        """
        phase = self._open_phase("finalize")
        if isinstance(phase, InMemory):
            data = phase.buffer.getvalue()
            output = Output.in_memory(data, chunks=phase.chunks, temp_root=self._temp_root)
        else:
            phase.seal()
            output = Output.from_file(phase.file, size=phase.size, chunks=phase.chunks)
        self._close(Event.FINALIZED, phase.progress)
        return output

    def seal(self) -> Sealed:
        """Seal the output and hand over its parts; a file is then the receiver's to remove.

        Raises:
            ClosedError: As `finalize`; so the others.
            SpillError: As `finalize`.
            OutputLostError: As `finalize`.
        """
        phase = self._open_phase("finalize")
        if isinstance(phase, InMemory):
            sealed = Sealed(phase.buffer.getvalue(), None, phase.size, phase.chunks)
        else:
            phase.seal()
            sealed = Sealed(None, phase.file.name, phase.size, phase.chunks)
            phase.file.release()
        self._close(Event.FINALIZED, phase.progress)
        return sealed

    def dispose(self) -> None:
        """Drop what was not finalized, and its file; any number of times."""
        phase = self._phase
        if isinstance(phase, Ended):
            return
        self._close(Event.DISPOSED, phase.progress._replace(temp_file_path=None))
        if isinstance(phase, InFile):
            phase.file.remove()

    @property
    def in_memory(self) -> bool:
        """Whether it is open and in memory mode."""
        return isinstance(self._phase, InMemory)

    @property
    def held_bytes(self) -> int:
        """Bytes now held in memory; 0 in streaming mode and at the end."""
        return self._phase.size if isinstance(self._phase, InMemory) else 0

    @property
    def progress(self) -> Progress:
        """How far the output has come; in the end, how far it came."""
        return self._phase.progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.dispose()

    def _open_phase(self, wish: str) -> InMemory | InFile:
        phase = self._phase
        if isinstance(phase, Ended):
            raise phase.error(wish)
        return phase

    def _switch(self, memory: InMemory, more: Buffer, chunks: int) -> None:
        """Move what is held to a new file, and `more` behind it: all of it or nothing (I4)."""
        new = SpillFile.create(self._find_directory, self._temp_root, self._base_name)
        file = memory.move(new, more, chunks)
        move(TABLE, memory.state, Event.SPILLED)
        self._phase = file
        _logger.log(self._log_level, "an output of %d bytes goes on in %s", file.size, file.path)

    def _close(self, event: Event, progress: Progress) -> None:
        move(TABLE, self._phase.state, event)
        self._phase = Ended(event.value, progress)
        _logger.log(
            self._log_level,
            "an output of %d bytes in %d chunks is %s",
            progress.bytes_written,
            progress.chunks_processed,
            event.value,
        )

    def _report(self, on_progress: Callable[[Progress], object]) -> None:
        try:
            on_progress(self.progress)
        except Exception:
            # The user's function: its failure is told once, and the output goes on without it.
            if not self._progress_failed:
                self._progress_failed = True
                _logger.exception("on_progress failed; the output is not affected")


def _checked_threshold(memory_threshold: int) -> int:
    try:
        threshold = operator.index(memory_threshold)
    except TypeError:
        raise TypeError(
            f"memory_threshold must be a whole number of bytes, not {memory_threshold!r}"
        ) from None
    if threshold < 0:
        raise ValueError(f"memory_threshold must be 0 bytes or more, not {threshold}")
    return threshold
