"""Short jobs on Ray, of which one task runs several: each is what it is alone."""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from collector import Collector, Job, JobKilledError, WorkerCrashError, current_job
from tests.support.engines import on_ray, opened
from tests.support.inside import set_pace
from tests.support.leaks import wait_until

JOBS: Final = 120

pytestmark = [*on_ray, pytest.mark.ray]


@pytest.fixture(name="collector")
def _collector() -> Iterator[Collector]:
    """One whose workers know the script, and are sent many jobs ahead."""
    with opened("ray", capture=True) as collector:
        assert list(collector.map(abs, range(-20, 0))) == list(range(20, 0, -1))
        set_pace(collector, 0)
        yield collector


def says(number: int, ran: str) -> int:
    note(ran, number)
    sys.stdout.write(f"printed {number}\n")
    current_job().write(b"%d" % number)
    current_job().count(numbers=number + 1)
    return number


def dies(number: int, ran: str) -> None:
    note(ran, number)
    current_job().write(b"begun")
    current_job().flush()
    os.kill(os.getpid(), signal.SIGKILL)


def waits(number: int, ran: str) -> None:
    note(ran, number)
    deadline = time.monotonic() + 60  # a test that fails is to end
    while not os.path.exists(f"{ran}.go") and time.monotonic() < deadline:
        time.sleep(0.01)


def note(ran: str, number: int) -> None:
    with open(ran, "a") as file:
        file.write(f"{number} {os.getpid()}\n")


def runs(ran: Path) -> list[tuple[int, int]]:
    """Return which job has begun where, in their order."""
    lines = [line.split() for line in ran.read_text().splitlines()]
    return [(int(number), int(pid)) for number, pid in lines]


def test_each_has_what_is_its_own(collector: Collector, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    jobs = [collector.submit(says, number, os.fspath(ran)) for number in range(JOBS)]
    for number, job in enumerate(jobs):
        assert job.result() == number
        assert job.output().read() == b"%d" % number
        assert job.log().text() == f"printed {number}\n"
        assert job.meters == {"numbers": number + 1}
    assert Counter(number for number, _ in runs(ran)) == Counter(range(JOBS))


def test_a_death_costs_the_one_that_runs(collector: Collector, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    die = [number for number in range(JOBS) if number % 50 == 10]
    jobs: list[Job[Any]] = [
        collector.submit(dies if number in die else says, number, os.fspath(ran))
        for number in range(JOBS)
    ]
    for number, job in enumerate(jobs):
        if number in die:
            error = job.exception()
            assert isinstance(error, WorkerCrashError)
            assert error.exitcode == -signal.SIGKILL
            assert job.output().read() == b"begun"
        else:
            assert job.result() == number
    assert Counter(number for number, _ in runs(ran)) == Counter(range(JOBS))


def test_none_waits_behind_a_long_one(collector: Collector, tmp_path: Path) -> None:
    """Also not where that is killed."""
    ran = tmp_path / "ran"
    jobs = [collector.submit(says, number, os.fspath(ran)) for number in range(JOBS // 2)]
    long = collector.submit(waits, -1, os.fspath(ran))
    jobs += [collector.submit(says, number, os.fspath(ran)) for number in range(JOBS // 2, JOBS)]
    assert [job.result() for job in jobs] == list(range(JOBS))
    assert not long.done()
    set_pace(collector, 0)
    jobs = [collector.submit(says, number, os.fspath(ran)) for number in range(JOBS)]
    long.kill()
    assert isinstance(long.exception(), JobKilledError)
    assert [job.result() for job in jobs] == list(range(JOBS))
    assert Counter(number for number, _ in runs(ran)) == Counter([-1, *range(JOBS), *range(JOBS)])


def test_what_is_cancelled_while_it_waits_at_a_worker_does_not_run(
    collector: Collector, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    long = [collector.submit(waits, -number, os.fspath(ran)) for number in (1, 2)]
    jobs = [collector.submit(says, number, os.fspath(ran)) for number in range(JOBS)]
    assert wait_until(lambda: ran.exists() and len(runs(ran)) == len(long), 60)
    # Those in tasks come back by themselves.
    assert wait_until(lambda: all(job.cancel() for job in jobs), 60)
    (tmp_path / "ran.go").touch()
    assert not any(job.exception() for job in long)
    assert len(runs(ran)) == len(long)


def test_a_worker_runs_no_more_jobs_than_it_may(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with opened("ray", max_tasks_per_child=7) as collector:
        set_pace(collector, 0)
        jobs = [collector.submit(says, number, os.fspath(ran)) for number in range(JOBS // 4)]
        assert [job.result() for job in jobs] == list(range(JOBS // 4))
    each = Counter(pid for _, pid in runs(ran))
    assert max(each.values()) == 7
    assert Counter(number for number, _ in runs(ran)) == Counter(range(JOBS // 4))
