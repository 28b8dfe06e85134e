"""A queue as the sink sees it, and what is open in it.

Runs in:    the sink.
Owns:       the reading end of the queue, and the descriptor of its writer's death.
"""

from dataclasses import dataclass, field

from collector.process.queue.reader import QueueReader
from collector.process.sink.open_job import OpenJob
from collector.wire.messages import PUMP


@dataclass(slots=True)
class Source:
    """A queue, and the process that writes it: a worker, or a pump that carries for many."""

    worker: int
    pid: int
    queue: QueueReader
    death_fd: int
    jobs: dict[int, OpenJob] = field(default_factory=dict)
    """Those that have started and not ended, by their tickets; of a worker at most one."""
    watched: list[int] = field(default_factory=list)

    @property
    def is_pump(self) -> bool:
        """Whether it carries what many workers say."""
        return self.worker == PUMP
