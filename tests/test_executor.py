"""The executor as a user meets it: futures, callbacks, threads, the end."""

import asyncio
import enum
import os
import subprocess
import sys
import threading
from concurrent.futures import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from pathlib import Path
from typing import Any

import pytest

from collector import Collector, Job, JobKilledError, list_runs
from tests.support.jobs import (
    echo,
    fail,
    kept_busy,
    nothing,
    pid_then_wait,
    square,
    wait_for,
)
from tests.support.leaks import is_running
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")

# -- as any executor -------------------------------------------------------------------------------


def test_a_collector_is_an_executor_and_a_job_is_a_future() -> None:
    with Collector(1) as collector:
        assert isinstance(collector, Executor)
        job = collector.submit(square, 3)
        assert isinstance(job, Future)
        assert type(job) is Job
        assert (job.result(), job.done(), job.running(), job.cancelled()) == (9, True, False, False)
        assert (job.id, job.args, job.kwargs, job.attempt) == (1, (3,), {}, 1)
        assert collector.submit(echo, value=3).kwargs == {"value": 3}


def test_a_job_has_all_that_a_future_and_its_condition_have_in_this_python() -> None:
    """It makes them itself, smaller: what a newer Python adds must be added there too."""
    with Collector(1) as collector:
        job = collector.submit(square, 3)
        future: Future[int] = Future()
        assert vars(future).keys() <= vars(job).keys()
        for name, value in vars(future._condition).items():
            if name == "_lock":
                continue  # it is one itself
            assert callable(value) == callable(getattr(job._condition, name)), name
        with job._condition:
            assert not job._condition.wait(0.01)
            with job._condition:
                assert not job._condition.wait_for(lambda: False, 0.01)
        with pytest.raises(RuntimeError, match="un-acquired"):
            job._condition.notify_all()


@each_method
def test_the_functions_of_concurrent_futures_take_jobs(method: str, tmp_path: Path) -> None:
    with Collector(2, method) as collector:
        jobs = [collector.submit(square, number) for number in range(20)]
        assert sorted(job.result() for job in as_completed(jobs)) == [n * n for n in range(20)]
        with kept_busy(collector, 1, tmp_path) as busy:
            bad = collector.submit(fail, ValueError("no"))
            done, not_done = wait([*busy, bad], return_when=FIRST_EXCEPTION)
            assert (done, not_done) == ({bad}, set(busy))
            quick = collector.submit(square, 2)
            done, not_done = wait([*busy, quick], return_when=FIRST_COMPLETED)
            assert (done, not_done) == ({quick}, set(busy))
            assert wait(busy, timeout=0.01).done == set()
            with pytest.raises(TimeoutError):
                busy[0].result(timeout=0.01)
        assert wait(busy).done == set(busy)


@each_method
def test_jobs_can_be_awaited(method: str) -> None:
    async def batch(collector: Collector) -> list[Any]:
        loop = asyncio.get_running_loop()
        job = collector.submit(square, 3)
        first = await asyncio.wrap_future(job)
        second = await loop.run_in_executor(collector, square, 4)
        rest = await asyncio.gather(
            *(asyncio.wrap_future(collector.submit(square, n)) for n in range(5))
        )
        with pytest.raises(KeyError):
            await asyncio.wrap_future(collector.submit(fail, KeyError("x")))
        return [first, second, *rest]

    with Collector(2, method) as collector:
        assert asyncio.run(batch(collector)) == [9, 16, 0, 1, 4, 9, 16]


def test_cancelling_what_is_awaited_cancels_the_job(tmp_path: Path) -> None:
    async def cancel_one(collector: Collector) -> Job[int]:
        job = collector.submit(square, 3)
        waiting = asyncio.wrap_future(job)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return job

    with Collector(1) as collector, kept_busy(collector, 1, tmp_path):
        job = asyncio.run(cancel_one(collector))
        assert job.cancelled()
        with pytest.raises(CancelledError):
            job.output()


@each_method
def test_shutdown_with_cancel_futures_cancels_what_has_not_started(
    method: str, tmp_path: Path
) -> None:
    collector = Collector(2, method)
    with kept_busy(collector, 2, tmp_path) as busy:
        waiting = [collector.submit(square, number) for number in range(50)]
        collector.shutdown(wait=False, cancel_futures=True)
        assert wait(waiting, timeout=60).not_done == set()
        assert all(job.cancelled() for job in waiting)
        assert not any(job.done() for job in busy)
    collector.shutdown()
    assert [job.exception() for job in busy] == [None, None]


@each_method
def test_without_cancel_futures_everything_submitted_is_done_first(method: str) -> None:
    collector = Collector(2, method)
    jobs = [collector.submit(square, number) for number in range(50)]
    collector.shutdown()
    assert all(job.done() for job in jobs)
    assert [job.result() for job in jobs] == [n * n for n in range(50)]
    collector.shutdown()


