"""Faults 1 to 9 and 18: a worker dies, is stopped, or leaves processes behind."""

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from collector import Collector, WorkerCrashError, current_job, settings
from tests.support.inside import pipe_of, worker_pids, writer_of_this_worker
from tests.support.jobs import (
    MIB,
    begun_then_wait,
    kept_busy,
    numbered,
    pid,
    sha256,
    square,
    wait_for,
    write_then_die,
)
from tests.support.leaks import is_running, wait_until
from tests.support.tiers import each_method
from tests.support.tree import kill

pytestmark = pytest.mark.usefixtures("one_server")


@each_method
def test_an_idle_worker_that_is_killed_fails_no_job_and_is_replaced(method: str) -> None:
    with Collector(1, method) as collector:
        first = collector.submit(pid).result()
        kill(first)
        assert wait_until(lambda: first not in worker_pids(collector))
        assert collector.submit(pid).result() != first


@each_method
def test_a_worker_killed_while_it_computes_fails_its_job_only(method: str, tmp_path: Path) -> None:
    begun, until = str(tmp_path / "begun"), str(tmp_path / "until")
    with Collector(2, method) as collector:
        doomed = collector.submit(pid_and_wait, begun, until)
        other = collector.submit(numbered, 8 * MIB)
        wait_for(begun)
        victim = int(Path(begun).read_text())
        kill(victim)
        error = doomed.exception(20)
        assert isinstance(error, WorkerCrashError)
        assert error.signal == signal.SIGKILL
        assert "possibly out of memory" in str(error)
        assert sha256(other.output()) == sha256(numbered(8 * MIB))
        assert collector.submit(square, 3).result() == 9


def pid_and_wait(begun: str, until: str) -> None:
    Path(begun + ".part").write_text(str(os.getpid()))
    os.rename(begun + ".part", begun)
    wait_for(until)


@each_method
def test_dying_between_the_last_chunk_and_the_end_is_never_a_short_success(method: str) -> None:
    with Collector(1, method) as collector:
        job = collector.submit(write_then_die, 3 * MIB)
        assert isinstance(job.exception(), WorkerCrashError)
        assert not job.output().complete
        assert job.output().size == 3 * MIB
        job.output().close()
        assert collector.submit(square, 3).result() == 9


@each_method
def test_a_worker_that_was_stopped_and_goes_on_finishes_exactly(
    method: str, tmp_path: Path
) -> None:
    begun, until = str(tmp_path / "begun"), str(tmp_path / "until")
    with Collector(1, method) as collector:
        job = collector.submit(stop_then_write, begun, until, 6 * MIB)
        wait_for(begun)
        Path(until).touch()
        (worker,) = worker_pids(collector)
        assert wait_until(lambda: _state(worker) == "T")
        os.kill(worker, signal.SIGCONT)
        assert sha256(job.output()) == sha256(numbered(6 * MIB))
        job.output().close()
        assert collector.submit(square, 3).result() == 9


def stop_then_write(begun: str, until: str, size: int) -> None:
    begun_then_wait(begun, until)
    os.kill(os.getpid(), signal.SIGSTOP)
    for chunk in numbered(size):
        current_job().write(chunk)


def _state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.slow
@each_method
def test_an_idle_worker_that_is_stopped_is_killed_at_the_deadline_of_shutdown(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "STOP_DEADLINE_S", 1.0)
    with Collector(1, method) as collector:
        worker = collector.submit(pid).result()
        os.kill(worker, signal.SIGSTOP)
    assert not is_running(worker)
    with Collector(1, method) as another:
        assert another.submit(square, 3).result() == 9


LEAVES_A_GRANDCHILD = """
import os, sys, time
print(os.getpid(), flush=True)
time.sleep(1000)
"""


def leave_a_grandchild(begun: str) -> None:
    """Start a process in a session of its own that keeps every descriptor, then be killed."""
    if not os.fork():
        os.setsid()  # first: what is still in the worker's group dies with it
        Path(begun + ".part").write_text(str(os.getpid()))
        os.rename(begun + ".part", begun)
        time.sleep(1000)
        os._exit(0)
    time.sleep(1000)


