"""All jobs that are at no worker: in line, at the gate of a resource, or put off for some time.

Pure: as the scheduler, which has one; the time is given.

Invariants: I1  each job is in exactly one place.
            I2  asking what may run now costs as many steps as there are gates, however many jobs
                wait; so does the next time at which that changes.
            I3  a gate is kept while its resource is bounded, has jobs here or at workers, or has
                asked for a pause that is not over; once it is and no job has come, while it is one
                of the last GATES_UNTRIED of those.
"""

import heapq
import math
from collections.abc import Iterable, Mapping
from typing import final

from collector import settings
from collector.process.scheduler.decisions import Entry
from collector.process.scheduler.gates import Gate, Waits
from collector.process.scheduler.waiting import Line


@final
class Lines:
    """The jobs that wait.

    Args:
        limits: How many jobs of a resource may run at once, by its name; of others any number.
    """

    def __init__(self, limits: Mapping[str, int] | None = None) -> None:
        self._gates = {name: Gate(limit) for name, limit in (limits or {}).items()}
        self._free = Line()
        """Jobs of no resource."""
        self._alone: dict[str, Line] = {}
        """Jobs beside which no other one may run, by their resource; no line is empty."""
        self._running_alone = 0
        self._put_off: dict[int, Entry] = {}
        self._due: list[tuple[float, int]] = []

    def __bool__(self) -> bool:
        return bool(self._free or self._put_off or self._alone) or any(
            gate.line for gate in self._gates.values()
        )

    @property
    def ready(self) -> int:
        """How many of them a worker might run now."""
        if self._running_alone:
            return 0
        if self._alone and self._alone_that_may_run():
            return 1
        ready = len(self._free)
        return ready + sum(gate.ready for gate in self._gates.values()) if self._gates else ready

    def values(self) -> list[Entry]:
        """Return all of them."""
        waiting = (gate.line for gate in self._gates.values())
        lines = (self._free, *self._alone.values(), *waiting)
        return [*(e for line in lines for e in line.values()), *self._put_off.values()]

    def add(self, entry: Entry) -> None:
        """A job came."""
        shares = entry.resource or entry.alone
        (self._line_of(entry) if shares else self._free)[entry.job_id] = entry

    def put_back(self, entry: Entry) -> None:
        """A job was at a worker already: it goes before those that were not."""
        self._line_of(entry).put_back(entry)

    def put_off(self, entry: Entry, due_s: float) -> None:
        """A job that was at a worker is to wait until then."""
        self._put_off[entry.job_id] = entry
        heapq.heappush(self._due, (due_s, entry.job_id))

    def close(self, resource: str, until_s: float) -> None:
        """Let no job of this resource go to a worker until then, and at first one only."""
        self._gate(resource).close(until_s)

    def get(self, job_id: int) -> Entry | None:
        """Return a job that waits; None if it is at a worker, or over."""
        found = (where.get(job_id) for where in self._places())
        return next((entry for entry in found if entry is not None), None)

    def pop(self, job_id: int) -> Entry | None:
        """Take out a job; None if it is at a worker, or over."""
        found = (where.pop(job_id, None) for where in self._places())
        entry = next((entry for entry in found if entry is not None), None)
        if entry is not None:
            self._drop_if_idle(entry.resource)
        return entry

    def clear(self) -> None:
        """Drop all of them."""
        for where in self._places():
            where.clear()
        self._alone.clear()
        self._due.clear()
        for resource in list(self._gates):
            self._drop_if_idle(resource)

    def take_first(self, running: int) -> Entry | None:
        """Take out the job whose turn it is, for an idle worker.

        Args:
            running: How many jobs are at workers.
        """
        if self._running_alone:
            return None
        if self._alone and (alone := self._alone_that_may_run()):
            return None if running else self._taken(alone.take_first())
        if not self._gates:
            return self._free.take_first()
        return self._taken(self._first().take_first())

    def ahead(self) -> Line:
        """Return the jobs that may wait at a worker, behind another one.

        A job of a resource may not: its gate could close meanwhile. While it is the turn of one,
        nobody else may either: a worker that always has a job would never be idle for it.
        """
        if self._running_alone or (self._alone and self._alone_that_may_run()):
            return Line()
        first = self._first()
        return first if first is self._free else Line()

    def _first(self) -> Line:
        """Return the line whose first job's turn it is, of those at no closed gate."""
        if not self._gates:
            return self._free
        open_lines = [g.line for g in self._gates.values() if g.line and g.room > 0]
        if self._free:
            open_lines.append(self._free)
        return min(open_lines, key=Line.turn, default=self._free)

    def left(self, entry: Entry, *, proved: bool) -> None:
        """A job has left its worker; `proved` if its resource is known to have served it."""
        if entry.job_id == self._running_alone:
            self._running_alone = 0
        if entry.resource:
            self._gate(entry.resource).left(entry, proved=proved)
            self._drop_if_idle(entry.resource)

    def proved(self, entry: Entry) -> bool:
        """The resource of a running job has served it; returns whether the gate opens."""
        return bool(entry.resource) and self._gate(entry.resource).proved(entry)

    def tick(self, now_s: float) -> bool:
        """Let go on what was to wait until now; returns whether more jobs may run."""
        if now_s < self.next_s():
            return False
        for gate in self._gates.values():
            gate.tick(now_s)
        untried = [resource for resource, gate in self._gates.items() if gate.untried]
        for resource in untried[: -settings.GATES_UNTRIED]:
            del self._gates[resource]
        while self._due and self._due[0][0] <= now_s:
            entry = self._put_off.pop(heapq.heappop(self._due)[1], None)
            if entry is not None:  # else it was cancelled
                self.put_back(entry)
        return True

    def next_s(self) -> float:
        """Return when time itself changes what may run; infinite if it does not."""
        if not (self._due or self._gates):
            return math.inf  # as in most rounds
        soonest = self._due[0][0] if self._due else math.inf
        return min(soonest, *(g.until_s for g in self._gates.values()), math.inf)

    def waits(self) -> list[Waits]:
        """Return what jobs wait for, beside workers. May be called in any thread."""
        gates = (gate.waits(name) for name, gate in list(self._gates.items()))
        found = [waits for waits in gates if waits is not None]
        count, due = len(self._put_off), self._due[:1]
        if count:
            found.append(Waits("", "again", count, due[0][0] if due else math.inf))
        return found

    def _gate(self, resource: str) -> Gate:
        return self._gates.get(resource) or self._gates.setdefault(resource, Gate())

    def _drop_if_idle(self, resource: str) -> None:
        if resource in self._alone and not self._alone[resource]:
            del self._alone[resource]
        gate = self._gates.get(resource)
        if gate is not None and gate.idle:
            del self._gates[resource]

    def _line_of(self, entry: Entry) -> Line:
        if entry.alone:
            return self._alone.setdefault(entry.resource, Line())
        return self._gate(entry.resource).line if entry.resource else self._free

    def _places(self) -> Iterable[dict[int, Entry]]:
        yield self._free
        yield self._put_off
        yield from self._alone.values()
        for gate in self._gates.values():
            yield gate.line

    def _alone_that_may_run(self) -> Line | None:
        """Return the line of the first job that is to run alone and whose resource has room."""
        gates = self._gates
        lines = [
            line
            for resource, line in self._alone.items()
            if resource not in gates or gates[resource].room > 0
        ]
        return min(lines, key=Line.turn, default=None)

    def _taken(self, entry: Entry | None) -> Entry | None:
        if entry is not None:
            if entry.alone:
                self._running_alone = entry.job_id
                self._drop_if_idle(entry.resource)
            if entry.resource:
                self._gate(entry.resource).passed(entry)
        return entry
