"""The scheduler decides which job a worker gets, and when one starts or leaves."""

import math
from collections import Counter

import pytest

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
    Settle,
    StartWorker,
    StopWorker,
    Unclaim,
)
from collector.wire.outcome import Outcome
from tests.support.inside import set_pace_of
from tests.support.scheduling import BRISK, brisk, make, submit


def test_workers_are_started_as_jobs_come_and_never_more_than_allowed() -> None:
    schedule, _ = make(2)
    jobs = [Entry(number) for number in range(4)]
    assert submit(schedule, jobs[0]) == [StartWorker(1)]
    assert submit(schedule, jobs[1]) == [StartWorker(2)]
    assert submit(schedule, *jobs[2:]) == []
    assert list(schedule.worker_ready(2)) == [Dispatch(2, jobs[0])]
    assert list(schedule.worker_ready(1)) == [Dispatch(1, jobs[1])]
    assert list(schedule.ended(jobs[1].ticket, End(Outcome.RAISED))) == [
        Settle(jobs[1], End(Outcome.RAISED)),
        Dispatch(1, jobs[2]),
    ]


def test_an_idle_worker_is_used_before_another_one_is_started() -> None:
    schedule, _ = make(2)
    first, second = Entry(1), Entry(2)
    submit(schedule, first)
    list(schedule.worker_ready(1))
    list(schedule.ended(first.ticket, End(Outcome.RETURNED)))
    assert submit(schedule, second) == [Dispatch(1, second)]


def test_a_worker_leaves_after_its_share_of_jobs() -> None:
    schedule, _ = make(1, max_tasks_per_child=2)
    jobs = [Entry(number) for number in range(3)]
    submit(schedule, *jobs)
    list(schedule.worker_ready(1))
    list(schedule.ended(jobs[0].ticket, End(Outcome.RETURNED)))
    assert list(schedule.ended(jobs[1].ticket, End(Outcome.RETURNED))) == [
        Settle(jobs[1], End(Outcome.RETURNED)),
        StopWorker(1),
    ]
    assert list(schedule.worker_gone(1)) == [StartWorker(2)]


def test_no_more_brisk_jobs_wait_at_a_worker_than_it_may_run() -> None:
    schedule, _ = make(1, max_tasks_per_child=3)
    set_pace_of(schedule, 0.0)
    jobs = [Entry(number) for number in range(5)]
    submit(schedule, *jobs)
    assert list(schedule.worker_ready(1)) == [Dispatch(1, job) for job in jobs[:3]]


def test_workers_leave_when_the_last_job_is_over() -> None:
    schedule, _ = make(1)
    job = Entry(1)
    submit(schedule, job)
    assert list(schedule.stop()) == []
    list(schedule.worker_ready(1))
    assert list(schedule.ended(job.ticket, End(Outcome.RETURNED)))[-1] == StopWorker(1)
    assert not schedule.unsettled


def test_what_a_worker_says_of_the_job_of_another_one_changes_nothing() -> None:
    schedule, clock = make(2)
    first, second = Entry(1, timeout=1.0), Entry(2)
    submit(schedule, first, second)
    list(schedule.worker_ready(1))
    list(schedule.worker_ready(2))
    assert list(schedule.handed_back(2, first.ticket)) == []
    assert list(schedule.started(2, first.ticket, clock.now_s)) == []
    assert first.started_s == math.inf
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
    assert list(schedule.ticked(clock.now_s + 5)) == [LookIfLoaded(job)]
    job.seen(clock.now_s, clock.now_s + 5)
    assert list(schedule.ticked(clock.now_s + 5)) == [KillWorker(1)]
    assert list(schedule.ticked(clock.now_s + 6)) == []
    assert list(schedule.ended(job.ticket, End(Outcome.CRASHED))) == [
        Settle(job, End(Outcome.TIMED_OUT))
    ]


def test_a_job_has_its_time_from_when_its_call_was_loaded() -> None:
    schedule, clock = make(1)
    job = Entry(1, timeout=5.0, retries=1)
    submit(schedule, job)
    list(schedule.worker_ready(1))
    began_s = clock.now_s
    list(schedule.started(1, job.ticket, began_s))
    assert list(schedule.ticked(began_s + 5)) == [LookIfLoaded(job)]
    job.seen(None, began_s + 5)
    assert list(schedule.ticked(began_s + 9)) == []
    assert schedule.next_deadline_s() == began_s + 10  # it was not loaded five seconds before
    assert list(schedule.ticked(began_s + 10)) == [LookIfLoaded(job)]
    job.seen(began_s + 7, began_s + 10)
    assert list(schedule.ticked(began_s + 11)) == []
    assert list(schedule.ticked(began_s + 12)) == [KillWorker(1)]
    decided = list(schedule.ended(job.ticket, End(Outcome.CRASHED)))
    assert RunAgain(job, End(Outcome.TIMED_OUT)) in decided
    assert not job.loaded
    assert schedule.next_deadline_s() == math.inf


