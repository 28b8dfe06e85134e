"""Who runs what, when: decides for the pool, which does it.

Pure: events in, actions out; no process, no I/O, and the clock is given.

States:     of a job: QUEUED -> DISPATCHED -> (RUNNING) -> settled, or QUEUED again for its next
            attempt; of a worker: STARTING -> READY -> LEAVING -> gone (a death leads there from
            anywhere).
Invariants: I1  each job is settled exactly once.
            I2  at most `max_workers` workers that are not gone.
            I3  a ticket is used for one attempt of one job, never again: attempts cannot be mixed
                up.
            I4  a job that had not started when its worker died goes back to the head of the line.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Final, final

from collector import settings
from collector.process.actions import (
    BY_ITS_FUNCTION,
    Action,
    Dispatch,
    Entry,
    KillWorker,
    Recall,
    RunAgain,
    Settle,
    StartWorker,
    StopWorker,
    Unclaim,
    Verdict,
)
from collector.process.line import Line
from collector.process.pace import Pace
from collector.process.seat import Seat
from collector.process.setbacks import Setbacks

_FINAL: Final = (Verdict.RETURNED, Verdict.KILLED, Verdict.UNABLE)  # no further attempt follows


@final
class Scheduler:
    """Decides for one Collector.

    Args:
        max_workers: The most workers at a time.
        max_tasks_per_child: A worker leaves after so many jobs; None for never.
        clock: Tells the time, in seconds.
    """

    def __init__(
        self,
        max_workers: int,
        max_tasks_per_child: int | None = None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._clock = clock
        self._pace = Pace()
        self.max_workers = max_workers
        self._max_tasks = math.inf if max_tasks_per_child is None else max_tasks_per_child
        self._waiting = Line()
        self._dispatched: dict[int, Entry] = {}
        self._unwanted: set[int] = set()
        self._seats: dict[int, Seat] = {}
        self._tickets = itertools.count(1)
        self._numbers = itertools.count(1)
        self.setbacks = Setbacks()
        self._stopping = False
        self._hindered = False
        self._full = False  # nobody can take one more job

    @property
    def unsettled(self) -> bool:
        """Whether a job is still to be settled."""
        return bool(self._waiting or self._dispatched)

    def find(self, ticket: int) -> Entry | None:
        """Return the job that an attempt belongs to, if it is dispatched."""
        return self._dispatched.get(ticket)

    def next_deadline_s(self) -> float:
        """When time itself will be news: a job has used up its own, or keeps others waiting."""
        deadlines = [entry.deadline_s for entry in self._first()]
        deadlines.extend(seat.since_s + self._pace.patience_s for seat in self._blocked())
        deadlines.extend(s.kill_by_s for s in self._seats.values() if s.kill_by_s is not None)
        return min(deadlines, default=math.inf)

    def submitted(self, entry: Entry) -> Iterable[Action]:
        """A job came."""
        self._waiting[entry.job_id] = entry
        return () if self._full else self._assign()

    def refused(self, entry: Entry) -> Iterator[Action]:
        """A job came after the end."""
        return iter((Settle(entry, Verdict.UNABLE),))

    def withdrawn(self, job_id: int) -> Iterable[Action]:
        """A waiting job was cancelled by its owner; it needs no settling."""
        return self._leave_if_done() if self._waiting.pop(job_id, None) else ()

    def unclaimed(self, ticket: int) -> Iterator[Action]:
        """A job was cancelled while it was being dispatched: the worker has not seen it."""
        entry = self._dispatched.pop(ticket)
        if entry.worker is not None:
            seat = self._seats[entry.worker]
            seat.entries.remove(entry)
            seat.tasks -= 1
        return itertools.chain(self._assign(), self._leave_if_done())

    def killed(self, job_id: int) -> Iterator[Action]:
        """Somebody wants this job ended; one that never ran is cancelled instead."""
        waiting = self._waiting.pop(job_id, None)
        if waiting is not None:
            waiting.sentence = Verdict.KILLED
            yield from self._put_back(waiting)
            yield from self._leave_if_done()
        for entry in [e for e in self._dispatched.values() if e.job_id == job_id]:
            seat = self._seats[entry.worker or 0]
            being_ended, entry.sentence = entry.sentence is not None, Verdict.KILLED
            if not being_ended:  # one that waits behind another job is fetched back
                yield self._end(seat) if seat.entries[0] is entry else Recall(seat.worker)

    def unwanted(self, job_ids: Iterable[int]) -> Iterator[Action]:
        """Nobody wants these jobs any more, but those that have started are to go on."""
        ids = set(job_ids)
        self._unwanted |= {entry.job_id for entry in self._dispatched.values()} & ids
        for job_id in ids & self._waiting.keys():
            if self._waiting[job_id].attempt == 1:
                yield Settle(self._waiting.pop(job_id), Verdict.CANCELLED)
        for seat in self._seats.values():
            if seat.blocked and any(entry.job_id in ids for entry in seat.entries):
                seat.recalled = True
                yield Recall(seat.worker)
        yield from self._leave_if_done()

    def _condemn(self, entry: Entry, worker: int, sentence: Verdict) -> Action:
        entry.sentence = sentence
        return self._end(self._seats[worker])

    def _end(self, seat: Seat) -> Action:
        """End a worker with what it runs; the jobs behind that are fetched back first.

        Its END may be on its way, and the worker at the next job already: that one is spared.
        """
        if not seat.has_others:
            return self._execute(seat)
        seat.kill_by_s = self._clock() + settings.SPARE_OTHERS_S
        return Recall(seat.worker)

    @staticmethod
    def _execute(seat: Seat) -> Action:
        seat.leaving = True
        seat.kill_by_s = None
        return KillWorker(seat.worker)

    def started(self, worker: int, ticket: int, now_s: float) -> Iterator[Action]:
        """A worker has begun to run the job."""
        entry = self._dispatched.get(ticket)
        if entry is not None and entry.worker == worker:
            entry.started_s = now_s
            seat = self._seats[worker]
            if entry.sentence is None:
                seat.kill_by_s = None  # what was to end there is over
            elif entry.sentence is Verdict.KILLED and not seat.leaving:
                return iter((self._condemn(entry, worker, Verdict.KILLED),))
        return iter(())

    def delayed(self, pause_s: float) -> None:
        """This process was stopped for so long: running jobs get the time back."""
        for entry in self._dispatched.values():
            if entry.started_s is not None:
                entry.started_s += pause_s

    def ticked(self, now_s: float) -> Iterator[Action]:
        """Time has passed, and all news has been told: what was worth no portion is sent too."""
        for entry in self._first():
            if entry.worker is not None and entry.deadline_s <= now_s:
                yield self._condemn(entry, entry.worker, Verdict.TIMED_OUT)
        for seat in self._seats.values():
            if seat.kill_by_s is not None and seat.kill_by_s <= now_s:
                yield self._execute(seat)
        for seat in self._blocked():
            if seat.since_s + self._pace.patience_s <= now_s:
                seat.recalled = True
                yield Recall(seat.worker)
        yield from self._assign() if self._full else ()

    def _first(self) -> list[Entry]:
        """Return the first job of each worker: no other one can be running."""
        return [seat.entries[0] for seat in self._seats.values() if seat.entries]

    def _blocked(self) -> list[Seat]:
        """Return workers with jobs behind a running one that another may have sooner, or nobody."""
        wanted = self.max_workers > 1 or self._unwanted
        return [seat for seat in self._seats.values() if seat.blocked] if wanted else []

    def ended(self, ticket: int, verdict: Verdict) -> Iterable[Action]:
        """An attempt is over, as the sink says."""
        entry = self._dispatched.pop(ticket, None)
        if entry is None:
            return ()
        hindered, decided = self._hindered, list[Action]()
        seat = self._seats.get(entry.worker or 0)
        if seat is not None and entry in seat.entries:
            seat.entries.remove(entry)
            self._pace.took(seat.advance(self._clock()))
        if verdict in BY_ITS_FUNCTION:
            self.setbacks.sink_deaths = 0
            self._hindered = False
        elif verdict is Verdict.CRASHED:
            verdict = entry.sentence or verdict
            if seat is not None:
                seat.leaving = True  # it is dead: nothing more for it
        elif verdict is Verdict.SPILL_FAILED and seat is not None and not seat.leaving:
            decided.append(self._end(seat))  # its function runs on
        decided.append(self._judge(entry, verdict))
        if hindered or not self._full or seat is None or seat.is_low(self._pace.refill_at):
            decided += self._assign()
        decided += self._leave_if_done()
        return decided

    def _judge(self, entry: Entry, verdict: Verdict) -> Action:
        self._unwanted.discard(entry.job_id)
        if not entry.retries or verdict in _FINAL or entry.sentence is Verdict.KILLED:
            return Settle(entry, verdict)
        entry.retries -= 1
        entry.attempt += 1
        self._wait_again(entry)
        return RunAgain(entry, verdict)

    def _wait_again(self, entry: Entry) -> None:
        entry.leave_worker()
        self._waiting.put_back(entry)

    def _put_back(self, entry: Entry) -> Iterator[Action]:
        """A job was at a worker and had not started."""
        never_ran, killed = entry.attempt == 1, entry.sentence is Verdict.KILLED
        if killed or (never_ran and entry.job_id in self._unwanted):
            yield Settle(entry, Verdict.CANCELLED if never_ran else Verdict.KILLED)
        else:
            self._wait_again(entry)
            if never_ran:
                yield Unclaim(entry)
        self._unwanted.discard(entry.job_id)

    def worker_ready(self, worker: int) -> Iterator[Action]:
        """A worker can take jobs."""
        seat = self._seats.get(worker)
        if seat is not None:
            seat.ready = True
            self.setbacks.early_deaths = self.setbacks.failed_starts = 0
        return itertools.chain(self._assign(), self._leave_if_done())

    def worker_not_started(self, worker: int) -> Iterator[Action]:
        """No process is to be had now: the others work on, until one of them ends a job."""
        self._seats.pop(worker)
        if not self._hindered:  # of several that were to be started together one counts
            self.setbacks.failed_starts += 1
        self._hindered = True
        return iter(())

    def unhindered(self) -> Iterable[Action]:
        """A process may be had again."""
        self._hindered = False
        return self._assign()

    def handed_back(self, worker: int, ticket: int) -> Iterator[Action]:
        """A worker gave up a job that it had not started."""
        entry = self._dispatched.get(ticket)
        if entry is not None and entry.worker == worker:
            del self._dispatched[ticket]
            seat = self._seats.get(entry.worker or 0)
            if seat is not None and entry in seat.entries:
                seat.entries.remove(entry)
                seat.tasks -= 1
                seat.recalled = False
                if seat.kill_by_s is not None and not seat.has_others:
                    yield self._execute(seat)
            yield from self._put_back(entry)
        yield from self._assign()
        yield from self._leave_if_done()

    def worker_gone(
        self, worker: int, last_begun: int | None = None, *, given_up: bool = False
    ) -> Iterator[Action]:
        """A worker is dead and its queue is read to the end: what it still had, had not started.

        Unless its queue went with the sink, or was given up: then what it had is open up to the
        `last_begun` ticket; None if that is not known.
        """
        seat = self._seats.pop(worker, None)
        if seat is None:
            return
        if not seat.ready and not seat.leaving:
            self.setbacks.early_deaths += 1
        begun = seat.begun(last_begun) if seat.sink_lost or given_up else []
        for entry in seat.entries:
            self._dispatched.pop(entry.ticket, None)
        for entry in begun:
            lost = Verdict.SINK_LOST if seat.sink_lost else Verdict.CRASHED
            yield self._judge(entry, entry.sentence or lost)
        for entry in reversed(list(seat.entries)[len(begun) :]):
            yield from self._put_back(entry)
        yield from self._assign()
        yield from self._leave_if_done()

    def sink_gone(self) -> Iterator[Action]:
        """The sink died: what the workers had open is lost, and so are their queues."""
        self.setbacks.sink_deaths += 1
        for seat in self._seats.values():
            seat.leaving = seat.sink_lost = True
            yield KillWorker(seat.worker)

    def stop(self, *, cancel: bool = False) -> Iterator[Action]:
        """No further job will come; with `cancel` none runs that has not started."""
        self._stopping = True
        entries = [*self._waiting.values(), *self._dispatched.values()] if cancel else []
        return self.unwanted(entry.job_id for entry in entries)

    def kill_all(self) -> Iterator[Action]:
        """End every job; those that never ran were cancelled by their owners."""
        for entry in list(self._waiting.values()):
            yield from self.killed(entry.job_id)
        for seat in self._seats.values():
            for entry in seat.entries:
                entry.sentence = entry.sentence or Verdict.KILLED
            if seat.entries:
                seat.leaving = True
                yield KillWorker(seat.worker)

    def break_off(self) -> Iterator[Action]:
        """Give up: nothing can run any more."""
        self._stopping = True
        entries = [*self._dispatched.values(), *self._waiting.values()]
        self._dispatched.clear()
        self._waiting.clear()
        self._unwanted.clear()
        for seat in self._seats.values():
            seat.entries.clear()
            seat.leaving = True
            yield KillWorker(seat.worker)
        for entry in entries:
            yield Settle(entry, entry.sentence or Verdict.UNABLE)

    def _leave_if_done(self) -> list[Action]:
        if not self._stopping or self.unsettled:
            return []
        return [self._let_go(seat) for seat in self._seats.values() if not seat.leaving]

    @staticmethod
    def _let_go(seat: Seat) -> Action:
        seat.leaving = True
        return StopWorker(seat.worker)

    def _assign(self) -> list[Action]:
        """Give jobs to idle workers; start workers while more jobs wait than are coming up."""
        decided = [self._let_go(s) for s in self._seats.values() if s.idle and s.used_up]
        idle = [seat for seat in self._seats.values() if seat.idle]
        while idle and (entry := self._waiting.take_first()) is not None:
            decided.append(self._dispatch(idle.pop(), entry))
        if self._waiting and self._pace.brisk:
            self._send_ahead(decided)
        free = 0 if self._hindered else self.max_workers - len(self._seats)
        if free > 0:
            wanted = len(self._waiting) - sum(s.coming for s in self._seats.values())
            for worker in itertools.islice(self._numbers, max(0, min(wanted, free))):
                self._seats[worker] = Seat(worker, self._max_tasks)
                decided.append(StartWorker(worker))
        self._full = bool(self._waiting) and free <= 0
        return decided

    def _send_ahead(self, decided: list[Action]) -> None:
        """While jobs are over in no time, let some wait at the workers, not here: shared evenly."""
        now_s = self._clock()
        ahead = self._pace.ahead()
        seats = self._seats
        fit = [(len(s.entries), s.worker) for s in seats.values() if s.has_room(ahead, now_s)]
        heapq.heapify(fit)
        while fit and (entry := self._waiting.take_first()) is not None:
            count, worker = fit[0]
            seat = seats[worker]
            decided.append(self._dispatch(seat, entry))
            if count + 1 < ahead and not seat.used_up:
                heapq.heapreplace(fit, (count + 1, worker))
            else:
                heapq.heappop(fit)

    def _dispatch(self, seat: Seat, entry: Entry) -> Dispatch:
        if not seat.entries:
            seat.since_s = self._clock()
        entry.ticket = next(self._tickets)
        entry.worker = seat.worker
        self._dispatched[entry.ticket] = entry
        seat.entries.append(entry)
        seat.tasks += 1
        return Dispatch(seat.worker, entry)
