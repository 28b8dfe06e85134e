"""Fault 48: no process or thread is to be had, for a while or for good."""

import errno
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from collector import BrokenCollectorError, Collector, Job, WorkerCrashError, settings
from collector.process.start.launcher import Child, Role
from collector.process.worker.begin import main as worker_main
from tests.support.inside import is_broken, launcher, worker_pids
from tests.support.jobs import exit_now, square
from tests.support.leaks import wait_until
from tests.support.tiers import each_method, each_method_but
from tests.support.tree import assert_runs, kill

FEW_PROCESSES: Final = """
import os, resource, sys
import collector.cli.program, filelock, multiprocess
from collector import BrokenCollectorError, Collector
from tests.support.jobs import square
from tests.support.otheruser import become
method, user, root = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with Collector(1, method) as first:  # loads what is loaded late
    assert first.submit(square, 2).result() == 4
become(user)
_, hard = resource.getrlimit(resource.RLIMIT_NPROC)

def attempt():
    with Collector(2, method, temp_root=root) as collector:
        error = collector.submit(square, 3).exception()
        assert error is None or isinstance(error, BrokenCollectorError), error
        return "fine" if error is None else "broken"

met = []
for number in range(1, 40):
    resource.setrlimit(resource.RLIMIT_NPROC, (number, hard))
    try:
        met.append(attempt())
    except (OSError, RuntimeError) as error:
        assert "thread" in str(error), error
        met.append("refused")
    if met[-2:] == ["fine", "fine"]:
        break
print(*met)
"""


@each_method_but("spawn")
def test_without_a_process_or_a_thread_to_be_had_there_is_an_error_and_later_it_works(
    method: str, tmp_path: Path
) -> None:
    """RLIMIT_NPROC counts the threads of a user; here a user that has none but this script."""
    if os.geteuid() != 0:
        pytest.skip("another user's limits need root")
    user = 61000 + os.getpid() % 3000
    os.chown(tmp_path, user, user)
    (met,) = assert_runs(FEW_PROCESSES, method, str(user), os.fspath(tmp_path))
    assert met.startswith("refused")
    assert "broken" in met
    assert met.endswith("fine fine")


def start_workers_if(collector: Collector, allowed: Callable[[int], bool]) -> None:
    """Let a worker start, or fail as at a limit of processes, as `allowed` says of its number."""
    starter = launcher(collector)
    start, numbers = starter.start, itertools.count(1)

    def limited(role: Role, *told: Any) -> Child:
        if role is worker_main and not allowed(next(numbers)):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return start(role, *told)

    starter.start = limited  # type: ignore[method-assign,assignment]


def pause(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@each_method
def test_a_crash_where_no_further_worker_can_be_started_costs_its_own_job_only(method: str) -> None:
    with Collector(4, method) as collector:
        attempts: list[int] = []

        def only_two(number: int) -> bool:
            attempts.append(number)
            return len(worker_pids(collector)) < 2

        start_workers_if(collector, only_two)
        jobs: list[Job[float]] = []

        def many_were_tried() -> bool:  # which they are only while jobs wait
            if all(job.done() for job in jobs):
                jobs.extend(collector.submit(pause, 0.05) for _ in range(20))
            return len(attempts) > 2 + 2 * settings.WORKER_START_DEATHS_LIMIT

        assert wait_until(many_were_tried)
        dies = collector.submit(exit_now, 3)
        jobs += [collector.submit(pause, 0.01) for _ in range(10)]
        assert isinstance(dies.exception(60), WorkerCrashError)
        assert [job.exception(60) for job in jobs] == [None] * len(jobs)


@each_method
def test_a_moment_without_processes_breaks_no_collector_of_many_workers(method: str) -> None:
    many = settings.WORKER_START_DEATHS_LIMIT + 2
    with Collector(many, method) as collector:
        start_workers_if(collector, lambda number: number > many)
        jobs = [collector.submit(square, number) for number in range(many)]
        assert [job.result(60) for job in jobs] == [number**2 for number in range(many)]


@each_method
def test_no_worker_is_started_for_a_collector_that_has_just_been_broken(method: str) -> None:
    with Collector(2, method) as collector:
        start_workers_if(collector, lambda _: is_broken(collector))
        jobs = [collector.submit(square, number) for number in range(2)]
        assert all(isinstance(job.exception(60), BrokenCollectorError) for job in jobs)
        collector.shutdown(wait=False)
        left = not wait_until(lambda: not worker_pids(collector))
        for worker in worker_pids(collector):
            kill(worker)
        assert not left
