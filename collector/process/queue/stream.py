"""The chunks of one job on their way into the queue of its worker.

Runs in:    the worker, in any thread of the job.
Owns:       small chunks until the queue takes them.
States:     open, over (`over` says why)
"""

from typing import TYPE_CHECKING, Final, NoReturn

from collector import settings
from collector.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from collector.process.queue.chunk_queue import QueueWriter

OVER: Final = (
    "is over: nothing can be written to its output any more. What a job leaves behind (a logging "
    "handler, a redirected sys.stdout, a thread) still leads there: take it down before the job "
    "ends, or let it ask for current_job() each time"
)
DISOWNED: Final = (
    "runs in another process, which forked this one: only that can write to its output"
)


class JobStream:
    """Takes the chunks of one job, from any of its threads, until the job is over."""

    __slots__ = (
        "_direct_bytes",
        "_held",
        "_join_bytes",
        "_nobody_comes",
        "_writer",
        "append",
        "job",
        "over",
        "pending",
        "taken_bytes",
        "ticket",
    )

    def __init__(self, writer: "QueueWriter", ticket: int, job: str) -> None:
        self.ticket = ticket
        self.job = job
        self.over = ""
        self.taken_bytes = 0
        self._writer = writer
        self._nobody_comes = writer.stale.empty
        self.pending: list[bytes] = []
        self.append: Callable[[bytes], None] = self.pending.append
        self._held = 0
        self._direct_bytes = settings.DIRECT_BYTES
        self._join_bytes = settings.JOIN_BYTES

    def gather(self, *, large: bool) -> None:
        """Set how many bytes of chunks are joined: many for a file, few for a slot."""
        self._direct_bytes = settings.TOGETHER_BYTES if large else settings.DIRECT_BYTES
        self._join_bytes = settings.TOGETHER_BYTES if large else settings.JOIN_BYTES

    def write(self, data: bytes) -> None:
        """Take one chunk.

        Raises:
            ClosedError: The job is over, or this is a process that it forked.
        """
        size = len(data)
        if size >= self._direct_bytes:
            self._writer.write_now(self, data)
        else:
            append = self.append  # here and below: a method of an attribute is slow to look up
            append(data)
            self._held += size + 1
            if self._held >= self._join_bytes:
                self._writer.drain()
        nobody_comes = self._nobody_comes
        if nobody_comes():
            self._writer.stale.put(None)

    def take(self) -> list[bytes]:
        """Take what is pending out; what other threads append meanwhile stays for the next time."""
        pending = self.pending
        chunks = pending[: len(pending)]
        del pending[: len(chunks)]
        self._held = 0
        return chunks

    def pending_bytes(self) -> int:
        """Return how many bytes are pending."""
        return sum(map(len, self.pending[:]))

    def close(self, why: str) -> None:
        """Refuse every further chunk."""
        self.over = why
        self.append = self.refuse

    def refuse(self, _data: bytes = b"") -> NoReturn:
        """Say that it comes too late.

        Raises:
            ClosedError: Always.
        """
        raise ClosedError(f"job {self.job} {self.over}")
