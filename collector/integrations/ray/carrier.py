"""What is carried to the sink, and the logs of jobs, which go to their files.

Runs in:    the pump, in its loop.
Owns:       the write end of the queue to the sink.
"""

import contextlib
import os
from typing import final

from collector.process.queue.chunk_queue import QueueWriter
from collector.wire.frames import Frame, PayloadPlace


@final
class Carrier:
    """Carries it.

    Args:
        writer: Of the queue to the sink.
        run_directory: Where logs belong.
    """

    def __init__(self, writer: QueueWriter, run_directory: str) -> None:
        self._writer = writer
        self._run_directory = run_directory

    def carry(
        self,
        kind: int,
        ticket: int,
        payload: bytes | memoryview = b"",
        *,
        detail: int = 0,
        chunks: int = 0,
    ) -> None:
        """Carry what a worker has said; waits while the sink does not read."""
        frame = Frame(kind, detail, PayloadPlace.INLINE, 0, len(payload), chunks, 0, ticket)
        self._writer.carry(frame, payload)

    def log(self, name: str, data: memoryview) -> None:
        """Append to the log of a job: that is complete when the job ends, or not there.

        The first piece is empty, and no other one is.
        """
        path = os.path.join(self._run_directory, name)
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(path, flags | (0 if len(data) else os.O_CREAT | os.O_EXCL), 0o600)
            with open(fd, "ab") as file:
                file.write(data)
        except OSError:  # no room for it, for example: what is missing fails the job
            with contextlib.suppress(OSError):
                os.unlink(path)
