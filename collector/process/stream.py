"""The chunks of one job on their way into the queue of its worker.

Runs in:    the worker, in any thread of the job.
Owns:       small chunks until the queue takes them.
"""

from typing import TYPE_CHECKING

from collector import settings
from collector.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from collector.process.queue import QueueWriter


class JobStream:
    """Takes the chunks of one job, from any of its threads, until the job is over."""

    __slots__ = ("_held", "_pending", "_writer", "append", "ticket")

    def __init__(self, writer: "QueueWriter", ticket: int) -> None:
        self.ticket = ticket
        self._writer = writer
        self._pending: list[bytes] = []
        self.append: Callable[[bytes], None] = self._pending.append
        self._held = 0

    def write(self, data: bytes) -> None:
        """Take one chunk.

        Raises:
            ClosedError: The job is over, or this is a process that it forked.
        """
        if len(data) >= settings.DIRECT_BYTES:
            self._writer.write_now(self, data)
        else:
            self.append(data)
            self._held += len(data) + 1
            if self._held >= settings.JOIN_BYTES:
                self._writer.drain()
        if self._writer.stale.empty():
            self._writer.stale.put(None)

    def take(self) -> list[bytes]:
        """Take what is pending out; what other threads append meanwhile stays for the next time."""
        pending = self._pending
        chunks = pending[: len(pending)]
        del pending[: len(chunks)]
        self._held = 0
        return chunks

    def close(self, why: str) -> None:
        """Refuse every further chunk."""

        def refuse(_data: bytes) -> None:
            raise ClosedError(why)

        self.append = refuse