def test_a_job_that_is_not_loaded_can_be_killed() -> None:
    schedule, clock = make(1)
    job = Entry(1, timeout=5.0, retries=1)
    submit(schedule, job)
    list(schedule.worker_ready(1))
    list(schedule.started(1, job.ticket, clock.now_s))
    assert list(schedule.killed(1)) == [KillWorker(1)]
    assert list(schedule.ended(job.ticket, End(Outcome.CRASHED))) == [
        Settle(job, End(Outcome.KILLED))
    ]


def test_a_process_that_was_stopped_takes_no_time_from_its_jobs() -> None:
    schedule, clock = make(1)
    job = Entry(1, timeout=5.0)
    submit(schedule, job)
    list(schedule.worker_ready(1))
    began_s = clock.now_s
    list(schedule.started(1, job.ticket, began_s))
    assert list(schedule.delayed(3600)) == [LookIfLoaded(job, 3600)]
    job.seen(began_s, began_s + 3601, 3600)
    assert list(schedule.ticked(began_s + 3601)) == []
    assert list(schedule.delayed(1000)) == []
    assert list(schedule.ticked(began_s + 4601)) == []
    assert list(schedule.ticked(began_s + 4605)) == [KillWorker(1)]


def test_a_process_that_was_stopped_while_a_call_was_loaded_adds_no_time_to_its_job() -> None:
    schedule, clock = make(1)
    job = Entry(1, timeout=5.0)
    submit(schedule, job)
    list(schedule.worker_ready(1))
    began_s = clock.now_s
    list(schedule.started(1, job.ticket, began_s))
    assert list(schedule.delayed(3600)) == [LookIfLoaded(job, 3600)]
    job.seen(None, began_s + 3600, 3600)
    assert list(schedule.ticked(began_s + 3605)) == [LookIfLoaded(job)]
    job.seen(began_s + 3601, began_s + 3605)
    assert list(schedule.ticked(began_s + 3605)) == []
    assert list(schedule.ticked(began_s + 3606)) == [KillWorker(1)]


def test_a_worker_that_was_not_stopped_with_its_parent_gives_its_job_no_time_ahead() -> None:
    job = Entry(1, timeout=5.0)
    job.seen(200.0, 210.0, pause_s=100.0)  # loaded while the parent was stopped, until 210
    assert job.deadline_s == 215.0


def test_jobs_are_sent_ahead_while_they_are_brisk_and_called_back_from_behind_a_long_one() -> None:
    schedule, clock = make(2)
    submit(schedule, Entry(1))
    list(schedule.worker_ready(1))
    list(schedule.ended(1, End(Outcome.RETURNED)))
    brisk(schedule, clock)
    ahead = round(settings.AHEAD_S / BRISK)
    jobs = [Entry(number) for number in range(10, 11 + ahead)]
    assert submit(schedule, *jobs) == [
        *(Dispatch(1, job) for job in jobs[:ahead]),
        StartWorker(2),
    ]
    assert list(schedule.worker_ready(2)) == [Dispatch(2, jobs[ahead])]
    list(schedule.ended(jobs[ahead].ticket, End(Outcome.RETURNED)))
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
    list(schedule.ended(1, End(Outcome.RETURNED)))
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
        list(schedule.ended(worker, End(Outcome.RETURNED)))
    brisk(schedule, clock, worker=2)
    jobs = [Entry(number) for number in range(10, 10 + 2 * 20)]
    submit(schedule, *jobs)
    of = {w: [job for job in jobs if job.worker == w] for w in (1, 2)}
    for job in of[2]:
        list(schedule.ended(job.ticket, End(Outcome.RETURNED)))
    decided: list[Action] = []
    for job in of[1][:-1]:  # none is long enough to be called long, and together they are
        clock.now_s += settings.RECALL_AFTER_S * 0.75
        decided += schedule.ticked(clock.now_s)
        decided += schedule.ended(job.ticket, End(Outcome.RETURNED))
    assert Recall(1) in decided


def test_a_few_jobs_that_wait_behind_one_another_do_not_come_and_go() -> None:
    schedule, clock = make(2)
    submit(schedule, Entry(1), Entry(2))
    for worker in (1, 2):
        list(schedule.worker_ready(worker))
        list(schedule.ended(worker, End(Outcome.RETURNED)))
    brisk(schedule, clock, worker=2, takes_s=settings.BRISK_S * 2)
    jobs = [Entry(number) for number in range(10, 30)]
    submit(schedule, *jobs)
    at_workers = [job for job in jobs if job.worker]
    assert len(at_workers) > 2
    for job in at_workers:
        clock.now_s += settings.BRISK_S * 2
        assert Recall(job.worker or 0) not in [
            *schedule.ticked(clock.now_s),
            *schedule.ended(job.ticket, End(Outcome.RETURNED)),
        ]


