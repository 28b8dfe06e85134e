"""What the scheduler makes of a crash, event by event."""

from collector.process.scheduler.decisions import (
    Dispatch,
    End,
    Entry,
    RunAgain,
    Settle,
    StartWorker,
)
from collector.process.scheduler.scheduler import Scheduler
from collector.wire.outcome import Outcome


def crashed(schedule: Scheduler, *jobs: Entry) -> list[object]:
    """One worker takes the first of these jobs and dies of it; what happens until it is gone."""
    actions: list[object] = [action for job in jobs for action in schedule.submitted(job)]
    assert StartWorker(1) in actions
    assert list(schedule.worker_ready(1)) == [Dispatch(1, jobs[0])]
    list(schedule.started(1, jobs[0].ticket, now_s=0.0))
    return list(schedule.ended(jobs[0].ticket, End(Outcome.CRASHED)))


def test_a_worker_that_died_of_its_job_gets_no_other_job_before_it_is_gone() -> None:
    schedule = Scheduler(max_workers=1)
    first, second = Entry(1), Entry(2)
    assert crashed(schedule, first, second) == [Settle(first, End(Outcome.CRASHED))]
    assert list(schedule.worker_gone(1)) == [StartWorker(2)]
    assert list(schedule.worker_ready(2)) == [Dispatch(2, second)]


def test_a_job_that_crashed_and_may_run_again_goes_to_the_next_worker() -> None:
    schedule = Scheduler(max_workers=1)
    job = Entry(1, retries=1)
    assert crashed(schedule, job) == [RunAgain(job, End(Outcome.CRASHED))]
    assert list(schedule.worker_gone(1)) == [StartWorker(2)]
    assert list(schedule.worker_ready(2)) == [Dispatch(2, job)]
    assert (job.attempt, job.retries) == (2, 0)
