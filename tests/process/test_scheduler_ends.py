"""The scheduler decides what becomes of jobs that are killed, cancelled, refused or left."""

import pytest

from collector import settings
from collector.process.scheduler.decisions import (
    Dispatch,
    End,
    Entry,
    KillWorker,
    Recall,
    RunAgain,
    Settle,
    StartWorker,
    StopWorker,
    Unclaim,
)
from collector.process.scheduler.scheduler import Scheduler
from collector.wire.outcome import Outcome
from tests.support.inside import let_nobody_take_more, set_pace_of
from tests.support.scheduling import BRISK, Clock, brisk, make, submit


def test_a_job_that_waits_for_its_next_attempt_can_be_killed() -> None:
    schedule, _ = make(1)
    job = Entry(1, retries=5)
    submit(schedule, job)
    list(schedule.worker_ready(1))
    assert RunAgain(job, End(Outcome.CRASHED)) in list(
        schedule.ended(job.ticket, End(Outcome.CRASHED))
    )
    assert list(schedule.killed(1)) == [Settle(job, End(Outcome.KILLED))]
    assert not schedule.unsettled
    list(schedule.worker_gone(1))
    assert list(schedule.worker_ready(2)) == []


def test_killing_all_ends_also_a_job_that_waits_for_its_next_attempt() -> None:
    schedule, _ = make(1)
    job = Entry(1, retries=5)
    submit(schedule, job)
    list(schedule.worker_ready(1))
    list(schedule.ended(job.ticket, End(Outcome.CRASHED)))
    assert Settle(job, End(Outcome.KILLED)) in list(schedule.kill_all())
    assert not schedule.unsettled


@pytest.mark.parametrize("stopped", [False, True])
def test_a_job_that_nobody_wants_is_not_run_again(*, stopped: bool) -> None:
    """Neither one that waits for its next attempt, nor one that runs."""
    schedule, _ = make(2)
    waits, runs = Entry(1, retries=5), Entry(2, retries=5)
    submit(schedule, waits, runs)
    list(schedule.worker_ready(1))
    list(schedule.worker_ready(2))
    list(schedule.started(runs.worker or 0, runs.ticket, 0.0))
    list(schedule.ended(waits.ticket, End(Outcome.CRASHED)))
    left = schedule.stop(cancel=True) if stopped else schedule.unwanted([1, 2])
    (settled,) = [action for action in left if isinstance(action, Settle)]
    assert (settled.entry, settled.end.outcome) == (waits, Outcome.KILLED)
    assert "not run again" in settled.end.reason
    died = list(schedule.ended(runs.ticket, End(Outcome.CRASHED)))
    assert Settle(runs, End(Outcome.CRASHED)) in died
    assert not schedule.unsettled


@pytest.mark.parametrize("left", ["loop", "shutdown", "kill_workers", "terminate_workers"])
@pytest.mark.parametrize("how", ["handed back", "died"])
def test_a_further_attempt_that_has_not_begun_is_not_made_if_nobody_wants_it(
    left: str, how: str
) -> None:
    """It waits behind another job, or has not come out of the pipe."""
    schedule, _, first, again = with_one_behind(retries=1)
    again.attempt, again.retries = 2, 3
    if left == "loop":
        list(schedule.unwanted([10, 11]))
    else:
        list(schedule.stop(cancel=True))
        if left != "shutdown":
            list(schedule.end_workers(kill=left == "kill_workers"))
    if how == "handed back":
        decided = list(schedule.handed_back(1, again.ticket))
        list(schedule.ended(first.ticket, End(Outcome.RETURNED)))
    else:
        list(schedule.ended(first.ticket, End(Outcome.CRASHED)))
        decided = list(schedule.worker_gone(1))
    (settled,) = [action for action in decided if isinstance(action, Settle)]
    assert (settled.entry, settled.end.outcome) == (again, Outcome.KILLED)
    assert "not run again" in settled.end.reason
    assert not schedule.unsettled
    assert not any(isinstance(action, StartWorker) for action in decided)


