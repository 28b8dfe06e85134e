"""Decides which job runs where, and when; the pool does what is decided.

Pure: events in, actions out; no process, no I/O, and the clock is given.

States:     of a job, `decisions.TABLE`; of a worker, `worker_state.TABLE`.
Invariants: I1  each job is settled exactly once.
            I2  there are at most `max_workers` workers that are not gone.
            I3  a ticket is one attempt of one job, never used again: attempts cannot be mixed up.
            I4  a job that had not started when its worker died goes back to the head of the line.
            I5  a job is dispatched as long as it is at the seat of its worker, and no longer.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, final

from collector import settings
from collector.process.scheduler.decisions import (
    NOT_AGAIN,
    Action,
    Dispatch,
    End,
    Entry,
    KillWorker,
    LookIfLoaded,
    Recall,
    RunAgain,
    RunLater,
    StartWorker,
    StopWorker,
    TerminateWorker,
    Unclaim,
    settle,
)
from collector.process.scheduler.gates import Waits
from collector.process.scheduler.lines import Lines
from collector.process.scheduler.prefetch import Prefetch
from collector.process.scheduler.retries import Cause, Later, Remark, Retry, cause_of, is_retried
from collector.process.scheduler.seats import Seats
from collector.process.scheduler.setbacks import Setbacks
from collector.process.scheduler.worker_state import Event, Seat, State
from collector.wire.outcome import BY_ITS_FUNCTION, Outcome

_FINAL: Final = (Outcome.RETURNED, Outcome.KILLED, Outcome.UNABLE)  # no further attempt follows
_NO_MORE: Final = Retry(crash=0, timeout=0, oom=0, error=0, later=0)
_DIED: Final = End(Outcome.CRASHED)


@final
class Scheduler:
    """Decides for one Collector.

    Args:
        max_workers: The most workers at a time.
        max_tasks_per_child: A worker leaves after so many jobs; None for never.
        clock: Tells the time, in seconds.
        limits: How many jobs of a resource may run at once, by its name.
        chance: Returns random numbers from 0 to 1, for the jitter of delays.
        distance: How many times as long as here the way to a worker takes; 0 sends none ahead.
    """

    def __init__(
        self,
        max_workers: int,
        max_tasks_per_child: int | None = None,
        clock: Callable[[], float] = lambda: 0.0,
        limits: Mapping[str, int] | None = None,
        chance: Callable[[], float] = lambda: 0.5,
        *,
        distance: float = 1.0,
    ) -> None:
        self._clock = clock
        self._prefetch = Prefetch(distance=distance)
        self.max_workers = max_workers
        self._max_tasks = math.inf if max_tasks_per_child is None else max_tasks_per_child
        self._waiting = Lines(limits)
        self._chance = chance
        self._dispatched: dict[int, Entry] = {}
        self._unwanted: set[int] = set()
        self._seats = Seats(self._due_s)
        self._tickets = itertools.count(1)
        self._numbers = itertools.count(1)
        self.setbacks = Setbacks()
        self._stopping = False
        self._full = False  # nobody can take one more job now

    @property
    def unsettled(self) -> bool:
        """Whether a job is still to be settled."""
        return bool(self._waiting or self._dispatched)

    def find(self, ticket: int) -> Entry | None:
        """Return the job that an attempt belongs to, if it is dispatched."""
        return self._dispatched.get(ticket)

    def running(self) -> list[Entry]:
        """Return the jobs that are known to run; may be called in any thread."""
        return [e for e in list(self._dispatched.values()) if e.started_s != math.inf]

    def next_deadline_s(self) -> float:
        """When something is due though nothing happens: a time-out, a recall, a kill, a gate."""
        return min(self._waiting.next_s(), self._seats.next_s())

    def _due_s(self, seat: Seat) -> float | None:
        soonest_s = min(seat.deadline_s, self._recall_at_s(seat))
        return None if soonest_s == math.inf else soonest_s

    def waits(self) -> list[Waits]:
        """Return what jobs wait for, beside workers; may be called in any thread."""
        return self._waiting.waits()

    def submitted(self, entry: Entry) -> Iterable[Action]:
        """A job came."""
        self._waiting.add(entry)
        return () if self._full else self._assign()

    def refused(self, entry: Entry, reason: str) -> Iterator[Action]:
        """A job came after the end, which had this reason."""
        return iter((settle(entry, End(Outcome.UNABLE, reason=reason)),))

    def withdrawn(self, job_id: int) -> Iterable[Action]:
        """A waiting job was cancelled by its owner; it needs no settling."""
        return self._leave_if_done() if self._waiting.pop(job_id) else ()

    def unclaimed(self, ticket: int) -> Iterator[Action]:
        """A job was cancelled while it was being dispatched: the worker has not seen it."""
        self._give_back(self._dispatched[ticket])
        return itertools.chain(self._assign(), self._leave_if_done())

    def killed(self, job_id: int, reason: str = "") -> Iterator[Action]:
        """Somebody wants this job ended; one that never ran is cancelled instead."""
        waiting = self._waiting.pop(job_id)
        if waiting is not None:
            waiting.sentence = Outcome.KILLED
            yield from self._put_back(waiting, reason)
            yield from self._leave_if_done()
        for entry in [e for e in self._dispatched.values() if e.job_id == job_id]:
            seat = self._seats[entry.worker or 0]
            being_ended, entry.sentence = entry.sentence is not None, Outcome.KILLED
            if not being_ended:  # one that waits behind another job is recalled
                yield self._end(seat) if seat.entries[0] is entry else Recall(seat.worker)

    def dropped(self, job_ids: Iterable[int]) -> Iterator[Action]:
        """Nobody waits for these jobs any more: those that run go on, and are not run again."""
        ids = set(job_ids)
        for entry in self._dispatched.values():
            if entry.job_id in ids:
                entry.retries, entry.retry = 0, _NO_MORE
        for job_id in ids:
            if self._waiting.get(job_id) is not None:
                yield from self.killed(job_id, NOT_AGAIN)

    def unwanted(self, job_ids: Iterable[int]) -> Iterator[Action]:
        """Nobody wants these jobs any more: those that run go on, and are not run again."""
        ids = set(job_ids)
        self._unwanted |= {entry.job_id for entry in self._dispatched.values()} & ids
        yield from self.dropped(ids)
        for seat in self._seats.values():
            if seat.blocked and any(entry.job_id in ids for entry in seat.entries):
                seat.recalled = True
                yield Recall(seat.worker)
        yield from self._leave_if_done()

    def _end(self, seat: Seat) -> Action:
        """End a worker with what it runs; first recall the jobs that wait behind that.

        The condemned job may have ended already; recall the next one first, so that it is not
        killed.
        """
        if not seat.has_others:
            return self._kill(seat)
        seat.spare_until_s = self._clock() + settings.SPARE_OTHERS_S
        return Recall(seat.worker)

    @staticmethod
    def _kill(seat: Seat) -> Action:
        seat.hear(Event.LET_GO)
        seat.spare_until_s = None
        return KillWorker(seat.worker)

    def started(self, worker: int, ticket: int, now_s: float) -> Iterator[Action]:
        """A worker has begun to run the job."""
        entry = self._dispatched.get(ticket)
        if entry is not None and entry.worker == worker:
            entry.begin(now_s)
            seat = self._seats[worker]
            if entry.sentence is None:
                seat.spare_until_s = None  # the condemned job is over
            elif entry.sentence is Outcome.KILLED and not seat.retired:
                yield self._end(seat)

    def delayed(self, pause_s: float) -> Iterator[Action]:
        """This process was stopped for so long, which does not count for jobs whose time ran."""
        for seat in self._seats.values():
            for entry in itertools.islice(seat.entries, 1):  # no other one can be running
                if entry.loaded:
                    entry.started_s += pause_s
                elif entry.deadline_s < math.inf:
                    yield LookIfLoaded(entry, pause_s)

    def ticked(self, now_s: float) -> Iterator[Action]:
        """All news of a round has been told: do what is due, and send what makes no portion too."""
        for seat in self._seats.due(now_s):
            yield from self._due(seat, now_s)
        yield from self._assign() if self._waiting.tick(now_s) or self._full else ()

    def _due(self, seat: Seat, now_s: float) -> Iterator[Action]:
        for entry in itertools.islice(seat.entries, 1):
            if entry.deadline_s <= now_s and not entry.loaded:
                yield LookIfLoaded(entry)  # if it is late all the same, the next round ends it
            elif entry.deadline_s <= now_s:
                entry.sentence = Outcome.TIMED_OUT
                yield self._end(seat)
        if seat.spare_until_s is not None and seat.spare_until_s <= now_s:
            yield self._kill(seat)
        elif self._recall_at_s(seat) <= now_s:
            seat.recalled = True
            yield Recall(seat.worker)

    def remarked(self, ticket: int, remark: Remark) -> None:
        """A worker has said something of the attempt that it runs."""
        entry = self._dispatched.get(ticket)
        if entry is not None:
            entry.remark = remark

    def proved(self, ticket: int) -> Iterable[Action]:
        """A running job has written something: its resource serves it."""
        entry = self._dispatched.get(ticket)
        if entry is None or not self._waiting.proved(entry):
            return ()
        return self._assign()

    def _recall_at_s(self, seat: Seat) -> float:
        """When jobs behind a running one are recalled that others might run, or nobody wants."""
        recalls = seat.blocked and (self.max_workers > 1 or self._unwanted)
        return self._prefetch.recall_at_s(seat) if recalls else math.inf

    def ended(self, ticket: int, end: End) -> Iterable[Action]:
        """A dispatched attempt is over, as the sink says."""
        entry = self._dispatched.pop(ticket)
        by_itself = end.outcome in BY_ITS_FUNCTION
        self._waiting.left(entry, proved=by_itself and entry.remark.later is None)
        hindered, decided = self.setbacks.hindered, list[Action]()
        seat = self._seats[entry.worker or 0]
        seat.entries.remove(entry)
        if self._prefetch.took(seat.advance(self._clock())):
            self._seats.look_at_all()  # jobs may be recalled earlier than it was said
        if by_itself:
            self.setbacks.sink_deaths = 0
            self.setbacks.hindered = False
        elif end.outcome is Outcome.CRASHED:
            end = end.called(entry.sentence or Outcome.CRASHED)
            seat.hear(Event.LET_GO)  # it is dead: nothing more for it
        elif end.outcome is Outcome.SPILL_FAILED and not seat.retired:
            decided.append(self._end(seat))  # its function runs on
        decided.append(self._judge(entry, end))
        if not seat.entries and seat.used_up and seat.idle:
            decided.append(self._let_go(seat))
        if hindered or not self._full or self._prefetch.wants_more(seat):
            decided += self._assign()
        decided += self._leave_if_done()
        return decided

    def _judge(self, entry: Entry, end: End) -> Action:
        wanted = entry.attempt > 1 or entry.job_id not in self._unwanted
        self._unwanted.discard(entry.job_id)
        if end.outcome in _FINAL or entry.sentence is Outcome.KILLED:
            return settle(entry, end)
        if end.outcome is Outcome.RAISED and entry.remark.later is not None:
            return self._judge_later(entry, end, entry.remark.later, wanted=wanted)
        if entry.retry is not None:
            return self._judge_by_cause(entry, end, entry.retry)
        if not entry.retries:
            return settle(entry, end)
        entry.retries -= 1
        entry.attempt += 1
        entry.leave_worker()
        self._waiting.put_back(entry)
        return RunAgain(entry, end)

    def _judge_by_cause(self, entry: Entry, end: End, retry: Retry) -> Action:
        cause = cause_of(end.outcome, entry.remark, out_of_memory=end.out_of_memory)
        used = (entry.used or {}).get(cause, 0)
        if not is_retried(retry, end.outcome, entry.remark, cause, used):
            return settle(entry, end)
        until_s = self._clock() + retry.wait_s(entry.count(cause), self._chance())
        entry.attempt += 1
        entry.alone = entry.alone or cause is Cause.OOM
        entry.leave_worker()
        self._waiting.put_off(entry, until_s)
        return RunAgain(entry, end)

    def _judge_later(self, entry: Entry, end: End, later: Later, *, wanted: bool) -> Action:
        """Put off a job that asks for it, and its resource's others, behind which it goes again."""
        resource, until_s = later.resource or entry.resource, self._clock() + later.after_s
        if resource:
            self._waiting.gates.close(resource, until_s)
        if not wanted:
            return settle(entry, end.called(Outcome.CANCELLED))
        used = (entry.used or {}).get(Cause.LATER, 0)
        if entry.retry is not None and used >= entry.retry.most(Cause.LATER):
            return settle(entry, end)
        entry.count(Cause.LATER)
        entry.leave_worker()
        if resource == entry.resource and resource:
            (self._waiting.add if used else self._waiting.put_back)(entry)
        else:
            self._waiting.put_off(entry, until_s)
        return RunLater(entry, end)

    def _give_back(self, entry: Entry) -> Seat:
        """A job leaves its worker, which has not run it."""
        del self._dispatched[entry.ticket]
        self._waiting.left(entry, proved=False)
        seat = self._seats[entry.worker or 0]
        seat.entries.remove(entry)
        seat.tasks -= 1
        return seat

    def _put_back(self, entry: Entry, reason: str = "") -> Iterator[Action]:
        """A job was at a worker and had not started."""
        never_ran, killed = entry.attempt == 1, entry.sentence is Outcome.KILLED
        if not killed and entry.job_id not in self._unwanted:
            entry.leave_worker()
            self._waiting.put_back(entry)
            if never_ran:
                yield Unclaim(entry)
        elif never_ran:
            yield settle(entry, End(Outcome.CANCELLED))
        else:
            yield settle(entry, End(Outcome.KILLED, reason=reason if killed else NOT_AGAIN))
        self._unwanted.discard(entry.job_id)

    def worker_ready(self, worker: int) -> Iterator[Action]:
        """A worker can take jobs."""
        seat = self._seats.get(worker)
        if seat is not None:
            seat.hear(Event.SAID_READY)
            self.setbacks.early_deaths = self.setbacks.failed_starts = 0
        return itertools.chain(self._assign(), self._leave_if_done())

    def worker_not_started(self, worker: int) -> None:
        """No process is to be had now: the others work on, until one of them ends a job."""
        self._seats.pop(worker)
        self.setbacks.no_process()

    def unhindered(self) -> Iterable[Action]:
        """A process may be had again."""
        self.setbacks.hindered = False
        return self._assign()

    def handed_back(self, worker: int, ticket: int) -> Iterator[Action]:
        """A worker gave up a job that it had not started."""
        entry = self._dispatched.get(ticket)
        if entry is not None and entry.worker == worker:
            seat = self._give_back(entry)
            seat.gave_back = not seat.recalled  # by itself: the running one is long
            seat.recalled = False
            if seat.spare_until_s is not None and not seat.has_others:
                yield self._kill(seat)
            yield from self._put_back(entry)
        yield from self._assign()
        yield from self._leave_if_done()

    def worker_gone(
        self,
        worker: int,
        last_begun: int | None = None,
        *,
        given_up: bool = False,
        end: End = _DIED,
    ) -> Iterator[Action]:
        """A worker is dead and its queue is read to the end: the jobs that it has had not started.

        But if its queue was lost with the sink or given up, the jobs up to `last_begun` may have
        run, unheard of: they end so.

        Args:
            worker: Its number.
            last_begun: Ticket of the attempt that it began last; None if any may have begun.
            given_up: Whether its queue was given up.
            end: How the jobs end that may have run.
        """
        seat = self._seats.pop(worker)
        if seat.coming and given_up:
            self.setbacks.no_process()
        elif seat.coming:
            self.setbacks.early_deaths += 1
        begun = seat.begun(last_begun) if seat.state is State.LOST or given_up else []
        for entry in seat.entries:
            del self._dispatched[entry.ticket]
            self._waiting.left(entry, proved=False)
        for entry in begun:
            lost = Outcome.SINK_LOST if seat.state is State.LOST else Outcome.CRASHED
            yield self._judge(entry, end.called(entry.sentence or lost))
        for entry in reversed(list(seat.entries)[len(begun) :]):
            yield from self._put_back(entry)
        yield from self._assign()
        yield from self._leave_if_done()

    def sink_gone(self) -> Iterator[Action]:
        """The sink died: what the workers had open is lost, and so are their queues."""
        self.setbacks.sink_deaths += 1
        for seat in self._seats.values():
            seat.hear(Event.SINK_DIED)
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
                entry.sentence = entry.sentence or Outcome.KILLED
            if seat.entries:
                seat.hear(Event.LET_GO)
                yield KillWorker(seat.worker)

    def end_workers(self, *, kill: bool) -> Iterator[Action]:
        """End every worker with what it runs, by SIGKILL or by SIGTERM, which a job may ignore."""
        for entry in list(self._waiting.values()):
            yield from self.killed(entry.job_id)
        for seat in self._seats.values():
            for entry in seat.entries:
                entry.retries, entry.retry = 0, _NO_MORE
            if kill:
                seat.hear(Event.LET_GO)
            yield KillWorker(seat.worker) if kill else TerminateWorker(seat.worker)

    def break_off(self, reason: str = "") -> Iterator[Action]:
        """Give up for this reason: nothing can run any more."""
        self._stopping = True
        entries = [*self._dispatched.values(), *self._waiting.values()]
        self._dispatched.clear()
        self._waiting.clear()
        self._unwanted.clear()
        for entry in entries:  # first: no job is to wait for ever, whatever becomes of the rest
            yield settle(entry, End(entry.sentence or Outcome.UNABLE, reason=reason))
        for seat in self._seats.values():
            seat.entries.clear()
            seat.hear(Event.LET_GO)
            yield KillWorker(seat.worker)

    def _leave_if_done(self) -> list[Action]:
        if not self._stopping or self.unsettled:
            return []
        return [self._let_go(seat) for seat in self._seats.values() if not seat.retired]

    @staticmethod
    def _let_go(seat: Seat) -> Action:
        seat.hear(Event.LET_GO)
        return StopWorker(seat.worker)

    def _assign(self) -> list[Action]:
        """Give jobs to idle workers; start workers while more jobs wait than workers are coming."""
        decided = list[Action]()
        while (seat := self._seats.least()) is not None and not seat.entries:
            if (entry := self._waiting.take_first(len(self._dispatched))) is None:
                break
            decided.append(self._dispatch(seat.worker, entry))
        ready = self._waiting.ready
        if ready and self._prefetch.brisk:
            self._send_ahead(decided)
            ready = self._waiting.ready
        self._full = False
        if not ready:
            return decided
        free = 0 if self.setbacks.hindered else self.max_workers - len(self._seats)
        idle = seat is not None and not seat.entries  # one that is to run alone waits for others
        if free > 0 and not idle:
            wanted = ready - sum(seat.coming for seat in self._seats.values())
            for worker in itertools.islice(self._numbers, max(0, min(wanted, free))):
                self._seats.add(Seat(worker, self._max_tasks))
                decided.append(StartWorker(worker))
        self._full = free <= 0 or idle
        return decided

    def _send_ahead(self, decided: list[Action]) -> None:
        """While jobs are very short, let some wait at the workers, the same number at each."""
        take = self._waiting.ahead().take_first
        for seat, entry in self._prefetch.share_out(take, self._seats, self._clock()):
            decided.append(self._dispatch(seat.worker, entry))

    def _dispatch(self, worker: int, entry: Entry) -> Dispatch:
        seat = self._seats[worker]
        if not seat.entries:
            seat.since_s = self._clock()
        entry.go_to(worker, next(self._tickets))
        self._dispatched[entry.ticket] = entry
        seat.entries.append(entry)
        seat.tasks += 1
        return Dispatch(worker, entry)