@each_method
def test_a_death_is_noticed_though_a_grandchild_keeps_every_descriptor(
    method: str, tmp_path: Path
) -> None:
    begun = str(tmp_path / "begun")
    with Collector(1, method) as collector:
        job = collector.submit(leave_a_grandchild, begun)
        wait_for(begun)
        grandchild = int(Path(begun).read_text())
        (worker,) = worker_pids(collector)
        kill(worker)
        assert isinstance(job.exception(20), WorkerCrashError)
        assert is_running(grandchild)  # it left the worker's group: nobody else's to end
        assert collector.submit(square, 4).result() == 16
    kill(grandchild)


def spoil_the_queue(begun: str) -> None:
    """Leave a process, forked in C, that writes garbage into the queue for ever."""
    import ctypes

    pipe = pipe_of(writer_of_this_worker())
    if ctypes.CDLL(None).fork():  # not Python's fork: nothing is closed in the child
        Path(begun).touch()
        kill(os.getpid())
    os.setsid()
    os.set_blocking(pipe, False)
    wait_for(begun)
    while os.path.exists(begun + ".go-on"):
        try:
            os.write(pipe, b"garbage" * 100)
        except OSError:
            continue
    os._exit(0)


@each_method
def test_garbage_of_a_grandchild_in_the_pipe_of_a_dead_worker_harms_nobody(
    method: str, tmp_path: Path
) -> None:
    begun = str(tmp_path / "begun")
    go_on = tmp_path / "begun.go-on"
    go_on.touch()
    with Collector(2, method) as collector:
        doomed = collector.submit(spoil_the_queue, begun)
        other = collector.submit(numbered, 20 * MIB)
        assert isinstance(doomed.exception(60), WorkerCrashError)
        assert sha256(other.output()) == sha256(numbered(20 * MIB))
        assert collector.submit(square, 4).result() == 16
        other.output().close()
    go_on.unlink()


@each_method
def test_a_process_that_a_job_leaves_in_its_group_dies_with_the_worker(
    method: str, tmp_path: Path
) -> None:
    begun = str(tmp_path / "begun")
    with Collector(1, method) as collector:
        job = collector.submit(start_a_program, begun)
        wait_for(begun)
        program = int(Path(begun).read_text())
        job.kill()
        assert job.exception(20) is not None
        assert wait_until(lambda: not is_running(program))
        assert collector.submit(square, 3).result() == 9


def start_a_program(begun: str) -> None:
    program = subprocess.Popen([sys.executable, "-c", LEAVES_A_GRANDCHILD])
    Path(begun + ".part").write_text(str(program.pid))
    os.rename(begun + ".part", begun)
    program.wait()


@each_method
def test_workers_outlive_the_thread_that_made_the_collector(method: str, tmp_path: Path) -> None:
    made: list[Collector] = []

    def make() -> None:
        collector = Collector(1, method)
        collector.submit(square, 2).result()
        made.append(collector)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    with made[0] as collector:
        before = collector.submit(pid).result()
        with kept_busy(collector, 1, tmp_path):
            assert worker_pids(collector) == [before]
        assert collector.submit(pid).result() == before


def leave_work_for_the_end(directory: Path) -> None:
    """Leave a function for the exit, and a thread that is done only when its job is long over."""

    def finish() -> None:
        wait_for(directory / "over")
        (directory / "thread").touch()

    atexit.register((directory / "exit").touch)
    threading.Thread(target=finish, daemon=False).start()


@each_method
def test_a_worker_ends_as_a_script_does_with_its_threads_and_exit_functions(
    method: str, tmp_path: Path
) -> None:
    with Collector(1, method) as collector:
        collector.submit(leave_work_for_the_end, tmp_path).result()
        (tmp_path / "over").touch()
    assert (tmp_path / "thread").exists()
    # As with the standard's fork, which clears and runs them from Python 3.13 on.
    assert (tmp_path / "exit").exists() == (method != "fork" or sys.version_info >= (3, 13))