def test_killing_one_job_costs_no_other_one() -> None:
    schedule, clock = make(1)
    submit(schedule, Entry(1))
    list(schedule.worker_ready(1))
    list(schedule.ended(1, End(Outcome.RETURNED)))
    brisk(schedule, clock)
    doomed, innocent = Entry(10), Entry(11)
    assert submit(schedule, doomed, innocent) == [Dispatch(1, doomed), Dispatch(1, innocent)]
    # Its END may be on its way here already, and the worker at the next one: fetch that back first.
    assert list(schedule.killed(10)) == [Recall(1)]
    assert list(schedule.ended(doomed.ticket, End(Outcome.RETURNED))) == [
        Settle(doomed, End(Outcome.RETURNED))
    ]
    clock.now_s += 100
    assert list(schedule.ticked(clock())) == []
    assert list(schedule.ended(innocent.ticket, End(Outcome.RETURNED))) == [
        Settle(innocent, End(Outcome.RETURNED))
    ]


def test_a_job_that_is_killed_goes_once_the_ones_behind_it_are_back() -> None:
    schedule, clock = make(1)
    submit(schedule, Entry(1))
    list(schedule.worker_ready(1))
    list(schedule.ended(1, End(Outcome.RETURNED)))
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
    list(schedule.ended(1, End(Outcome.RETURNED)))
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
    assert list(schedule.ended(first.ticket, End(Outcome.RETURNED))) == [
        Settle(first, End(Outcome.RETURNED))
    ]
    assert list(schedule.handed_back(1, last.ticket)) == [
        Settle(last, End(Outcome.CANCELLED)),
        StopWorker(1),
    ]


def test_unwanted_jobs_are_cancelled_unless_they_have_started() -> None:
    schedule, _, running, behind = with_one_behind()
    waiting, other = Entry(12), Entry(13)
    let_nobody_take_more(schedule)
    submit(schedule, waiting, other)
    assert list(schedule.unwanted([10, 11, 12])) == [
        Settle(waiting, End(Outcome.CANCELLED)),
        Recall(1),
    ]
    assert list(schedule.handed_back(1, behind.ticket)) == [
        Settle(behind, End(Outcome.CANCELLED)),
        Dispatch(1, other),
    ]
    assert Settle(running, End(Outcome.RETURNED)) in schedule.ended(
        running.ticket, End(Outcome.RETURNED)
    )


def test_unwanted_jobs_are_asked_for_again_if_the_worker_went_on_just_then() -> None:
    """Also where there is no other worker that could have them."""
    schedule, clock, first, second = with_one_behind()
    third = Entry(12)
    submit(schedule, third)
    assert list(schedule.unwanted([12])) == [Recall(1)]
    list(schedule.ended(first.ticket, End(Outcome.RETURNED)))  # the worker was between two jobs
    clock.now_s += settings.RECALL_AFTER_S
    assert list(schedule.ticked(clock())) == [Recall(1)]
    assert list(schedule.handed_back(1, third.ticket)) == [Settle(third, End(Outcome.CANCELLED))]
    clock.now_s += settings.RECALL_AFTER_S
    assert list(schedule.ticked(clock())) == []
    assert schedule.find(second.ticket) is second


def test_jobs_that_several_workers_hand_back_run_in_their_order() -> None:
    schedule, _ = make(2)
    submit(schedule, Entry(1), Entry(2))
    list(schedule.worker_ready(1))
    list(schedule.worker_ready(2))
    list(schedule.ended(1, End(Outcome.RETURNED)))
    list(schedule.ended(2, End(Outcome.RETURNED)))
    set_pace_of(schedule, BRISK)
    jobs = [Entry(number) for number in range(10, 18)]
    submit(schedule, *jobs)
    assert {job.worker for job in jobs[:2]} == {job.worker for job in jobs[2:]} == {1, 2}
    set_pace_of(schedule, 1.0)
    for worker in (1, 2):
        for job in reversed(jobs[2:]):
            if job.worker == worker:
                list(schedule.handed_back(worker, job.ticket))
    ran = []
    for job in jobs[:2]:
        list(schedule.ended(job.ticket, End(Outcome.RETURNED)))
    while running := [job for job in jobs if job.ticket and schedule.find(job.ticket)]:
        ran.append([job.job_id for job in running])
        for job in running:
            list(schedule.ended(job.ticket, End(Outcome.RETURNED)))
    assert ran == [[12, 13], [14, 15], [16, 17]]


