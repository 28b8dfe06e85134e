"""What one job costs the scheduler does not grow with how many others wait, and for what.

Nor with how many workers there are.
"""

import random
from collections.abc import Callable

import pytest

from collector import settings
from collector.process.scheduler.decisions import Entry
from collector.process.scheduler.retries import Retry
from collector.settings import GATES_UNTRIED
from tests.process.test_gates import MEMORY, RAISED, Desk, desk
from tests.support.inside import (
    fewest_in_order,
    fewest_of_all,
    kept_for_gates,
    kept_in_order,
    next_in_order,
    next_of_all,
    one_round,
    set_pace_of,
)
from tests.support.steps import steps_of
from tests.support.supervised import Desk as Supervised

MANY = 400


def run_one(here: Desk) -> None:
    """End a job and let the next one begin, as a round of the supervisor does."""
    here.end(here.running[0])
    here.do(here.schedule.ticked(here.clock.now_s))
    here.schedule.next_deadline_s()


def waiting_for_each_its_own(many: int) -> Desk:
    """Jobs that wait for workers, each of a resource of its own."""
    here = desk(2)
    here.submit(*(Entry(number, resource=f"host {number}") for number in range(1, many + 1)))
    return here


def waiting_at_closed_gates(many: int) -> Desk:
    """Jobs that wait at as many closed gates, and some that do not."""
    here = desk(2)
    for number in range(1, many + 1):
        here.submit(Entry(number, resource=f"host {number}"))
        here.refuse(here.running[0], 100 + number)
    here.submit(*(Entry(number) for number in range(1001, 1009)))
    return here


def behind_closed_gates(many: int) -> Desk:
    """Jobs of no resource, after a batch of which as many others have closed theirs."""
    here = desk(2)
    for number in range(1, many + 1):
        here.submit(Entry(number, resource=f"host {number}", retry=Retry(later=0)))
        here.refuse(here.running[0], 100 + number)
    here.submit(*(Entry(number) for number in range(1001, 1009)))
    return here


class Compared(int):
    """A number whose comparisons count as steps."""

    def __lt__(self, other: int) -> bool:
        return int(self) < int(other)


def each_alone(many: int) -> Desk:
    """Jobs that had no memory, each of which is to run alone."""
    here = desk(2)
    for number in range(1, many + 1):
        here.submit(Entry(Compared(number), retry=Retry(oom=1, delay=0.0)))
        here.end(here.running[0], RAISED, MEMORY)
    here.wait(1)
    return here


@pytest.mark.parametrize(
    "waiting", [waiting_for_each_its_own, waiting_at_closed_gates, behind_closed_gates, each_alone]
)
def test_the_end_of_a_job_takes_as_many_steps_however_many_others_wait(
    waiting: Callable[[int], Desk],
) -> None:
    few, many = waiting(MANY // 10), waiting(MANY)
    for here in (few, many):
        run_one(here)
    assert steps_of(lambda: run_one(many)) < 2 * steps_of(lambda: run_one(few))


@pytest.mark.parametrize("waiting", [waiting_for_each_its_own, waiting_at_closed_gates])
def test_a_job_is_cancelled_in_as_many_steps_however_many_resources_others_wait_for(
    waiting: Callable[[int], Desk],
) -> None:
    few, many = waiting(MANY // 10), waiting(MANY)

    def cancel(here: Desk, number: int) -> None:
        here.do(here.schedule.withdrawn(number))

    of_few = steps_of(lambda: cancel(few, MANY // 10))
    assert steps_of(lambda: cancel(many, MANY)) < 2 * of_few


def test_a_resource_that_asks_for_a_pause_again_and_again_leaves_nothing_behind() -> None:
    here = desk(2)
    here.submit(Entry(1, resource="model"), Entry(2, resource="model"), Entry(3, resource="other"))
    most = 0
    for number in range(10 * GATES_UNTRIED):
        here.refuse(here.running[0], 10)
        here.wait(10 + number % 2)
        most = max(most, kept_for_gates(here.schedule))
    assert most <= 3 * GATES_UNTRIED
    while here.running:
        here.end(here.running[0])
    assert sorted(number for number, _ in here.settled) == [1, 2, 3]


def running_at(workers: int, jobs: int, *, ahead: bool = False) -> Supervised:
    """So many workers, each of which runs a job, and more jobs that wait."""
    here = Supervised(workers, ahead=ahead)
    for _ in range(jobs):
        here.submit()
    while not any(worker.running for worker in here.engine.living()):
        here.go_on()
    return here


def end_one(here: Supervised) -> int:
    """Let a job end, and have the supervisor hear of it; returns the steps that this takes."""
    worker = next(worker for worker in here.engine.living() if worker.running)
    worker.end(1)
    here.sink.arrive()
    return steps_of(lambda: one_round(here.supervisor))


@pytest.mark.parametrize(("jobs_each", "ahead"), [(0.75, False), (2, False), (20, True)])
def test_the_end_of_a_job_takes_about_as_many_steps_however_many_workers_there_are(
    jobs_each: float, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "JOBS_AHEAD", 8)
    steps = []
    for workers in (4, 64):
        here = running_at(workers, int(workers * jobs_each), ahead=ahead)
        end_one(here)  # the first one may see much for the first time
        steps.append(end_one(here))
        here.finish()
    few, many = steps
    assert many < 1.5 * few


def test_what_is_known_of_the_order_of_workers_does_not_grow_with_the_jobs_that_they_have_run() -> (
    None
):
    here = desk(4)
    most = 0
    for number in range(1, 2001):
        here.submit(Entry(number, timeout=3600.0))
        job = here.running[0]
        here.clock.now_s += 0.1
        here.do(here.schedule.started(job.worker or 0, job.ticket, here.clock.now_s))
        here.schedule.next_deadline_s()
        here.end(job)
        most = max(most, kept_in_order(here.schedule))
    assert most < 200


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_workers_says_what_a_look_at_each_of_them_says(seed: int) -> None:
    chance = random.Random(seed)
    here = desk(5)
    if seed % 2:
        set_pace_of(here.schedule, 0.0)
    for number in range(1, 200):
        here.submit(Entry(number, timeout=chance.choice([None, 5.0])))
        here.clock.now_s += chance.choice([0.0, 0.001, 0.1])
        for job in chance.sample(here.running, min(len(here.running), chance.randrange(3))):
            here.do(here.schedule.started(job.worker or 0, job.ticket, here.clock.now_s))
            if chance.random() < 0.5:
                here.end(job)
        fewest = fewest_of_all(here.schedule, here.clock.now_s)
        assert fewest is None or fewest_in_order(here.schedule) in range(fewest + 1)
        assert next_in_order(here.schedule) <= next_of_all(here.schedule) + settings.RECALL_AFTER_S
