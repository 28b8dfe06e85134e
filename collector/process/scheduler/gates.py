"""The gate of a resource that jobs share: how many of them may run now, and until when none may.

Pure: the time is given.

States:     as `TABLE` says. A gate that was closed opens for one job first.
"""

import math
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from collector.process.scheduler.decisions import Entry
from collector.process.scheduler.waiting import Line
from collector.states import TableEnum, move


class State(TableEnum):
    """Whether jobs pass."""

    OPEN = "open"
    CLOSED = "closed"
    TRYING = "trying"
    """One job passes, and the others wait for how it ends."""


class Event(TableEnum):
    """What opens and closes a gate."""

    REFUSED = "refused"
    """A job has asked to be run later."""
    DUE = "due"
    PROVED = "proved"
    """The resource has served the one job."""


TABLE: Final = {
    State.OPEN: {Event.REFUSED: State.CLOSED},
    State.CLOSED: {Event.REFUSED: State.CLOSED, Event.DUE: State.TRYING},
    State.TRYING: {Event.REFUSED: State.CLOSED, Event.PROVED: State.OPEN},
}


class Waits(NamedTuple):
    """What some jobs wait for, to be shown.

    Attributes:
        resource: Whose gate it is; empty for jobs that wait before they are run again.
        why: "closed" (it asked for a pause), "trying" (one job is ahead), "full" (as many run as
            may), or "again" (after a failure).
        jobs: How many wait.
        until_s: When they go on, by the clock of the scheduler; infinite if that depends on others.
    """

    resource: str
    why: str
    jobs: int
    until_s: float


@dataclass(slots=True)
class Gate:
    """The gate of one resource."""

    limit: float = math.inf
    state: State = State.OPEN
    until_s: float = math.inf
    """When it opens for one job, while it is closed."""
    running: int = 0
    """Jobs of this resource that are at workers."""
    probe: int = 0
    """The job that is ahead of the others, if it is at a worker; else 0."""
    line: Line = field(default_factory=Line)

    @property
    def room(self) -> float:
        """How many further jobs may run now."""
        free = self.limit - self.running
        if self.state is State.OPEN:
            return max(0.0, free)
        return 1.0 if self.state is State.TRYING and not self.probe and free > 0 else 0.0

    @property
    def ready(self) -> int:
        """How many of the jobs that wait here may run now."""
        return int(min(self.room, len(self.line)))

    @property
    def idle(self) -> bool:
        """Whether it says nothing that a new one would not: a program may name a new one a job."""
        return self._unused and self.state is State.OPEN

    @property
    def untried(self) -> bool:
        """Whether its pause is over, and no job is here that would open it for the others."""
        return self._unused and self.state is State.TRYING

    @property
    def _unused(self) -> bool:
        return not (self.line or self.running) and self.limit == math.inf

    def close(self, until_s: float) -> None:
        """Let nobody pass until then; what has passed goes on."""
        longer = max(until_s, self.until_s) if self.state is State.CLOSED else until_s
        self.state, self.until_s = move(TABLE, self.state, Event.REFUSED), longer
        self.probe = 0

    def tick(self, now_s: float) -> None:
        """Let one job pass, if the gate was closed until now."""
        if self.state is State.CLOSED and self.until_s <= now_s:
            self.state, self.until_s = move(TABLE, self.state, Event.DUE), math.inf

    def passed(self, entry: Entry) -> None:
        """A job goes to a worker."""
        self.running += 1
        if self.state is State.TRYING:
            self.probe = entry.job_id

    def left(self, entry: Entry, *, proved: bool) -> None:
        """A job has left its worker; `proved` if the resource is known to have served it."""
        self.running -= 1
        if self.probe == entry.job_id:
            if proved:
                self.proved(entry)
            self.probe = 0

    def proved(self, entry: Entry) -> bool:
        """The resource has served a job, which may still run; returns whether the gate opens."""
        if self.state is not State.TRYING or self.probe != entry.job_id:
            return False
        self.state = move(TABLE, self.state, Event.PROVED)
        self.probe = 0
        return True

    def waits(self, resource: str) -> Waits | None:
        """Return what jobs wait for here, if any do."""
        if not self.line or (self.state is State.OPEN and self.room):
            return None
        why = "full" if self.state is State.OPEN else self.state.value
        return Waits(resource, why, len(self.line), self.until_s)