@pytest.mark.parametrize(
    ("takes_s", "ahead"),
    [
        (settings.AHEAD_S, 1),
        (settings.AHEAD_S / 2, 2),
        (settings.AHEAD_S / 8, 8),
        (settings.AHEAD_S / settings.JOBS_AHEAD / 2, settings.JOBS_AHEAD),
        (0.0, settings.JOBS_AHEAD),
    ],
)
def test_as_many_jobs_are_at_a_worker_as_are_over_soon(takes_s: float, ahead: int) -> None:
    schedule, clock = make(1)
    submit(schedule, Entry(1))
    list(schedule.worker_ready(1))
    list(schedule.ended(1, End(Outcome.RETURNED)))
    brisk(schedule, clock, takes_s=takes_s)
    jobs = [Entry(number) for number in range(10, 12 + settings.JOBS_AHEAD)]
    assert submit(schedule, *jobs) == [Dispatch(1, job) for job in jobs[:ahead]]


def test_to_workers_that_are_far_away_longer_jobs_are_sent_ahead() -> None:
    schedule, clock = make(1, distance=10)
    submit(schedule, Entry(1))
    list(schedule.worker_ready(1))
    list(schedule.ended(1, End(Outcome.RETURNED)))
    brisk(schedule, clock, takes_s=settings.AHEAD_S)
    jobs = [Entry(number) for number in range(10, 30)]
    assert submit(schedule, *jobs) == [Dispatch(1, job) for job in jobs[:10]]
    assert schedule.next_deadline_s() == math.inf  # nobody else could run what waits there


def test_behind_a_job_of_which_the_worker_has_said_that_it_is_long_none_waits() -> None:
    schedule, clock = make(1)
    submit(schedule, Entry(1))
    list(schedule.worker_ready(1))
    list(schedule.ended(1, End(Outcome.RETURNED)))
    brisk(schedule, clock)
    long, behind = Entry(10), Entry(11)
    assert submit(schedule, long, behind) == [Dispatch(1, long), Dispatch(1, behind)]
    assert list(schedule.handed_back(1, behind.ticket)) == [Unclaim(behind)]
    assert list(schedule.ticked(clock.now_s)) == []
    assert Dispatch(1, behind) in schedule.ended(long.ticket, End(Outcome.RETURNED))
    after = Entry(12)
    assert submit(schedule, after) == [Dispatch(1, after)]


def test_a_worker_that_has_nearly_all_it_may_have_gets_more_in_portions() -> None:
    schedule, clock = make(1)
    submit(schedule, Entry(1))
    list(schedule.worker_ready(1))
    list(schedule.ended(1, End(Outcome.RETURNED)))
    brisk(schedule, clock, takes_s=0.0)
    jobs = [Entry(number) for number in range(10, 10 + 2 * settings.JOBS_AHEAD)]
    submit(schedule, *jobs)
    portion = settings.JOBS_AHEAD // settings.PORTIONS
    given = [len(list(schedule.ended(job.ticket, End(Outcome.RETURNED)))) - 1 for job in jobs[:100]]
    assert given == ([0] * (portion - 1) + [portion]) * (100 // portion) + [0] * (100 % portion)
    # Once all news has been told, what was worth no portion goes too.
    left = 100 % portion
    assert [type(action) for action in schedule.ticked(clock())] == [Dispatch] * left
    for job in jobs[100:]:  # and at the end the last ones, fewer than a portion
        assert Settle(job, End(Outcome.RETURNED)) in schedule.ended(
            job.ticket, End(Outcome.RETURNED)
        )
    assert not schedule.unsettled


def test_a_worker_that_could_not_be_started_is_tried_again_at_the_next_end() -> None:
    schedule, clock = make(2)
    submit(schedule, Entry(1))
    list(schedule.worker_ready(1))
    list(schedule.ended(1, End(Outcome.RETURNED)))
    brisk(schedule, clock, takes_s=0.0)
    jobs = [Entry(number) for number in range(10, 11 + settings.JOBS_AHEAD)]
    assert submit(schedule, *jobs)[-1] == StartWorker(2)
    schedule.worker_not_started(2)
    submit(schedule, Entry(9))
    assert StartWorker(3) in schedule.ended(jobs[0].ticket, End(Outcome.RETURNED))


def test_jobs_that_are_sent_ahead_are_shared_out_among_the_workers() -> None:
    schedule, clock = make(3)
    submit(schedule, *(Entry(number) for number in range(1, 4)))
    for worker in (1, 2, 3):
        list(schedule.worker_ready(worker))
        list(schedule.ended(worker, End(Outcome.RETURNED)))
    brisk(schedule, clock, worker=3)
    given = submit(schedule, *(Entry(number) for number in range(10, 40)))
    assert Counter(a.worker for a in given if isinstance(a, Dispatch)) == {1: 10, 2: 10, 3: 10}
