"""A queue as the sink sees it, and what is open in it.

Runs in:    the sink.
Owns:       the reading end of the queue, and the descriptor of its writer's death.
"""

from typing import TYPE_CHECKING

from collector.process.queue.reader import QueueReader
from collector.wire.messages import PUMP

if TYPE_CHECKING:
    from collector.process.sink.open_job import OpenJob


class Source:
    """A queue, and the process that writes it: a worker, or a pump that carries for many."""

    def __init__(self, worker: int, pid: int, queue: QueueReader, death_fd: int) -> None:
        self.worker = worker
        self.pid = pid
        self.queue = queue
        self.death_fd = death_fd
        self.jobs: dict[int, OpenJob] = {}
        """Those that have started and not ended, by their tickets; of a worker at most one."""
        self.watched: list[int] = []

    @property
    def is_pump(self) -> bool:
        """Whether it carries what many workers say."""
        return self.worker == PUMP
