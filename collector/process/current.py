"""What a job sees of itself: its number, its name, its output.

Runs in:    the worker.
Owns:       the scratch directory of the running job, if it asked for one.
"""

import contextlib
import os
from pathlib import Path
from typing import Final, final

from collector.process.queue import QueueWriter
from collector.process.stream import JobStream
from collector.store.chunk import Chunk, chunk_buffer
from collector.store.scratch import remove_scratch
from collector.wire.messages import RunJob


@final
class CurrentJob:
    """The job that runs in this worker; it can be used as the `file` of `print`."""

    def __init__(self, job: RunJob, stream: JobStream, writer: QueueWriter, scratch: str) -> None:
        self.id: Final = job.job_id
        self.name: Final = job.name
        self.attempt: Final = job.attempt
        self._put = stream.write
        self._flush = writer.flush
        self._scratch = scratch
        self._scratch_made = False

    def write(self, chunk: Chunk) -> int:
        """Add one chunk to the job's output; returns the number of bytes taken.

        Args:
            chunk: Bytes, a bytearray, a C-contiguous memoryview, or text, which is taken as UTF-8.

        Raises:
            TypeError: The chunk is something else.

        Guarantees: the bytes are taken as they are now, and reach the sink within 50 ms; when the
            output cannot be kept (a full disk) the job is ended and fails with `SpillError`.
        """
        data = chunk if type(chunk) is bytes else bytes(chunk_buffer(chunk))
        self._put(data)
        return len(data)

    def flush(self) -> None:
        """Hand over at once what was written so far."""
        self._flush()

    @property
    def scratch_dir(self) -> Path:
        """A directory of this attempt's own, made at first use, gone with the job or its worker."""
        self._scratch_made = True
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._scratch, 0o700)
        return Path(self._scratch)

    def close(self) -> None:
        """Remove the scratch directory; what resists goes with the run directory."""
        if self._scratch_made:
            remove_scratch(self._scratch)
