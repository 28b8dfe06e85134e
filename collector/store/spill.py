"""Keep one growing output in memory until it is large, then in a file.

Runs in:    the sink, for each output of a job; usable alone in any process, by one thread at a
            time.
Owns:       one buffer, or one file in a run directory. Never both.
States:     MEMORY -> FILE (`write`, `spill`), each -> CLOSED (`finalize`, `seal`, `dispose`)
Invariants: I1  `bytes_written` equals the bytes that a reader will get: a write that raised has
                added nothing.
            I2  after `dispose` no file of ours exists that was not handed over.
            I3  memory held is less than the threshold; a chunk that does not fit under it is not
                copied.
            I4  MEMORY while fewer bytes than the threshold were taken; a switch that fails leaves
                MEMORY as it was, without the chunk.
Source:     a failed spill keeps the bytes in memory and the output alive to report it: zict.
"""

import dataclasses
import logging
import operator
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, final

from collector.settings import MEMORY_THRESHOLD_BYTES, TEMP_FILE_BASE_NAME
from collector.store.chunk import Buffer, Chunk, chunk_buffer
from collector.store.mode import Mode, Progress
from collector.store.output import Output
from collector.store.phase import Closed, InFile, InMemory, Phase
from collector.store.root import absolute
from collector.store.rundir import RunDirectory
from collector.store.spillfile import SpillFile, cleanup_temp_files, temp_file_count

__all__ = [
    "Chunk",
    "Mode",
    "Progress",
    "Sealed",
    "SpillManager",
    "chunk_buffer",
    "cleanup_temp_files",
    "temp_file_count",
]

_logger = logging.getLogger("collector")


@final
@dataclass(slots=True)
class Sealed:
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
class SpillManager:
    """Takes the chunks of one output, in memory up to a threshold and beyond it in a file.

    Use it as a context manager, or call `dispose` in the end: what was not finalized then goes.
    One thread at a time may use it.

    Args:
        memory_threshold: Bytes; the write that reaches it moves everything to a file.
        on_progress: Called with a `Progress` after every write. If it raises, that is logged once
            and has no other effect.
        temp_file_base_name: The file's name begins with it; what cannot be in one is replaced.
        verbose: Log the switch to a file and the end at INFO, not at DEBUG.
        temp_root: Where the run directory of this process is made if a file is needed; a relative
            path is taken from the working directory now.

    Raises:
        TypeError: An argument of a wrong type.
        ValueError: A negative threshold, or an empty `temp_root`.
        RunDirectoryError: `temp_root` is relative, and the working directory is gone.
    """

    __slots__ = (
        "__weakref__",
        "_base_name",
        "_directory",
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
        self._directory: RunDirectory | None = None

    @classmethod
    def in_directory(
        cls,
        directory: RunDirectory,
        *,
        memory_threshold: int = MEMORY_THRESHOLD_BYTES,
        temp_file_base_name: str = TEMP_FILE_BASE_NAME,
    ) -> Self:
        """Make one whose file will lie in `directory`, rather than in this process's own."""
        manager = cls(memory_threshold, temp_file_base_name=temp_file_base_name)
        manager._directory = directory
        return manager

    def write(self, chunk: Chunk) -> int:
        """Take a chunk; it counts as one, also if it is empty.

        The chunk is the caller's again when this returns. In streaming mode its bytes are in the
        file by then, where other processes see them.

        Args:
            chunk: bytes, bytearray, a C-contiguous memoryview, or a str, which goes as UTF-8.

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
        elif isinstance(phase, Closed):
            raise phase.error("write to")
        elif len(data) < phase.room:
            phase.write(data, chunks)
        else:
            self._switch(phase, data, chunks)
        return len(data)

    def spill(self) -> None:
        """Switch to streaming mode now, however little is held; once is enough.

        Raises:
            ClosedError: After `finalize` or `dispose`.
            SpillError: The file cannot be made or written; what is held stays as it is.
        """
        phase = self._phase
        if isinstance(phase, Closed):
            raise phase.error("spill")
        if isinstance(phase, InMemory):
            self._switch(phase, b"", 0)

    def finalize(self) -> Output:
        """Seal the output and hand it over; it lives on after `dispose`.

        Raises:
            ClosedError: After `finalize` or `dispose`.
            SpillError: The system reports a failed write only now.
            OutputLostError: Somebody removed or truncated the file while it was written.
        """
        phase = self._phase
        if isinstance(phase, Closed):
            raise phase.error("finalize")
        if isinstance(phase, InMemory):
            data = phase.buffer.getvalue()
            output = Output.in_memory(data, chunks=phase.chunks, temp_root=self._temp_root)
        else:
            phase.seal()
            output = Output.from_file(phase.file, size=phase.size, chunks=phase.chunks)
        self._close("finalized", phase.progress)
        return output

    def seal(self) -> Sealed:
        """Seal the output and hand over its parts; a file is then the receiver's to remove.

        Raises:
            ClosedError: As `finalize`; so the others.
            SpillError: As `finalize`.
            OutputLostError: As `finalize`.
        """
        phase = self._phase
        if isinstance(phase, Closed):
            raise phase.error("finalize")
        if isinstance(phase, InMemory):
            sealed = Sealed(phase.buffer.getvalue(), None, phase.size, phase.chunks)
        else:
            phase.seal()
            sealed = Sealed(None, phase.file.name, phase.size, phase.chunks)
            phase.file.release()
        self._close("finalized", phase.progress)
        return sealed

    def dispose(self) -> None:
        """Drop what was not finalized, and its file; any number of times."""
        phase = self._phase
        if isinstance(phase, Closed):
            return
        self._close("disposed", dataclasses.replace(phase.progress, temp_file_path=None))
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.dispose()

    def _switch(self, memory: InMemory, more: Buffer, chunks: int) -> None:
        """Move what is held to a new file, and `more` behind it: all of it or nothing (I4)."""
        new = SpillFile.create(self._directory, self._temp_root, self._base_name)
        file = memory.move(new, more, chunks)
        self._phase = file
        _logger.log(self._log_level, "an output of %d bytes goes on in %s", file.size, file.path)

    def _close(self, how: str, progress: Progress) -> None:
        self._phase = Closed(how, progress)
        _logger.log(
            self._log_level,
            "an output of %d bytes in %d chunks is %s",
            progress.bytes_written,
            progress.chunks_processed,
            how,
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
