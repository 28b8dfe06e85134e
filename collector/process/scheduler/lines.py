"""All jobs that are at no worker: in line, at the gate of a resource, or put off for some time.

Pure: as the scheduler, which has one; the time is given.

Invariants: I1  each job is in exactly one place.
            I2  what is asked in each round costs as many steps however many jobs wait, and of
                however many resources; so does all that happens to one job.
"""

import heapq
import math
from collections.abc import Mapping
from typing import final

from collector.process.scheduler.decisions import Entry
from collector.process.scheduler.gates import Gates, Waits
from collector.process.scheduler.waiting import Line


@final
class Lines:
    """The jobs that wait.

    Args:
        limits: How many jobs of a resource may run at once, by its name; of others any number.
    """

    def __init__(self, limits: Mapping[str, int] | None = None) -> None:
        self.gates = Gates(limits)
        self._free = Line()
        """Jobs of no resource."""
        self._alone: dict[str, Line] = {}
        """Jobs beside which no other one may run, by their resource; no line is empty."""
        self._running_alone = 0
        self._put_off: dict[int, Entry] = {}
        self._due: list[tuple[float, int]] = []

    def __bool__(self) -> bool:
        return bool(self._free or self._put_off or self._alone or self.gates)

    @property
    def ready(self) -> int:
        """How many of them a worker might run now."""
        if self._running_alone:
            return 0
        if self._alone and self._alone_that_may_run():
            return 1
        return len(self._free) + self.gates.ready

    def values(self) -> list[Entry]:
        """Return all of them."""
        places = (self._free, self._put_off, *self._alone.values())
        return [*(e for place in places for e in place.values()), *self.gates.values()]

    def add(self, entry: Entry) -> None:
        """A job came."""
        if entry.alone:
            self._line_alone(entry)[entry.job_id] = entry
        elif entry.resource:
            self.gates.add(entry)
        else:
            self._free[entry.job_id] = entry

    def put_back(self, entry: Entry) -> None:
        """A job was at a worker already: it goes before those that were not."""
        if entry.alone:
            self._line_alone(entry).put_back(entry)
        elif entry.resource:
            self.gates.put_back(entry)
        else:
            self._free.put_back(entry)

    def put_off(self, entry: Entry, due_s: float) -> None:
        """A job that was at a worker is to wait until then."""
        self._put_off[entry.job_id] = entry
        heapq.heappush(self._due, (due_s, entry.job_id))

    def get(self, job_id: int) -> Entry | None:
        """Return a job that waits; None if it is at a worker, or over."""
        found = self._free.get(job_id) or self._put_off.get(job_id)
        alone = (line[job_id] for line in self._alone.values() if job_id in line)
        return found or next(alone, None) or self.gates.get(job_id)

    def pop(self, job_id: int) -> Entry | None:
        """Take out a job; None if it is at a worker, or over."""
        found = self._free.pop(job_id, None) or self._put_off.pop(job_id, None)
        return found or self._pop_alone(job_id) or self.gates.pop(job_id)

    def clear(self) -> None:
        """Drop all of them."""
        for line in (self._free, self._put_off, self._alone, self.gates, self._due):
            line.clear()

    def take_first(self, running: int) -> Entry | None:
        """Take out the job whose turn it is, for an idle worker.

        Args:
            running: How many jobs are at workers.
        """
        if self._running_alone:
            return None
        if self._alone and (alone := self._alone_that_may_run()):
            return None if running else self._begin_alone(alone)
        return self.gates.take_first() if self._is_turn_at_a_gate() else self._free.take_first()

    def ahead(self) -> Line:
        """Return the jobs that may wait at a worker, behind another one.

        A job of a resource may not: its gate could close meanwhile. While it is the turn of one,
        nobody else may either: a worker that always has a job would never be idle for it.
        """
        if self._running_alone or (self._alone and self._alone_that_may_run()):
            return Line()
        return Line() if self._is_turn_at_a_gate() else self._free

    def left(self, entry: Entry, *, proved: bool) -> None:
        """A job has left its worker; `proved` if its resource is known to have served it."""
        if entry.job_id == self._running_alone:
            self._running_alone = 0
        if entry.resource:
            self.gates.left(entry, proved=proved)

    def proved(self, entry: Entry) -> bool:
        """The resource of a running job has served it; returns whether the gate opens."""
        return bool(entry.resource) and self.gates.proved(entry)

    def tick(self, now_s: float) -> bool:
        """Let go on what was to wait until now; returns whether more jobs may run."""
        if now_s < self.next_s():
            return False
        self.gates.tick(now_s)
        while self._due and self._due[0][0] <= now_s:
            entry = self._put_off.pop(heapq.heappop(self._due)[1], None)
            if entry is not None:  # else it was cancelled
                self.put_back(entry)
        return True

    def next_s(self) -> float:
        """Return when time itself changes what may run; infinite if it does not."""
        soonest = self._due[0][0] if self._due else math.inf
        return min(soonest, self.gates.next_s())

    def waits(self) -> list[Waits]:
        """Return what jobs wait for, beside workers. May be called in any thread."""
        found = self.gates.waits()
        count, due = len(self._put_off), self._due[:1]
        if count:
            found.append(Waits("", "again", count, due[0][0] if due else math.inf))
        return found

    def _is_turn_at_a_gate(self) -> bool:
        if not self.gates.ready:
            return False  # as in most rounds
        turn = self.gates.turn()
        return turn is not None and (not self._free or turn < self._free.turn())

    def _line_alone(self, entry: Entry) -> Line:
        return self._alone.setdefault(entry.resource, Line())

    def _pop_alone(self, job_id: int) -> Entry | None:
        for resource, line in self._alone.items():
            if job_id in line:
                entry = line.pop(job_id)
                if not line:
                    del self._alone[resource]
                return entry
        return None

    def _alone_that_may_run(self) -> Line | None:
        """Return the line of the first job that is to run alone and whose resource has room."""
        lines = [line for name, line in self._alone.items() if self.gates.has_room(name)]
        return min(lines, key=Line.turn, default=None)

    def _begin_alone(self, line: Line) -> Entry | None:
        entry = line.take_first()
        if entry is None:
            return None
        if not line:
            del self._alone[entry.resource]
        self._running_alone = entry.job_id
        if entry.resource:
            self.gates.passed(entry)
        return entry
