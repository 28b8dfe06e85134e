"""A worker, as the scheduler sees it: its jobs, and how long each takes.

States:     as `TABLE` says; a death ends any of them, and the seat goes with it.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from collector.process.scheduler.decisions import Entry
from collector.states import TableEnum, move


class State(TableEnum):
    """What can be expected of a worker."""

    STARTING = "starting"
    READY = "ready"
    RETIRED = "retired"
    """It gets no further job: it was told to stop, is being killed, or is dead."""
    LOST = "lost"
    """The sink died, and what this worker had said to it and the parent had not heard is lost."""


class Event(TableEnum):
    """What changes that."""

    SAID_READY = "said ready"
    LET_GO = "let go"
    SINK_DIED = "sink died"


TABLE: Final = {
    State.STARTING: {
        Event.SAID_READY: State.READY,
        Event.LET_GO: State.RETIRED,
        Event.SINK_DIED: State.LOST,
    },
    State.READY: {
        Event.SAID_READY: State.READY,  # again: by code in it that can write to its queue
        Event.LET_GO: State.RETIRED,
        Event.SINK_DIED: State.LOST,
    },
    State.RETIRED: {
        Event.SAID_READY: State.RETIRED,  # it was on its way
        Event.LET_GO: State.RETIRED,
        Event.SINK_DIED: State.LOST,
    },
    State.LOST: {
        Event.SAID_READY: State.LOST,
        Event.LET_GO: State.LOST,
        Event.SINK_DIED: State.LOST,
    },
}
_STARTING: Final = State.STARTING
_READY: Final = State.READY  # read in a tenth of the time


@dataclass(slots=True)
class Seat:
    """One worker that is not gone; the first of its jobs is the one that runs."""

    worker: int
    max_tasks: float = math.inf
    state: State = State.STARTING
    recalled: bool = False
    gave_back: bool = False
    """Whether it has handed back jobs unasked: none is to wait behind the one that runs."""
    tasks: int = 0
    since_s: float = 0.0
    """Since when the first of its jobs is the one that runs, or nothing does."""
    spare_until_s: float | None = None
    """Of a worker that is to be killed for what it runs: until when the jobs behind that may leave.

    None while nothing condemns it.
    """
    entries: deque[Entry] = field(default_factory=deque)

    def hear(self, event: Event) -> None:
        """Something has changed what can be expected of it."""
        self.state = move(TABLE, self.state, event)

    @property
    def idle(self) -> bool:
        """Whether it waits for a job."""
        return self.state is _READY and not self.entries

    @property
    def coming(self) -> bool:
        """Whether it will take jobs soon."""
        return self.state is _STARTING

    @property
    def retired(self) -> bool:
        """Whether it gets no further job."""
        return self.state is not _READY and self.state is not _STARTING

    @property
    def has_others(self) -> bool:
        """Whether a job is here that nobody wants ended."""
        return any(entry.sentence is None for entry in self.entries)

    @property
    def deadline_s(self) -> float:
        """When the job that runs has used up its time, or the jobs behind it had theirs to leave.

        Never, as long as neither is to be ended.
        """
        soonest_s = self.entries[0].deadline_s if self.entries else math.inf
        return soonest_s if self.spare_until_s is None else min(soonest_s, self.spare_until_s)

    @property
    def blocked(self) -> bool:
        """Whether jobs wait here behind the running one, and nobody has asked for them."""
        return len(self.entries) > 1 and not self.recalled and not self.retired

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
        self.recalled, self.gave_back, self.spare_until_s = False, False, None
        return took_s

    @property
    def takes_more(self) -> bool:
        """Whether a job may be sent to it while it runs another one."""
        if self.state is not _READY or self.gave_back:
            return False
        return self.tasks < self.max_tasks and self.spare_until_s is None