@pytest.mark.usefixtures("own_server")
def test_a_collector_that_never_ran_a_job_starts_no_process_and_leaves_nothing() -> None:
    with Collector(4):
        pass
    Collector(4).shutdown()


def test_leaving_by_ctrl_c_or_exit_ends_running_jobs_and_cancels_the_others(
    tmp_path: Path,
) -> None:
    jobs: list[Job[Any]] = []

    def leave(how: BaseException) -> None:
        with Collector(1) as collector:
            begun = tmp_path / type(how).__name__
            jobs.append(collector.submit(pid_then_wait, os.fspath(begun), "/nowhere"))
            jobs.extend(collector.submit(square, n) for n in range(3))
            wait_for(begun)
            raise how

    for how in (KeyboardInterrupt(), SystemExit(3)):
        jobs.clear()
        with pytest.raises(type(how)):
            leave(how)
        assert isinstance(jobs[0].exception(), JobKilledError)
        assert all(job.cancelled() for job in jobs[1:])
        assert not is_running(int((tmp_path / type(how).__name__).read_text()))


@pytest.mark.usefixtures("own_server")
def test_a_ctrl_c_while_a_collector_is_made_leaves_no_run_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        begin(thread)
        if thread.name == "collector-sweep":
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Collector(1)
    assert list_runs() == []


def test_leaving_by_an_exception_waits_for_the_jobs_as_the_standard_does() -> None:
    def leave() -> None:
        with Collector(1) as collector:
            jobs.extend(collector.submit(square, n) for n in range(5))
            raise LookupError

    jobs: list[Job[int]] = []
    with pytest.raises(LookupError):
        leave()
    assert [job.result(timeout=0) for job in jobs] == [0, 1, 4, 9, 16]


@each_method
def test_a_callback_may_submit_wait_fail_or_shut_down(method: str) -> None:
    collector = Collector(1, method)
    follow_up: list[Job[int]] = []
    seen = threading.Event()

    def submit_more(job: Future[int]) -> None:
        follow_up.append(collector.submit(square, job.result()))
        seen.set()

    job = collector.submit(square, 2)
    job.add_done_callback(lambda _job: 1 // 0)
    job.add_done_callback(submit_more)
    assert seen.wait(60)
    assert follow_up[0].result() == 16
    down = threading.Event()

    def shut_down(_job: Future[None]) -> None:
        collector.shutdown()
        down.set()

    collector.submit(nothing).add_done_callback(shut_down)
    assert down.wait(60)
    collector.shutdown()
    with pytest.raises(RuntimeError):
        collector.submit(nothing)


@each_method
def test_jobs_submitted_from_50_threads_all_arrive(method: str) -> None:
    with Collector(2, method) as collector, ThreadPoolExecutor(50) as threads:
        start = threading.Barrier(50)

        def submit_some(number: int) -> list[int]:
            start.wait()
            jobs = [collector.submit(square, 100 * number + step) for step in range(20)]
            assert all(job.output().size == 0 for job in jobs)
            return [job.result() for job in jobs]

        values = [value for some in threads.map(submit_some, range(50)) for value in some]
        assert collector.submit(square, 3).result() == 9
    assert values == [(100 * number + step) ** 2 for number in range(50) for step in range(20)]


@each_method
def test_a_job_can_be_cancelled_until_it_runs(method: str, tmp_path: Path) -> None:
    with Collector(1, method) as collector:
        with kept_busy(collector, 1, tmp_path) as busy:
            waiting = [collector.submit(square, number) for number in range(10)]
            assert all(job.cancel() for job in waiting[::2])
            assert all(job.cancel() for job in waiting[::2])  # again
            assert waiting[1].running() is False
            assert busy[0].cancel() is False
        assert [job.result() for job in waiting[1::2]] == [n * n for n in range(1, 10, 2)]
        assert waiting[1].cancel() is False


def test_a_cancelled_job_counts_as_done_for_wait_and_as_completed(tmp_path: Path) -> None:
    with Collector(1) as collector, kept_busy(collector, 1, tmp_path):
        early, late = collector.submit(square, 1), collector.submit(square, 2)
        early.cancel()
        assert wait([early], timeout=60).done == {early}
        waiting = as_completed([early, late], timeout=60)
        assert next(waiting) is early
        late.cancel()
        assert next(waiting) is late


# -- jobs that wait at a worker --------------------------------------------------------------------


def test_a_name_may_be_a_member_of_an_enumeration() -> None:
    names = enum.StrEnum("names", ["FIRST"])
    with Collector(max_workers=1) as collector:
        assert collector.with_options(name=names.FIRST).submit(square, 3).result() == 9


def test_a_program_whose_locks_are_written_in_python_can_use_a_collector() -> None:
    """As after gevent's patches: such a lock needs its `__init__`."""
    code = """
import threading
threading._CRLock = None
from collector import Collector
with Collector(1) as collector:
    print(collector.submit(abs, -3).result())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