def test_a_job_that_comes_back_can_be_cancelled_by_its_owner_again() -> None:
    schedule, clock, _, behind = with_one_behind()
    clock.now_s += settings.RECALL_AFTER_S
    set_pace_of(schedule, 1.0)
    assert list(schedule.handed_back(1, behind.ticket)) == [Unclaim(behind)]
    assert list(schedule.withdrawn(11)) == []


def test_of_what_a_worker_has_that_is_given_up_nothing_runs_again_that_it_had_begun() -> None:
    for begun, lost in ((0, 0), (1, 1), (2, 2), (None, 2)):
        schedule, _, first, second = with_one_behind()
        last = None if begun is None else begun and (first, second)[begun - 1].ticket
        said = list(schedule.worker_gone(1, last, given_up=True))
        assert [action for action in said if isinstance(action, Settle)] == [
            Settle(entry, End(Outcome.CRASHED)) for entry in (first, second)[:lost]
        ]
        waiting = [Dispatch(2, entry) for entry in (first, second)[lost:]]
        assert list(schedule.worker_ready(2))[: len(waiting)] == waiting


def test_a_job_whose_output_is_refused_goes_once_the_ones_behind_it_are_back() -> None:
    """Its function runs on, perhaps for ever: what waits behind it must not wait for that."""
    schedule, _, refused, innocent = with_one_behind()
    assert list(schedule.ended(refused.ticket, End(Outcome.SPILL_FAILED))) == [
        Recall(1),
        Settle(refused, End(Outcome.SPILL_FAILED)),
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
        settled = [Settle(entry, End(Outcome.SINK_LOST)) for entry in (first, second)[:lost]]
        back = [Unclaim(entry) for entry in (second, first)[: 2 - lost]]
        assert said == [*settled, *back, *([StartWorker(2)] if lost < 2 else [])]
        waiting = [Dispatch(2, entry) for entry in (first, second)[lost:]]
        assert list(schedule.worker_ready(2))[: len(waiting)] == waiting


def test_a_job_whose_output_is_refused_goes_though_nothing_comes_back() -> None:
    schedule, clock, refused, innocent = with_one_behind()
    list(schedule.ended(refused.ticket, End(Outcome.SPILL_FAILED)))
    assert schedule.next_deadline_s() == clock() + settings.SPARE_OTHERS_S
    clock.now_s += settings.SPARE_OTHERS_S
    assert list(schedule.ticked(clock())) == [KillWorker(1)]
    assert list(schedule.worker_gone(1)) == [Unclaim(innocent), StartWorker(2)]
    assert list(schedule.worker_ready(2)) == [Dispatch(2, innocent)]


def test_the_job_behind_one_whose_output_is_refused_is_spared_once_it_runs() -> None:
    schedule, clock, refused, innocent = with_one_behind()
    list(schedule.ended(refused.ticket, End(Outcome.SPILL_FAILED)))
    assert list(schedule.started(1, innocent.ticket, clock())) == []
    clock.now_s += 100
    assert list(schedule.ticked(clock())) == []


@pytest.mark.parametrize("outcome", [Outcome.RAISED, Outcome.SPILL_FAILED, Outcome.LOST])
def test_a_job_that_is_killed_and_fails_in_this_moment_is_not_run_again(outcome: Outcome) -> None:
    schedule, _, doomed, _ = with_one_behind(retries=3)
    assert list(schedule.killed(doomed.job_id)) == [Recall(1)]
    assert Settle(doomed, End(outcome)) in list(schedule.ended(doomed.ticket, End(outcome)))


def test_a_job_that_is_killed_while_its_time_out_ends_it_is_not_run_again() -> None:
    schedule, clock = make(1)
    job = Entry(1, retries=3, timeout=1.0)
    submit(schedule, job)
    list(schedule.worker_ready(1))
    list(schedule.started(1, job.ticket, clock()))
    job.seen(clock(), clock())
    assert list(schedule.ticked(clock() + 1)) == [KillWorker(1)]
    assert list(schedule.killed(1)) == []
    assert list(schedule.ended(job.ticket, End(Outcome.CRASHED))) == [
        Settle(job, End(Outcome.KILLED))
    ]
