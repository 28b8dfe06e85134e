"""The gates of resources that jobs share: how many of them may run now, and until when none may.

Pure: the time is given.

States:     of a gate, as `TABLE` says. One that was closed opens for one job first.
Invariants: I1  a gate is kept while its resource is bounded, has jobs here or at workers, or has
                asked for a pause that is not over; once it is and no job has come, while it is one
                of the last GATES_UNTRIED of those.
            I2  whatever happens, one gate is looked at, however many there are.
"""

import heapq
import math
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from typing import Final, NamedTuple, final

from collector import settings
from collector.process.scheduler.decisions import Entry
from collector.process.scheduler.waiting import Line, Turn
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
    counted: int = 0
    """How many jobs may run now, as of when `Gates` looked at it last."""
    turn: Turn | None = None
    """By which it stands among the turns of `Gates`, if it does."""

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


@final
class Gates:
    """The gates of all resources, with the jobs that wait there.

    Args:
        limits: How many jobs of a resource may run at once, by its name; of others any number.
    """

    def __init__(self, limits: Mapping[str, int] | None = None) -> None:
        self._gates = {name: Gate(limit) for name, limit in (limits or {}).items()}
        self._resource_of: dict[int, str] = {}
        """Of each job that waits here."""
        self.ready = 0
        """How many of these may run now."""
        self._turns: list[tuple[Turn, str]] = []
        """A heap: when it is the turn of each gate that lets a job pass; some are out of date."""
        self._pauses: list[tuple[float, str]] = []
        """A heap: until when each gate is closed; some are out of date."""
        self._untried: dict[str, None] = {}
        """The gates that are `untried`, in the order in which they became so."""

    def __bool__(self) -> bool:
        return bool(self._resource_of)

    def names(self) -> list[str]:
        """Return the resources that have a gate."""
        return list(self._gates)

    def values(self) -> list[Entry]:
        """Return all jobs that wait here."""
        return [entry for gate in self._gates.values() for entry in gate.line.values()]

    def add(self, entry: Entry) -> None:
        """A job came."""
        self._line_for(entry)[entry.job_id] = entry
        self._look_at(entry.resource)

    def put_back(self, entry: Entry) -> None:
        """A job was at a worker already."""
        self._line_for(entry).put_back(entry)
        self._look_at(entry.resource)

    def get(self, job_id: int) -> Entry | None:
        """Return a job that waits here, if it does."""
        resource = self._resource_of.get(job_id)
        return None if resource is None else self._gates[resource].line[job_id]

    def pop(self, job_id: int) -> Entry | None:
        """Take out a job, if it waits here."""
        resource = self._resource_of.pop(job_id, None)
        if resource is None:
            return None
        entry = self._gates[resource].line.pop(job_id)
        self._look_at(resource)
        return entry

    def clear(self) -> None:
        """Drop all jobs that wait here."""
        for job_id in list(self._resource_of):
            self.pop(job_id)

    def turn(self) -> Turn | None:
        """Return the turn of the first job that may run; None if none may."""
        while self._turns:
            turn, resource = self._turns[0]
            gate = self._gates.get(resource)
            if gate is not None and gate.turn == turn:
                if gate.counted:
                    return turn
                gate.turn = None
            heapq.heappop(self._turns)
        return None

    def take_first(self) -> Entry | None:
        """Take out that job, for a worker."""
        if self.turn() is None:
            return None
        entry = self._gates[self._turns[0][1]].line.take_first()
        if entry is not None:
            del self._resource_of[entry.job_id]
            self.passed(entry)
        return entry

    def has_room(self, resource: str) -> bool:
        """Whether one more job of the resource may run now."""
        gate = self._gates.get(resource)
        return gate is None or gate.room > 0

    def passed(self, entry: Entry) -> None:
        """A job goes to a worker."""
        self._gate(entry.resource).passed(entry)
        self._look_at(entry.resource)

    def left(self, entry: Entry, *, proved: bool) -> None:
        """A job has left its worker; `proved` if the resource is known to have served it."""
        self._gate(entry.resource).left(entry, proved=proved)
        self._look_at(entry.resource)

    def proved(self, entry: Entry) -> bool:
        """The resource of a running job has served it; returns whether the gate opens."""
        opens = self._gate(entry.resource).proved(entry)
        self._look_at(entry.resource)
        return opens

    def close(self, resource: str, until_s: float) -> None:
        """Let no job of this resource pass until then, and at first one only."""
        gate = self._gate(resource)
        gate.close(until_s)
        heapq.heappush(self._pauses, (gate.until_s, resource))
        if self._is_mostly_out_of_date(self._pauses):
            kept = ((g.until_s, name) for name, g in self._gates.items())
            self._pauses = sorted(one for one in kept if one[0] < math.inf)
        self._look_at(resource)

    def tick(self, now_s: float) -> None:
        """Open the gates whose pause is over, for one job each."""
        while self.next_s() <= now_s:
            _, resource = heapq.heappop(self._pauses)
            self._gates[resource].tick(now_s)
            self._look_at(resource)

    def next_s(self) -> float:
        """Return when the next pause is over; infinite if there is none."""
        while self._pauses:
            until_s, resource = self._pauses[0]
            gate = self._gates.get(resource)
            if gate is not None and gate.until_s == until_s:
                return until_s
            heapq.heappop(self._pauses)
        return math.inf

    def waits(self) -> list[Waits]:
        """Return what jobs wait for here. May be called in any thread."""
        gates = (gate.waits(name) for name, gate in list(self._gates.items()))
        return [waits for waits in gates if waits is not None]

    def _gate(self, resource: str) -> Gate:
        return self._gates.get(resource) or self._gates.setdefault(resource, Gate())

    def _line_for(self, entry: Entry) -> Line:
        self._resource_of[entry.job_id] = entry.resource
        return self._gate(entry.resource).line

    def _look_at(self, resource: str) -> None:
        """Note what has become of a gate: after whatever happens to it."""
        gate = self._gates[resource]
        ready = gate.ready
        self.ready += ready - gate.counted
        gate.counted = ready
        turn = gate.line.turn() if ready else None
        if turn is not None and turn != gate.turn:
            gate.turn = turn
            heapq.heappush(self._turns, (turn, resource))
            if self._is_mostly_out_of_date(self._turns):
                turns = ((g.turn, name) for name, g in self._gates.items())
                self._turns = sorted((turn, name) for turn, name in turns if turn is not None)
        if gate.idle:
            del self._gates[resource]
        if not gate.untried:
            self._untried.pop(resource, None)
            return
        self._untried[resource] = None
        if len(self._untried) > settings.GATES_UNTRIED:
            oldest = next(iter(self._untried))
            del self._untried[oldest], self._gates[oldest]

    def _is_mostly_out_of_date(self, heap: Sized) -> bool:
        return len(heap) > 2 * len(self._gates) + settings.GATES_UNTRIED
