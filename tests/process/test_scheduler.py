"""The scheduler decides; here every order of events that the processes can bring about is tried."""

import itertools
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

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
from collector.process.actions import (
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
from collector.process.pace import Pace
from collector.process.scheduler import Scheduler

BRISK: Final = settings.BRISK_S / 10


# -- sentence by sentence --------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def make(workers: int = 1, **options: Any) -> tuple[Scheduler, Clock]:
    clock = Clock()
    return Scheduler(workers, clock=clock, **options), clock


def submit(schedule: Scheduler, *entries: Entry) -> list[Action]:
    return [action for entry in entries for action in schedule.submitted(entry)]


def brisk(schedule: Scheduler, clock: Clock, worker: int = 1, takes_s: float = BRISK) -> None:
    """Let one worker that is ready do so many jobs so fast that more are sent ahead."""
    for number in range(1000, 1080):
        entry = Entry(number)
        assert Dispatch(worker, entry) in submit(schedule, entry)
        clock.now_s += takes_s
        list(schedule.ended(entry.ticket, Verdict.RETURNED))


def test_workers_are_started_as_jobs_come_and_never_more_than_allowed() -> None:
    schedule, _ = make(2)
    jobs = [Entry(number) for number in range(4)]
    assert submit(schedule, jobs[0]) == [StartWorker(1)]
    assert submit(schedule, jobs[1]) == [StartWorker(2)]
    assert submit(schedule, *jobs[2:]) == []
    assert list(schedule.worker_ready(2)) == [Dispatch(2, jobs[0])]
    assert list(schedule.worker_ready(1)) == [Dispatch(1, jobs[1])]
    assert list(schedule.ended(jobs[1].ticket, Verdict.RAISED)) == [
        Settle(jobs[1], Verdict.RAISED),
        Dispatch(1, jobs[2]),
    ]


def test_an_idle_worker_is_used_before_another_one_is_started() -> None:
    schedule, _ = make(2)
    first, second = Entry(1), Entry(2)
    submit(schedule, first)
    list(schedule.worker_ready(1))
    list(schedule.ended(first.ticket, Verdict.RETURNED))
    assert submit(schedule, second) == [Dispatch(1, second)]


def test_a_worker_leaves_after_its_share_of_jobs() -> None:
    schedule, _ = make(1, max_tasks_per_child=2)
    jobs = [Entry(number) for number in range(3)]
    submit(schedule, *jobs)
    list(schedule.worker_ready(1))
    list(schedule.ended(jobs[0].ticket, Verdict.RETURNED))
    assert list(schedule.ended(jobs[1].ticket, Verdict.RETURNED)) == [
        Settle(jobs[1], Verdict.RETURNED),
        StopWorker(1),
    ]
    assert list(schedule.worker_gone(1)) == [StartWorker(2)]


def test_no_more_brisk_jobs_wait_at_a_worker_than_it_may_run() -> None:
    schedule, _ = make(1, max_tasks_per_child=3)
    schedule._pace = Pace(0.0)
    jobs = [Entry(number) for number in range(5)]
    submit(schedule, *jobs)
    assert list(schedule.worker_ready(1)) == [Dispatch(1, job) for job in jobs[:3]]


def test_workers_leave_when_the_last_job_is_over() -> None:
    schedule, _ = make(1)
    job = Entry(1)
    submit(schedule, job)
    assert list(schedule.stop()) == []
    list(schedule.worker_ready(1))
    assert list(schedule.ended(job.ticket, Verdict.RETURNED))[-1] == StopWorker(1)
    assert not schedule.unsettled


def test_a_job_that_waits_for_its_next_attempt_can_be_killed() -> None:
    schedule, _ = make(1)
    job = Entry(1, retries=5)
    submit(schedule, job)
    list(schedule.worker_ready(1))
    assert RunAgain(job, Verdict.CRASHED) in list(schedule.ended(job.ticket, Verdict.CRASHED))
    assert list(schedule.killed(1)) == [Settle(job, Verdict.KILLED)]
    assert not schedule.unsettled
    list(schedule.worker_gone(1))
    assert list(schedule.worker_ready(2)) == []


def test_killing_all_ends_also_a_job_that_waits_for_its_next_attempt() -> None:
    schedule, _ = make(1)
    job = Entry(1, retries=5)
    submit(schedule, job)
    list(schedule.worker_ready(1))
    list(schedule.ended(job.ticket, Verdict.CRASHED))
    assert Settle(job, Verdict.KILLED) in list(schedule.kill_all())
    assert not schedule.unsettled


def test_what_a_worker_says_of_the_job_of_another_one_changes_nothing() -> None:
    schedule, clock = make(2)
    first, second = Entry(1, timeout=1.0), Entry(2)
    submit(schedule, first, second)
    list(schedule.worker_ready(1))
    list(schedule.worker_ready(2))
    assert list(schedule.handed_back(2, first.ticket)) == []
    assert list(schedule.started(2, first.ticket, clock.now_s)) == []
    assert first.started_s is None
    assert schedule.find(first.ticket) is first


def test_a_job_has_its_time_from_its_start_on() -> None:
    schedule, clock = make(1)
    job = Entry(1, timeout=5.0)
    submit(schedule, job)
    clock.now_s += 100
    list(schedule.worker_ready(1))
    clock.now_s += 100
    assert list(schedule.ticked(clock.now_s)) == []
    list(schedule.started(1, job.ticket, clock.now_s))
    assert schedule.next_deadline_s() == clock.now_s + 5
    assert list(schedule.ticked(clock.now_s + 4.9)) == []
    assert list(schedule.ticked(clock.now_s + 5)) == [KillWorker(1)]
    assert list(schedule.ticked(clock.now_s + 6)) == []
    assert list(schedule.ended(job.ticket, Verdict.CRASHED)) == [Settle(job, Verdict.TIMED_OUT)]


def test_a_process_that_was_stopped_takes_no_time_from_its_jobs() -> None:
    schedule, clock = make(1)
    job = Entry(1, timeout=5.0)
    submit(schedule, job)
    list(schedule.worker_ready(1))
    list(schedule.started(1, job.ticket, clock.now_s))
    schedule.delayed(3600)
    assert list(schedule.ticked(clock.now_s + 3600)) == []
    assert list(schedule.ticked(clock.now_s + 3605)) == [KillWorker(1)]


def test_jobs_are_sent_ahead_while_they_are_brisk_and_called_back_from_behind_a_long_one() -> None:
    schedule, clock = make(2)
    submit(schedule, Entry(1))
    list(schedule.worker_ready(1))
    list(schedule.ended(1, Verdict.RETURNED))
    brisk(schedule, clock)
    ahead = round(settings.AHEAD_S / BRISK)
    jobs = [Entry(number) for number in range(10, 11 + ahead)]
    assert submit(schedule, *jobs) == [
        *(Dispatch(1, job) for job in jobs[:ahead]),
        StartWorker(2),
    ]
    assert list(schedule.worker_ready(2)) == [Dispatch(2, jobs[ahead])]
    list(schedule.ended(jobs[ahead].ticket, Verdict.RETURNED))
    # The first job of worker 1 turns out to be long, and worker 2 has nothing to do.
    assert list(schedule.ticked(clock.now_s)) == []
    clock.now_s += settings.RECALL_AFTER_S + BRISK
    assert list(schedule.ticked(clock.now_s)) == [Recall(1)]
    assert list(schedule.ticked(clock.now_s)) == []
    given = [
        action
        for job in reversed(jobs[1:ahead])
        for action in schedule.handed_back(1, job.ticket)
        if isinstance(action, Dispatch)
    ]
    assert {action.worker for action in given} == {2}
    assert schedule.find(jobs[0].ticket) is jobs[0]


def test_jobs_behind_a_long_one_go_to_a_worker_that_can_still_be_started() -> None:
    schedule, clock = make(2)
    submit(schedule, Entry(1))
    list(schedule.worker_ready(1))
    list(schedule.ended(1, Verdict.RETURNED))
    brisk(schedule, clock)
    jobs = [Entry(number) for number in range(10, 14)]
    decided = submit(schedule, *jobs)  # all of them fit behind the first one, which is long
    clock.now_s += settings.RECALL_AFTER_S + BRISK
    decided += schedule.ticked(clock.now_s)
    assert StartWorker(2) in decided or Recall(1) in decided


def test_an_idle_worker_gets_what_waits_behind_jobs_that_are_brisk_no_more() -> None:
    schedule, clock = make(2)
    submit(schedule, Entry(1), Entry(2))
    for worker in (1, 2):
        list(schedule.worker_ready(worker))
        list(schedule.ended(worker, Verdict.RETURNED))
    brisk(schedule, clock, worker=2)
    jobs = [Entry(number) for number in range(10, 10 + 2 * 20)]
    submit(schedule, *jobs)
    of = {w: [job for job in jobs if job.worker == w] for w in (1, 2)}
    for job in of[2]:
        list(schedule.ended(job.ticket, Verdict.RETURNED))
    decided: list[Action] = []
    for job in of[1][:-1]:  # none is long enough to be called long, and together they are
        clock.now_s += settings.RECALL_AFTER_S * 0.75
        decided += schedule.ticked(clock.now_s)
        decided += schedule.ended(job.ticket, Verdict.RETURNED)
    assert Recall(1) in decided


@pytest.mark.parametrize(
    ("takes_s", "ahead"),
    [
        (settings.BRISK_S * 2, 1),
        (settings.AHEAD_S / 8, 8),
        (settings.AHEAD_S / settings.JOBS_AHEAD / 2, settings.JOBS_AHEAD),
        (0.0, settings.JOBS_AHEAD),
    ],
)
def test_as_many_jobs_are_at_a_worker_as_are_over_soon(takes_s: float, ahead: int) -> None:
    schedule, clock = make(1)
    submit(schedule, Entry(1))
    list(schedule.worker_ready(1))
    list(schedule.ended(1, Verdict.RETURNED))
    brisk(schedule, clock, takes_s=takes_s)
    jobs = [Entry(number) for number in range(10, 12 + settings.JOBS_AHEAD)]
    assert submit(schedule, *jobs) == [Dispatch(1, job) for job in jobs[:ahead]]


def test_a_worker_that_has_nearly_all_it_may_have_gets_more_in_portions() -> None:
    schedule, clock = make(1)
    submit(schedule, Entry(1))
    list(schedule.worker_ready(1))
    list(schedule.ended(1, Verdict.RETURNED))
    brisk(schedule, clock, takes_s=0.0)
    jobs = [Entry(number) for number in range(10, 10 + 2 * settings.JOBS_AHEAD)]
    submit(schedule, *jobs)
    portion = settings.JOBS_AHEAD // settings.PORTIONS
    given = [len(list(schedule.ended(job.ticket, Verdict.RETURNED))) - 1 for job in jobs[:100]]
    assert given == ([0] * (portion - 1) + [portion]) * (100 // portion) + [0] * (100 % portion)
    # Once all news has been told, what was worth no portion goes too.
    left = 100 % portion
    assert [type(action) for action in schedule.ticked(clock())] == [Dispatch] * left
    for job in jobs[100:]:  # and at the end the last ones, fewer than a portion
        assert Settle(job, Verdict.RETURNED) in schedule.ended(job.ticket, Verdict.RETURNED)
    assert not schedule.unsettled


def test_a_worker_that_could_not_be_started_is_tried_again_at_the_next_end() -> None:
    schedule, clock = make(2)
    submit(schedule, Entry(1))
    list(schedule.worker_ready(1))
    list(schedule.ended(1, Verdict.RETURNED))
    brisk(schedule, clock, takes_s=0.0)
    jobs = [Entry(number) for number in range(10, 11 + settings.JOBS_AHEAD)]
    assert submit(schedule, *jobs)[-1] == StartWorker(2)
    list(schedule.worker_not_started(2))
    submit(schedule, Entry(9))
    assert StartWorker(3) in schedule.ended(jobs[0].ticket, Verdict.RETURNED)


def test_jobs_that_are_sent_ahead_are_shared_out_among_the_workers() -> None:
    schedule, clock = make(3)
    submit(schedule, *(Entry(number) for number in range(1, 4)))
    for worker in (1, 2, 3):
        list(schedule.worker_ready(worker))
        list(schedule.ended(worker, Verdict.RETURNED))
    brisk(schedule, clock, worker=3)
    given = submit(schedule, *(Entry(number) for number in range(10, 40)))
    assert Counter(a.worker for a in given if isinstance(a, Dispatch)) == {1: 10, 2: 10, 3: 10}


def test_killing_one_job_costs_no_other_one() -> None:
    schedule, clock = make(1)
    submit(schedule, Entry(1))
    list(schedule.worker_ready(1))
    list(schedule.ended(1, Verdict.RETURNED))
    brisk(schedule, clock)
    doomed, innocent = Entry(10), Entry(11)
    assert submit(schedule, doomed, innocent) == [Dispatch(1, doomed), Dispatch(1, innocent)]
    # Its END may be on its way here already, and the worker at the next one: fetch that back first.
    assert list(schedule.killed(10)) == [Recall(1)]
    assert list(schedule.ended(doomed.ticket, Verdict.RETURNED)) == [
        Settle(doomed, Verdict.RETURNED)
    ]
    clock.now_s += 100
    assert list(schedule.ticked(clock())) == []
    assert list(schedule.ended(innocent.ticket, Verdict.RETURNED)) == [
        Settle(innocent, Verdict.RETURNED)
    ]


def test_a_job_that_is_killed_goes_once_the_ones_behind_it_are_back() -> None:
    schedule, clock = make(1)
    submit(schedule, Entry(1))
    list(schedule.worker_ready(1))
    list(schedule.ended(1, Verdict.RETURNED))
    brisk(schedule, clock)
    doomed, innocent = Entry(10), Entry(11)
    submit(schedule, doomed, innocent)
    assert list(schedule.killed(10)) == [Recall(1)]
    assert KillWorker(1) in list(schedule.handed_back(1, innocent.ticket))


def with_one_behind(retries: int = 0) -> tuple[Scheduler, Clock, Entry, Entry]:
    """One worker that runs a job, and another job that waits there."""
    schedule, clock = make(1)
    submit(schedule, Entry(1))
    list(schedule.worker_ready(1))
    list(schedule.ended(1, Verdict.RETURNED))
    brisk(schedule, clock)
    first, second = Entry(10, retries=retries), Entry(11)
    assert submit(schedule, first, second) == [Dispatch(1, first), Dispatch(1, second)]
    return schedule, clock, first, second


@pytest.mark.parametrize("how", ["cancelled", "killed"])
def test_workers_leave_though_the_last_job_is_one_that_comes_back(how: str) -> None:
    schedule, _, first, last = with_one_behind()
    if how == "killed":
        assert list(schedule.killed(11)) == [Recall(1)]
    assert list(schedule.stop(cancel=True)) == [Recall(1)]
    assert list(schedule.ended(first.ticket, Verdict.RETURNED)) == [Settle(first, Verdict.RETURNED)]
    assert list(schedule.handed_back(1, last.ticket)) == [
        Settle(last, Verdict.CANCELLED),
        StopWorker(1),
    ]


def test_unwanted_jobs_are_cancelled_unless_they_have_started() -> None:
    schedule, _, running, behind = with_one_behind()
    waiting, other = Entry(12), Entry(13)
    schedule._full = True
    submit(schedule, waiting, other)
    assert list(schedule.unwanted([10, 11, 12])) == [
        Settle(waiting, Verdict.CANCELLED),
        Recall(1),
    ]
    assert list(schedule.handed_back(1, behind.ticket)) == [
        Settle(behind, Verdict.CANCELLED),
        Dispatch(1, other),
    ]
    assert Settle(running, Verdict.RETURNED) in schedule.ended(running.ticket, Verdict.RETURNED)


def test_unwanted_jobs_are_asked_for_again_if_the_worker_went_on_just_then() -> None:
    """Also where there is no other worker that could have them."""
    schedule, clock, first, second = with_one_behind()
    third = Entry(12)
    submit(schedule, third)
    assert list(schedule.unwanted([12])) == [Recall(1)]
    list(schedule.ended(first.ticket, Verdict.RETURNED))  # the worker was between two jobs
    clock.now_s += settings.RECALL_AFTER_S
    assert list(schedule.ticked(clock())) == [Recall(1)]
    assert list(schedule.handed_back(1, third.ticket)) == [Settle(third, Verdict.CANCELLED)]
    clock.now_s += settings.RECALL_AFTER_S
    assert list(schedule.ticked(clock())) == []
    assert schedule.find(second.ticket) is second


def test_jobs_that_several_workers_hand_back_run_in_their_order() -> None:
    schedule, _ = make(2)
    submit(schedule, Entry(1), Entry(2))
    list(schedule.worker_ready(1))
    list(schedule.worker_ready(2))
    list(schedule.ended(1, Verdict.RETURNED))
    list(schedule.ended(2, Verdict.RETURNED))
    schedule._pace = Pace(BRISK)
    jobs = [Entry(number) for number in range(10, 18)]
    submit(schedule, *jobs)
    assert {job.worker for job in jobs[:2]} == {job.worker for job in jobs[2:]} == {1, 2}
    schedule._pace = Pace()
    for worker in (1, 2):
        for job in reversed(jobs[2:]):
            if job.worker == worker:
                list(schedule.handed_back(worker, job.ticket))
    ran = []
    for job in jobs[:2]:
        list(schedule.ended(job.ticket, Verdict.RETURNED))
    while running := [job for job in jobs if job.ticket and schedule.find(job.ticket)]:
        ran.append([job.job_id for job in running])
        for job in running:
            list(schedule.ended(job.ticket, Verdict.RETURNED))
    assert ran == [[12, 13], [14, 15], [16, 17]]


def test_a_job_that_comes_back_can_be_cancelled_by_its_owner_again() -> None:
    schedule, clock, _, behind = with_one_behind()
    clock.now_s += settings.RECALL_AFTER_S
    schedule._pace = Pace()
    assert list(schedule.handed_back(1, behind.ticket)) == [Unclaim(behind)]
    assert list(schedule.withdrawn(11)) == []


def test_of_what_a_worker_has_that_is_given_up_nothing_runs_again_that_it_had_begun() -> None:
    for begun, lost in ((0, 0), (1, 1), (2, 2), (None, 2)):
        schedule, _, first, second = with_one_behind()
        last = None if begun is None else begun and (first, second)[begun - 1].ticket
        said = list(schedule.worker_gone(1, last, given_up=True))
        assert [action for action in said if isinstance(action, Settle)] == [
            Settle(entry, Verdict.CRASHED) for entry in (first, second)[:lost]
        ]
        waiting = [Dispatch(2, entry) for entry in (first, second)[lost:]]
        assert list(schedule.worker_ready(2))[: len(waiting)] == waiting


def test_a_job_whose_output_is_refused_goes_once_the_ones_behind_it_are_back() -> None:
    """Its function runs on, perhaps for ever: what waits behind it must not wait for that."""
    schedule, _, refused, innocent = with_one_behind()
    assert list(schedule.ended(refused.ticket, Verdict.SPILL_FAILED)) == [
        Recall(1),
        Settle(refused, Verdict.SPILL_FAILED),
    ]
    assert list(schedule.handed_back(1, innocent.ticket)) == [KillWorker(1), Unclaim(innocent)]
    assert list(schedule.worker_gone(1)) == [StartWorker(2)]
    assert list(schedule.worker_ready(2)) == [Dispatch(2, innocent)]


def test_of_what_a_worker_has_when_the_sink_dies_only_what_it_had_begun_is_lost() -> None:
    """The ends of the first may have been said to the sink alone, so nothing of them runs again."""
    for begun, lost in ((0, 0), (1, 1), (2, 2), (None, 2)):
        schedule, _, first, second = with_one_behind()
        assert list(schedule.sink_gone()) == [KillWorker(1)]
        last = None if begun is None else begun and (first, second)[begun - 1].ticket
        said = list(schedule.worker_gone(1, last))
        settled = [Settle(entry, Verdict.SINK_LOST) for entry in (first, second)[:lost]]
        back = [Unclaim(entry) for entry in (second, first)[: 2 - lost]]
        assert said == [*settled, *back, *([StartWorker(2)] if lost < 2 else [])]
        waiting = [Dispatch(2, entry) for entry in (first, second)[lost:]]
        assert list(schedule.worker_ready(2))[: len(waiting)] == waiting


def test_a_job_whose_output_is_refused_goes_though_nothing_comes_back() -> None:
    schedule, clock, refused, innocent = with_one_behind()
    list(schedule.ended(refused.ticket, Verdict.SPILL_FAILED))
    assert schedule.next_deadline_s() == clock() + settings.SPARE_OTHERS_S
    clock.now_s += settings.SPARE_OTHERS_S
    assert list(schedule.ticked(clock())) == [KillWorker(1)]
    assert list(schedule.worker_gone(1)) == [Unclaim(innocent), StartWorker(2)]
    assert list(schedule.worker_ready(2)) == [Dispatch(2, innocent)]


def test_the_job_behind_one_whose_output_is_refused_is_spared_once_it_runs() -> None:
    schedule, clock, refused, innocent = with_one_behind()
    list(schedule.ended(refused.ticket, Verdict.SPILL_FAILED))
    assert list(schedule.started(1, innocent.ticket, clock())) == []
    clock.now_s += 100
    assert list(schedule.ticked(clock())) == []


@pytest.mark.parametrize("verdict", [Verdict.RAISED, Verdict.SPILL_FAILED, Verdict.LOST])
def test_a_job_that_is_killed_and_fails_in_this_moment_is_not_run_again(verdict: Verdict) -> None:
    schedule, _, doomed, _ = with_one_behind(retries=3)
    assert list(schedule.killed(doomed.job_id)) == [Recall(1)]
    assert Settle(doomed, verdict) in list(schedule.ended(doomed.ticket, verdict))


def test_a_job_that_is_killed_while_its_time_out_ends_it_is_not_run_again() -> None:
    schedule, clock = make(1)
    job = Entry(1, retries=3, timeout=1.0)
    submit(schedule, job)
    list(schedule.worker_ready(1))
    list(schedule.started(1, job.ticket, clock()))
    assert list(schedule.ticked(clock() + 1)) == [KillWorker(1)]
    assert list(schedule.killed(1)) == []
    assert list(schedule.ended(job.ticket, Verdict.CRASHED)) == [Settle(job, Verdict.KILLED)]


# -- every order of events -------------------------------------------------------------------------


@dataclass(eq=False)
class Worker:
    """A worker as it is, with what it has said and the parent has not heard yet."""

    number: int
    unheard: deque[tuple[str, Entry | None, Verdict | None]] = field(default_factory=deque)
    inbox: deque[Entry] = field(default_factory=deque)
    running: Entry | None = None
    begun: int = 0
    tickets: dict[int, int] = field(default_factory=dict)
    up: bool = False
    stopped: bool = False
    killed: bool = False
    recalled: bool = False
    refused: bool = False
    """Its running job was failed by the sink: nothing is said of its end any more."""


@dataclass(eq=False)
class Job:
    """A job as its owner sees it."""

    entry: Entry
    retries: int
    claimed: bool = False
    cancelled: bool = False
    settled: Verdict | None = None
    attempts: int = 0
    """Attempts that were judged."""
    runs: int = 0
    kills: int = 0
    unwanted: bool = False


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
            self.schedule._pace = Pace(0.0)

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
                case Dispatch(worker=number, entry=entry):
                    todo.extend(self.dispatch(self.workers[number], entry))
                case Recall(worker=number):
                    self.workers[number].recalled = True
                case Unclaim(entry=entry):
                    assert not self.known[entry.job_id].runs, "a job is offered again that has run"
                    self.known[entry.job_id].claimed = False
                case RunAgain(entry=entry, verdict=verdict):
                    self.run_again(self.known[entry.job_id], verdict)
                case Settle(entry=entry, verdict=verdict):
                    self.settle(self.known[entry.job_id], verdict)

    def run_again(self, job: Job, verdict: Verdict) -> None:
        job.attempts += 1
        assert job.settled is None
        assert verdict not in (Verdict.RETURNED, Verdict.KILLED, Verdict.UNABLE)
        assert job.attempts <= job.retries

    def start(self, number: int) -> None:
        assert number not in self.seen_workers, "a number is used twice"
        self.seen_workers.add(number)
        if not self.startable:
            self.perform(self.schedule.worker_not_started(number))
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

    def settle(self, job: Job, verdict: Verdict) -> None:
        assert job.settled is None, "I1: a job is settled twice"
        if job.cancelled:  # the word of it had not come yet; the owner shrugs
            assert ("withdraw", job) in self.notes, "a cancelled job is settled"
            return
        if verdict is Verdict.KILLED:
            assert job.kills, "nobody wanted this job killed"
        if verdict is Verdict.CANCELLED:
            wanted = self.cancelling or job.unwanted or job.kills
            assert wanted, "nobody wanted this job cancelled"
            assert not job.runs, "a job is cancelled that has run"
        job.settled = verdict
        job.attempts += 1
        assert job.attempts <= 1 + job.retries + (verdict is Verdict.UNABLE)

    def give_up(self) -> None:
        self.broken = True
        self.perform(self.schedule.break_off())

    def hear(self, worker: Worker) -> None:
        """The parent hears the next thing that a worker said."""
        said, entry, verdict = worker.unheard.popleft()
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
            assert verdict is not None
            self.perform(self.schedule.ended(ticket, verdict))

    def die(self, worker: Worker) -> None:
        """The worker is dead, its queue is read to the end, and both are known."""
        while worker.unheard:
            self.hear(worker)
        entry = worker.running
        del self.workers[worker.number]
        if entry is not None and not worker.refused:
            job = self.known[entry.job_id]
            before = job.settled
            self.perform(self.schedule.ended(worker.tickets[id(entry)], Verdict.CRASHED))
            if worker.killed and not job.kills and entry.timeout is None:
                assert before or job.settled is not Verdict.CRASHED, "an innocent job was failed"
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
            self.perform(self.schedule.refused(job.entry))
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

    # -- time, and what is to be had ---------------------------------------------------------------

    @rule(seconds=st.sampled_from([BRISK, settings.RECALL_AFTER_S, 0.5, 3.0]))
    def tick(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.perform(self.schedule.ticked(self.clock.now_s))
        deadline = self.schedule.next_deadline_s()
        assert deadline > self.clock.now_s - 1e-6, "an order is overdue"

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
        job = self.known[entry.job_id]
        job.runs += 1
        assert job.runs <= 1 + job.attempts, "a job is run again that nobody has judged"

    @rule(data=st.data(), verdict=st.sampled_from([Verdict.RETURNED, Verdict.RAISED]))
    def a_worker_ends_a_job(self, data: st.DataObject, verdict: Verdict) -> None:
        worker = self.some(data, (w for w in self.workers.values() if w.running is not None))
        if worker is not None:
            if not worker.refused:
                worker.unheard.append(("ended", worker.running, verdict))
            worker.running = None

    @rule(data=st.data())
    def the_disk_is_full(self, data: st.DataObject) -> None:
        worker = self.some(
            data, (w for w in self.workers.values() if w.running is not None and not w.refused)
        )
        if worker is not None:
            worker.refused = True
            worker.unheard.append(("ended", worker.running, Verdict.SPILL_FAILED))

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
        self.perform(self.schedule.ended(worker.tickets[id(guilty)], Verdict.CRASHED))
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
            assert len(self.schedule._seats) == len(self.workers)

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
        assert all(job.settled or job.cancelled for job in self.known.values())

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
            worker.unheard.append(("ended", worker.running, Verdict.RETURNED))
            worker.running = None


class TestEveryOrderOfEvents(Processes.TestCase):  # type: ignore[misc,valid-type]
    settings = hypothesis_settings(max_examples=300, stateful_step_count=40)


@pytest.mark.campaign
class TestEveryOrderOfManyEvents(Processes.TestCase):  # type: ignore[misc,valid-type]
    settings = hypothesis_settings(
        max_examples=5_000, stateful_step_count=60, derandomize=False, database=None
    )
