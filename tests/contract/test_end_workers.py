"""`terminate_workers` and `kill_workers`, as `ProcessPoolExecutor` has them from Python 3.14 on."""

import os
import signal
import subprocess
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Final

import pytest

from collector import Collector, WorkerCrashError, current_job
from tests.contract.kinds import Kind
from tests.support.inside import sink_pid, worker_pids
from tests.support.jobs import begun_then_wait, kill_self, square, wait_for
from tests.support.leaks import is_running, wait_until
from tests.support.tiers import each_method
from tests.support.tree import script

pytestmark = pytest.mark.usefixtures("one_server")

WAYS: Final = ("terminate_workers", "kill_workers")
each_way = pytest.mark.parametrize("way", WAYS)


@each_way
def test_what_runs_fails_and_what_waits_is_cancelled(kind: Kind, way: str, tmp_path: Path) -> None:
    if not kind.ours and not hasattr(ProcessPoolExecutor, way):
        pytest.skip("the standard executor has it from Python 3.14 on")
    executor: Any = kind.make(2)
    begun = [tmp_path / f"begun-{number}" for number in range(2)]
    never = os.fspath(tmp_path / "never")
    running = [executor.submit(begun_then_wait, os.fspath(mark), never) for mark in begun]
    for mark in begun:
        wait_for(mark)
    waiting = [executor.submit(square, number) for number in range(10)]
    ending = kind.ending(executor)
    getattr(executor, way)()
    for job in running:
        assert isinstance(job.exception(60), BrokenProcessPool)
    assert all(
        job.cancelled() or isinstance(job.exception(60), BrokenProcessPool) for job in waiting
    )
    assert any(job.cancelled() for job in waiting)
    with pytest.raises(RuntimeError):
        executor.submit(square, 1)
    ending()


def hold(begun: str) -> None:
    """Write, start a program, and never end."""
    current_job().write(b"kept")
    current_job().flush()
    program = subprocess.Popen(["sleep", "1000"])
    Path(f"{begun}.part").write_text(str(program.pid))
    os.rename(f"{begun}.part", begun)
    threading.Event().wait()


@each_way
@each_method
def test_nothing_runs_again_and_what_was_written_is_kept(
    method: str, way: str, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    with Collector(1, method, retries=3) as collector:
        job = collector.submit(hold, os.fspath(begun))
        wait_for(begun)
        pids = [*worker_pids(collector), sink_pid(collector), int(begun.read_text())]
        getattr(collector, way)()
        error = job.exception(60)
        assert isinstance(error, WorkerCrashError)
        assert error.signal == (signal.SIGKILL if way == "kill_workers" else signal.SIGTERM)
        assert f"was ended by {way}()" in str(error)
        assert error.attempt == 1
        assert job.output().read() == b"kept"
        assert not job.output().complete
    assert wait_until(lambda: not any(is_running(pid or 0) for pid in pids))


def fail_once_then_hold(begun: str) -> None:
    """Die in the first attempt."""
    if current_job().attempt == 1:
        kill_self()
    hold(begun)


@each_way
@each_method
def test_a_job_that_waits_for_its_next_attempt_has_none(
    method: str, way: str, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    with Collector(1, method, retries=3) as collector:
        blocked = [collector.submit(fail_once_then_hold, os.fspath(begun)) for _ in range(3)]
        wait_for(begun)
        getattr(collector, way)()
    assert all(job.cancelled() or job.exception() for job in blocked)


def refuse_to_end(begun: str, until: str) -> int:
    """Take a SIGTERM for nothing."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    begun_then_wait(begun, until)
    return 7


@each_method
def test_a_job_that_does_not_let_itself_be_terminated_goes_on(method: str, tmp_path: Path) -> None:
    begun, until = tmp_path / "begun", tmp_path / "until"
    with Collector(1, method) as collector:
        job = collector.submit(refuse_to_end, os.fspath(begun), os.fspath(until))
        waiting = collector.submit(square, 3)
        wait_for(begun)
        collector.terminate_workers()
        assert wait_until(waiting.done)
        assert waiting.cancelled()
        until.touch()
        assert job.result(60) == 7


def clean_up(begun: str, ended: str) -> None:
    """Clean up when terminated, as a job that was written for it."""

    def leave(_number: int, _frame: object) -> None:
        Path(ended).touch()
        raise SystemExit(3)

    signal.signal(signal.SIGTERM, leave)
    begun_then_wait(begun, f"{begun}-never")


@each_method
def test_a_job_can_clean_up_when_it_is_terminated(method: str, tmp_path: Path) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    with Collector(1, method) as collector:
        job = collector.submit(clean_up, os.fspath(begun), os.fspath(ended))
        wait_for(begun)
        collector.terminate_workers()
        assert isinstance(job.exception(60), SystemExit)
    assert ended.exists()


@each_way
@each_method
def test_it_may_be_called_at_any_time_and_again(method: str, way: str) -> None:
    unused = Collector(1, method)
    getattr(unused, way)()
    getattr(unused, way)()
    with Collector(1, method) as idle:
        other = idle.with_options(name="other")
        assert idle.submit(square, 3).result() == 9
        getattr(other, way)()
        idle.shutdown()
        getattr(idle, way)()
    with Collector(1, method) as starting:
        job = starting.submit(square, 3)
        getattr(starting, way)()
        assert wait_until(job.done)
        assert job.cancelled() or job.exception() or job.result() == 9


@each_method
def test_a_worker_that_stands_still_is_killed_too(method: str, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with Collector(1, method) as collector:
        job = collector.submit(begun_then_wait, os.fspath(begun), os.fspath(tmp_path / "never"))
        wait_for(begun)
        os.kill(worker_pids(collector)[0], signal.SIGSTOP)
        collector.kill_workers()
        assert isinstance(job.exception(60), WorkerCrashError)


def test_a_forked_child_ends_no_workers_of_its_parent() -> None:
    source = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from collector import Collector
from tests.support.jobs import square
with Collector(1) as collector:
    assert collector.submit(square, 3).result() == 9
    child = os.fork()
    if not child:
        collector.kill_workers()
        collector.terminate_workers()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print(collector.submit(square, 4).result(60), flush=True)
"""
    with script(source) as running:
        assert running.hear() == "16"
        assert running.process.wait(60) == 0
        assert running.gone()


def test_a_job_that_holds_the_collector_may_end_it_in_a_callback() -> None:
    collector = Collector(1)
    job = collector.submit(square, 3)
    called = threading.Event()

    def end(_job: object) -> None:
        collector.kill_workers()
        called.set()

    job.add_done_callback(end)
    assert called.wait(60)
    collector.shutdown()
