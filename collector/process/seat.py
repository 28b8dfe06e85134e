"""A worker, as the scheduler sees it: its jobs, and how long each takes.

States:     STARTING -> READY -> LEAVING; a death ends any of them.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from collector import settings
from collector.process.actions import Entry


@dataclass(slots=True)
class Seat:
    """One worker that is not gone; the first of its jobs is the one that runs."""

    worker: int
    max_tasks: float = math.inf
    ready: bool = False
    leaving: bool = False
    sink_lost: bool = False
    """The sink died, and with it what this worker had said and nobody had heard."""
    recalled: bool = False
    tasks: int = 0
    since_s: float = 0.0
    """Since when the first of its jobs is the one that runs, or nothing does."""
    kill_by_s: float | None = None
    """What it runs is condemned, or failed already: when the worker is killed at the latest."""
    entries: deque[Entry] = field(default_factory=deque)

    @property
    def idle(self) -> bool:
        """Whether it waits for a job."""
        return self.ready and not self.leaving and not self.entries

    @property
    def coming(self) -> bool:
        """Whether it will take jobs soon."""
        return not self.ready and not self.leaving

    @property
    def has_others(self) -> bool:
        """Whether a job is here that nobody wants ended."""
        return any(entry.sentence is None for entry in self.entries)

    @property
    def blocked(self) -> bool:
        """Whether jobs wait here behind the running one, and nobody has asked for them."""
        return len(self.entries) > 1 and not self.recalled and not self.leaving

    @property
    def used_up(self) -> bool:
        """Whether it has got as many jobs as one worker may."""
        return self.tasks >= self.max_tasks

    def begun(self, ticket: int | None) -> list[Entry]:
        """Return the jobs up to the one that was begun last; all that may be, if that is None."""
        if ticket is None:
            return list(self.entries)
        return [entry for entry in self.entries if entry.ticket <= ticket]

    def advance(self, now_s: float) -> float:
        """The running job is over and the next one runs; returns how long the first took."""
        took_s, self.since_s = now_s - self.since_s, now_s
        self.recalled, self.kill_by_s = False, None
        return took_s

    def is_low(self, refill_at: int) -> bool:
        """Whether it is time to see what else there is to do here."""
        return len(self.entries) <= refill_at or self.leaving

    def has_room(self, ahead: int, now_s: float) -> bool:
        """Whether one more job may come, to be one of `ahead`: none behind a long one."""
        if len(self.entries) >= ahead or not self.ready or self.leaving or self.used_up:
            return False
        return self.kill_by_s is None and now_s - self.since_s <= settings.RECALL_AFTER_S
