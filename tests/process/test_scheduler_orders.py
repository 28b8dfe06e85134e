"""The scheduler decides; here every order of events that the processes can bring about is tried."""

import itertools
from collections import deque
from collections.abc import Iterable

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from collector import settings
from collector.process.scheduler.decisions import (
    Action,
    Dispatch,
    End,
    Entry,
    KillWorker,
    LookIfLoaded,
    Recall,
    RunAgain,
    RunLater,
    Settle,
    StartWorker,
    StopWorker,
    TerminateWorker,
    Unclaim,
)
from collector.process.scheduler.scheduler import Scheduler
from collector.wire.outcome import Outcome
from tests.support.inside import set_pace_of, workers_known_to
from tests.support.scheduling import BRISK, Clock, Job, Worker


class Processes(RuleBasedStateMachine):
    """Workers, a sink and users that do whatever they can; the scheduler must keep its promises."""

    jobs = Bundle("jobs")

    @initialize(
        max_workers=st.integers(1, 3), max_tasks=st.none() | st.integers(1, 3), fast=st.booleans()
    )
    def begin(self, max_workers: int, max_tasks: int | None, fast: bool) -> None:
        self.clock = Clock()
        self.max_workers = max_workers
        self.schedule = Scheduler(max_workers, max_tasks, self.clock)
        self.workers: dict[int, Worker] = {}
        self.known: dict[int, Job] = {}
        self.notes: deque[tuple[str, Job]] = deque()
        self.numbers = itertools.count(1)
        self.tickets: set[int] = set()
        self.seen_workers: set[int] = set()
        self.startable = True
        self.stopping = self.cancelling = False
        self.broken = False
        if fast:  # as after many brisk jobs
            set_pace_of(self.schedule, 0.0)

    # -- what the supervisor does ------------------------------------------------------------------

    def perform(self, actions: Iterable[Action]) -> None:  # noqa: C901, PLR0912 - one case an action
        todo = deque(actions)
        while todo:
            match todo.popleft():
                case StartWorker(worker=number):
                    self.start(number)
                case StopWorker(worker=number):
                    assert not self.workers[number].inbox, "a worker with jobs is told to leave"
                    self.workers[number].stopped = True
                case KillWorker(worker=number):
                    self.kill(number)
                case TerminateWorker(worker=number):
                    if number % 2:  # the others do not let themselves be terminated
                        self.kill(number)
                case Dispatch(worker=number, entry=entry):
                    todo.extend(self.dispatch(self.workers[number], entry))
                case Recall(worker=number):
                    self.workers[number].recalled = True
                case LookIfLoaded(entry=entry, pause_s=pause_s):
                    worker = self.workers[entry.worker or 0]
                    loaded_s = worker.loaded_s if worker.running is entry else None
                    entry.seen(loaded_s, self.clock.now_s, pause_s)
                case Unclaim(entry=entry):
                    assert not self.known[entry.job_id].runs, "a job is offered again that has run"
                    self.known[entry.job_id].claimed = False
                case RunAgain(entry=entry, end=End(outcome=outcome)):
                    self.run_again(self.known[entry.job_id], outcome)
                case RunLater(entry=entry):
                    raise AssertionError(f"no job asks to be run later here: {entry}")
                case Settle(entry=entry, end=End(outcome=outcome)):
                    self.settle(self.known[entry.job_id], outcome)

    def run_again(self, job: Job, outcome: Outcome) -> None:
        job.attempts += 1
        assert job.settled is None
        assert outcome not in (Outcome.RETURNED, Outcome.KILLED, Outcome.UNABLE)
        assert job.attempts <= job.retries
        if outcome is Outcome.TIMED_OUT:
            assert job.loaded, "a job has used up its time before its call was loaded"

    def start(self, number: int) -> None:
        assert number not in self.seen_workers, "a number is used twice"
        self.seen_workers.add(number)
        if not self.startable:
            self.schedule.worker_not_started(number)
            if self.schedule.setbacks.too_many_failed_starts and not self.workers:
                self.give_up()
            return
        assert len(self.workers) < self.max_workers, "I2: too many workers"
        self.workers[number] = Worker(number)

    def kill(self, number: int) -> None:
        if number in self.workers:  # else it was never to be had
            self.workers[number].killed = True

    def dispatch(self, worker: Worker, entry: Entry) -> Iterable[Action]:
        job = self.known[entry.job_id]
        assert worker.up, "a job is given to a worker that is not up"
        assert not worker.stopped, "a job is given to a worker that was told to leave"
        assert job.settled is None, "I1: a job is given out that is settled"
        assert entry.ticket not in self.tickets, "I3: a ticket is used again"
        self.tickets.add(entry.ticket)
        for other in self.workers.values():
            assert entry not in other.inbox, "a job is given out twice"
            # One whose output was refused is being killed: its next attempt need not wait for that.
            assert entry is not other.running or other.refused, "a job is given out twice"
        if job.cancelled:
            return self.schedule.unclaimed(entry.ticket)
        job.claimed = True
        worker.tickets[id(entry)] = entry.ticket
        worker.inbox.append(entry)
        return ()

    def settle(self, job: Job, outcome: Outcome) -> None:
        assert job.settled is None, "I1: a job is settled twice"
        if job.cancelled:  # the word of it had not come yet; the owner shrugs
            assert ("withdraw", job) in self.notes, "a cancelled job is settled"
            return
        if outcome is Outcome.TIMED_OUT:
            assert job.loaded, "a job has used up its time before its call was loaded"
        left = self.cancelling or job.unwanted
        if outcome is Outcome.KILLED and not job.kills:
            assert left, "nobody wanted this job killed"
            assert job.entry.attempt > 1, "a job is killed that could have been cancelled"
            # One whose output was refused is being killed: the attempt that waits was not begun.
            busy = (worker for worker in self.workers.values() if not worker.refused)
            assert not any(worker.running is job.entry for worker in busy)
        if outcome is Outcome.CANCELLED:
            assert left or job.kills, "nobody wanted this job cancelled"
            assert not job.runs, "a job is cancelled that has run"
        job.settled = outcome
        job.attempts += 1
        assert job.attempts <= 1 + job.retries + (outcome is Outcome.UNABLE)

    def give_up(self) -> None:
        self.broken = True
        self.perform(self.schedule.break_off())

    def hear(self, worker: Worker) -> None:
        """The parent hears the next thing that a worker said."""
        said, entry, outcome = worker.unheard.popleft()
        if said == "ready":
            self.perform(self.schedule.worker_ready(worker.number))
            return
        assert entry is not None
        ticket = worker.tickets[id(entry)]
        if said == "started":
            self.perform(self.schedule.started(worker.number, ticket, self.clock.now_s))
        elif said == "handed back":
            self.perform(self.schedule.handed_back(worker.number, ticket))
        else:
            assert outcome is not None
            self.perform(self.schedule.ended(ticket, End(outcome)))

    def die(self, worker: Worker) -> None:
        """The worker is dead, its queue is read to the end, and both are known."""
        while worker.unheard:
            self.hear(worker)
        entry = worker.running
        del self.workers[worker.number]
        if entry is not None and not worker.refused:
            job = self.known[entry.job_id]
            before = job.settled
            self.perform(self.schedule.ended(worker.tickets[id(entry)], End(Outcome.CRASHED)))
            if worker.killed and not job.kills and entry.timeout is None:
                assert before is not None or job.settled is not Outcome.CRASHED, (
                    "an innocent job was failed"
                )
        self.perform(self.schedule.worker_gone(worker.number))
        if self.schedule.setbacks.too_many_early_deaths:
            self.give_up()

    # -- users -------------------------------------------------------------------------------------

    @rule(
        target=jobs,
        retries=st.integers(0, 2),
        timeout=st.none() | st.floats(0.001, 2.0, allow_nan=False),
    )
    def submit(self, retries: int, timeout: float | None) -> Job:
        job = Job(Entry(next(self.numbers), retries, timeout), retries)
        self.known[job.entry.job_id] = job
        if self.broken or self.stopping:
            self.perform(self.schedule.refused(job.entry, "it is over"))
        else:
            self.perform(self.schedule.submitted(job.entry))
        return job

    @rule(job=jobs)
    def cancel_or_kill(self, job: Job) -> None:
        if job.settled is None and not job.cancelled:
            if not job.claimed:
                job.cancelled = True
                self.notes.append(("withdraw", job))
            else:
                job.kills += 1
                self.notes.append(("kill", job))

    @rule(some=st.sets(st.integers(1, 20)))
    def want_no_more(self, some: set[int]) -> None:
        for job_id in some & self.known.keys():
            self.known[job_id].unwanted = True
        self.perform(self.schedule.unwanted(some))

    @precondition(lambda self: self.notes)
    @rule()
    def read_a_note(self) -> None:
        what, job = self.notes.popleft()
        event = self.schedule.withdrawn if what == "withdraw" else self.schedule.killed
        self.perform(event(job.entry.job_id))

    @precondition(lambda self: not self.stopping)
    @rule(cancel=st.booleans(), kill=st.booleans())
    def stop(self, cancel: bool, kill: bool) -> None:
        self.stopping = True
        self.cancelling = cancel
        actions: list[Action] = []
        if kill or cancel:
            for job in self.known.values():
                if job.claimed:
                    job.kills += kill
                elif job.settled is None and not job.cancelled:
                    job.cancelled = True
                    self.perform(self.schedule.withdrawn(job.entry.job_id))
        if kill:
            actions = list(self.schedule.kill_all())
        self.perform([*actions, *self.schedule.stop(cancel=cancel)])

    @precondition(lambda self: self.stopping and self.cancelling)
    @rule(kill=st.booleans())
    def end_workers(self, kill: bool) -> None:
        for job in self.known.values():
            job.kills += job.claimed
        self.perform(self.schedule.end_workers(kill=kill))

    # -- time, and what is to be had ---------------------------------------------------------------

    @rule(seconds=st.sampled_from([BRISK, settings.RECALL_AFTER_S, 0.5, 3.0]))
    def tick(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.perform(self.schedule.ticked(self.clock.now_s))
        self.perform(self.schedule.ticked(self.clock.now_s))  # what was seen to be loaded, and late
        deadline = self.schedule.next_deadline_s()
        assert deadline > self.clock.now_s - 1e-6, "an order is overdue"

    @rule(seconds=st.sampled_from([3.0, 3600.0]))
    def stop_the_parent(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.perform(self.schedule.delayed(seconds))

    @rule(startable=st.booleans())
    def let_processes_be_had_or_not(self, startable: bool) -> None:
        self.startable = startable
        if startable and not self.broken:
            self.perform(self.schedule.unhindered())

    # -- workers -----------------------------------------------------------------------------------

    def some(self, data: st.DataObject, workers: Iterable[Worker]) -> Worker | None:
        candidates = sorted(workers, key=lambda worker: worker.number)
        return data.draw(st.sampled_from(candidates)) if candidates else None

    @rule(data=st.data())
    def a_worker_comes_up(self, data: st.DataObject) -> None:
        worker = self.some(data, (w for w in self.workers.values() if not w.up and not w.killed))
        if worker is not None:
            worker.up = True
            worker.unheard.append(("ready", None, None))
            self.hear(worker)

    @rule(data=st.data(), said=st.booleans())
    def a_worker_begins_a_job(self, data: st.DataObject, said: bool) -> None:
        worker = self.some(
            data, (w for w in self.workers.values() if w.inbox and w.running is None)
        )
        if worker is not None:
            self.begin_a_job(worker)
            if said:
                worker.unheard.append(("started", worker.running, None))

    def begin_a_job(self, worker: Worker) -> None:
        entry = worker.running = worker.inbox.popleft()
        worker.begun = worker.tickets[id(entry)]
        worker.refused = False
        worker.loaded_s = None
        job = self.known[entry.job_id]
        job.runs += 1
        job.loaded = False
        assert job.runs <= 1 + job.attempts, "a job is run again that nobody has judged"

    @rule(data=st.data())
    def a_worker_loads_a_call(self, data: st.DataObject) -> None:
        worker = self.some(
            data,
            (w for w in self.workers.values() if w.running is not None and w.loaded_s is None),
        )
        if worker is not None and worker.running is not None:
            worker.loaded_s = self.clock.now_s
            self.known[worker.running.job_id].loaded = True

    @rule(data=st.data(), outcome=st.sampled_from([Outcome.RETURNED, Outcome.RAISED]))
    def a_worker_ends_a_job(self, data: st.DataObject, outcome: Outcome) -> None:
        worker = self.some(data, (w for w in self.workers.values() if w.running is not None))
        if worker is not None:
            if not worker.refused:
                worker.unheard.append(("ended", worker.running, outcome))
            worker.running = None

    @rule(data=st.data())
    def the_disk_is_full(self, data: st.DataObject) -> None:
        worker = self.some(
            data, (w for w in self.workers.values() if w.running is not None and not w.refused)
        )
        if worker is not None:
            worker.refused = True
            worker.unheard.append(("ended", worker.running, Outcome.SPILL_FAILED))

    @rule(data=st.data())
    def a_worker_hands_back(self, data: st.DataObject) -> None:
        worker = self.some(data, (w for w in self.workers.values() if w.recalled))
        if worker is not None:
            self.hand_back(worker)

    @staticmethod
    def hand_back(worker: Worker) -> None:
        worker.recalled = False
        while worker.inbox:
            worker.unheard.append(("handed back", worker.inbox.pop(), None))

    @rule(data=st.data())
    def the_parent_hears(self, data: st.DataObject) -> None:
        worker = self.some(data, (w for w in self.workers.values() if w.unheard))
        if worker is not None:
            self.hear(worker)

    @rule(data=st.data())
    def a_worker_dies(self, data: st.DataObject) -> None:
        worker = self.some(data, self.workers.values())
        if worker is not None:
            self.die(worker)

    @rule(data=st.data())
    def a_worker_goes_that_should(self, data: st.DataObject) -> None:
        worker = self.some(data, (w for w in self.workers.values() if self.should_go(w)))
        if worker is not None:
            self.die(worker)

    @staticmethod
    def should_go(worker: Worker) -> bool:
        done = not worker.inbox and worker.running is None
        return worker.killed or (worker.stopped and done)

    @rule(data=st.data(), more=st.integers(0, 3), notes=st.booleans())
    def a_worker_is_given_up(self, data: st.DataObject, more: int, notes: bool) -> None:
        """The sink has read it to a lie, of its running job; it goes on until it is killed."""
        worker = self.some(
            data, (w for w in self.workers.values() if w.running is not None and not w.refused)
        )
        if worker is None:
            return
        while worker.unheard:
            self.hear(worker)
        guilty = worker.running
        assert guilty is not None
        for _ in range(min(more, len(worker.inbox))):
            self.begin_a_job(worker)
        del self.workers[worker.number]
        self.perform(self.schedule.ended(worker.tickets[id(guilty)], End(Outcome.CRASHED)))
        begun = worker.begun if notes else None
        self.perform(self.schedule.worker_gone(worker.number, begun, given_up=True))

    @precondition(lambda self: self.workers)
    @rule(notes=st.booleans())
    def the_sink_dies(self, notes: bool) -> None:
        gone = list(self.workers.values())
        for worker in gone:
            worker.unheard.clear()
        self.perform(self.schedule.sink_gone())
        for worker in gone:
            assert worker.killed, "a worker without a sink is left alive"
            worker.running = None
            del self.workers[worker.number]
            begun = worker.begun if notes else None
            self.perform(self.schedule.worker_gone(worker.number, begun))
        if self.schedule.setbacks.too_many_sink_deaths:
            self.give_up()

    # -- what must hold ----------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "schedule"):
            open_jobs = [
                job for job in self.known.values() if job.settled is None and not job.cancelled
            ]
            assert bool(open_jobs) <= self.schedule.unsettled, "a job was lost"
            assert workers_known_to(self.schedule) == len(self.workers)

    def teardown(self) -> None:
        """From any state on, workers that do their work bring everything to its end."""
        if not hasattr(self, "schedule"):
            return
        self.startable = True
        if not self.broken:
            self.perform(self.schedule.unhindered())
        while self.notes:
            self.read_a_note()
        if not self.stopping:
            self.stop(cancel=False, kill=False)
        rounds = 0
        while self.workers and rounds < 300:
            rounds += 1
            for worker in list(self.workers.values()):
                self.go_on(worker)
            self.clock.now_s += BRISK
            self.perform(self.schedule.ticked(self.clock.now_s))
        assert not self.schedule.unsettled, "it hangs: a job is never settled"
        assert not self.workers, "it hangs: a worker is never let go"
        assert all(job.settled is not None or job.cancelled for job in self.known.values())

    def go_on(self, worker: Worker) -> None:
        if self.should_go(worker):
            self.die(worker)
        elif not worker.up:
            worker.up = True
            worker.unheard.append(("ready", None, None))
        elif worker.recalled:
            self.hand_back(worker)
        else:
            self.work(worker)
        while worker.unheard and worker.number in self.workers:
            self.hear(worker)

    def work(self, worker: Worker) -> None:
        if worker.running is None and worker.inbox:
            self.begin_a_job(worker)
        elif worker.running is not None and not worker.refused:
            # A refused one may run for ever: it is to be killed.
            worker.unheard.append(("ended", worker.running, Outcome.RETURNED))
            worker.running = None


class TestEveryOrderOfEvents(Processes.TestCase):  # type: ignore[misc,valid-type]
    settings = hypothesis_settings(max_examples=40, stateful_step_count=40)


@pytest.mark.slow
class TestEveryOrderOfMoreEvents(Processes.TestCase):  # type: ignore[misc,valid-type]
    settings = hypothesis_settings(max_examples=300, stateful_step_count=40)


@pytest.mark.campaign
class TestEveryOrderOfManyEvents(Processes.TestCase):  # type: ignore[misc,valid-type]
    settings = hypothesis_settings(
        max_examples=5_000, stateful_step_count=60, derandomize=False, database=None
    )
