"""Jobs that wait at a worker: they can be called back, killed and cancelled."""

import functools
import os
from pathlib import Path
from typing import Any

import pytest

from collector import Collector, JobKilledError, Retry, settings
from tests.support.inside import jobs_at_workers, jobs_not_over, set_pace
from tests.support.jobs import begun_then_wait, square, wait_for
from tests.support.leaks import wait_until
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")


def note_and_wait(number: int, path: str) -> None:
    """The first ends at once; the others say that they run and wait to be let go."""
    if number:
        with open(f"{path}/ran", "a", encoding="ascii") as file:
            file.write(f"{number} ")
        wait_for(f"{path}/go")


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job is fetched back because another one takes long."""
    monkeypatch.setattr(settings, "RECALL_AFTER_S", 1000.0)


@pytest.mark.usefixtures("_patient")
@pytest.mark.parametrize("how", ["collect", "map"])
@each_method
def test_leaving_a_loop_early_cancels_also_what_waits_at_a_worker(
    method: str, how: str, tmp_path: Path
) -> None:
    with Collector(1, method) as collector:
        act = functools.partial(note_and_wait, path=os.fspath(tmp_path))
        loop: Any = (
            collector.collect(act, range(100), buffersize=100, ordered=True)
            if how == "collect"
            else collector.map(act, range(100))
        )
        next(loop)
        wait_for(tmp_path / "ran")
        set_pace(collector, 0.0)
        assert wait_until(lambda: jobs_at_workers(collector) == 99)
        loop.close()
        assert wait_until(lambda: jobs_not_over(collector) == 1)
        (tmp_path / "go").touch()
    assert (tmp_path / "ran").read_text() == "1 "


def note_and_fail(path: str) -> None:
    with open(f"{path}/ran", "a", encoding="ascii") as file:
        file.write("1 ")
    raise ConnectionError


def fail_after(path: str, ran: Path) -> None:
    wait_for(path)
    with ran.open("a", encoding="ascii") as file:
        file.write("1 ")
    raise ConnectionError


def fails_once_then(path: str, number: int) -> int:
    """The first one fails, the others wait until it has."""
    if number == 0:
        note_and_fail(path)
    wait_for(f"{path}/ran")
    return number


NEVER = Retry(error=3, on=(ConnectionError,), delay=100_000.0, max_delay=100_000.0)


def test_a_job_that_waits_for_its_next_attempt_holds_up_no_shutdown_that_cancels(
    tmp_path: Path,
) -> None:
    collector = Collector(1)
    job = collector.with_options(retries=NEVER).submit(note_and_fail, os.fspath(tmp_path))
    assert wait_until(lambda: job.attempt == 2)
    collector.shutdown(cancel_futures=True)
    with pytest.raises(JobKilledError, match="was not run again: nobody waits for it any more"):
        job.result()
    assert (tmp_path / "ran").read_text() == "1 "


def test_a_job_that_waits_for_its_next_attempt_holds_up_nobody_who_left_the_loop(
    tmp_path: Path,
) -> None:
    act = functools.partial(fails_once_then, os.fspath(tmp_path))
    with Collector(2) as collector:
        for job in collector.with_options(retries=NEVER).collect(act, range(3)):
            assert job.result() == job.args[0] > 0
            break
    assert (tmp_path / "ran").read_text() == "1 "


@pytest.mark.usefixtures("_patient")
@pytest.mark.parametrize("way", ["shutdown", "kill_workers", "terminate_workers"])
def test_a_further_attempt_that_waits_at_a_worker_is_not_made_after_the_end(
    way: str, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    with Collector(1) as collector:
        collector.submit(abs, 1).result()
        set_pace(collector, 0.0)
        failing = collector.with_options(retries=3)
        job = failing.submit(fail_after, os.fspath(tmp_path / "fail"), ran)
        begun, go = tmp_path / "begun", tmp_path / "go"
        other = collector.submit(begun_then_wait, os.fspath(begun), os.fspath(go))
        assert wait_until(lambda: jobs_at_workers(collector) == 2)
        (tmp_path / "fail").touch()
        wait_for(begun)
        assert wait_until(lambda: job.attempt == 2)
        set_pace(collector, 0.0)
        assert wait_until(lambda: jobs_at_workers(collector) == 2)
        if way == "shutdown":
            collector.shutdown(wait=False, cancel_futures=True)
        else:
            getattr(collector, way)()
        with pytest.raises(JobKilledError, match="was not run again"):
            job.result(60)
        if way == "shutdown":  # the others return at once: let go, it might end before it is killed
            go.touch()
        assert (other.exception(60) is None) is (way == "shutdown")
    assert ran.read_text() == "1 "


@pytest.mark.usefixtures("_patient")
@each_method
def test_a_job_that_waits_at_a_worker_can_be_killed_and_one_that_comes_back_be_cancelled(
    method: str, tmp_path: Path
) -> None:
    with Collector(1, method) as collector:
        path = os.fspath(tmp_path)
        first, *others = [collector.submit(note_and_wait, number, path) for number in (1, 2, 3)]
        wait_for(tmp_path / "ran")
        set_pace(collector, 0.0)
        assert wait_until(lambda: jobs_at_workers(collector) == 3)
        set_pace(collector, 1.0)
        assert [job.running() for job in others] == [True, True]
        assert others[0].kill()
        assert wait_until(others[0].cancelled)
        assert wait_until(others[1].cancel)
        assert not first.cancel()
        (tmp_path / "go").touch()
        assert first.exception() is None
    assert (tmp_path / "ran").read_text() == "1 "


def test_after_brisk_jobs_long_ones_run_at_all_workers(tmp_path: Path) -> None:
    until = tmp_path / "until"
    with Collector(max_workers=2) as collector:
        for number in range(200):  # one worker is enough for these
            collector.submit(square, number).result()
        for number in range(12):
            begun = os.fspath(tmp_path / f"begun-{number}")
            collector.submit(begun_then_wait, begun, os.fspath(until))
        try:
            assert wait_until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
        finally:
            until.touch()


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_that_wait_at_a_worker_are_cancelled_by_shutdown(workers: int, tmp_path: Path) -> None:
    begun, until = tmp_path / "begun", tmp_path / "until"
    with Collector(workers) as collector:
        list(collector.map(square, range(2000)))  # from now on some are sent ahead
        told = (os.fspath(begun), os.fspath(until))
        jobs = [collector.submit(begun_then_wait, *told) for _ in range(100)]
        wait_for(begun)
        collector.shutdown(wait=False, cancel_futures=True)
        try:
            assert wait_until(lambda: sum(job.cancelled() for job in jobs) >= 100 - workers)
        finally:
            until.touch()
