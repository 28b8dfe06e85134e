"""Faults 10 to 12 and 20: the sink, the forkserver or a resource tracker is killed."""

import array
import fcntl
import os
import signal
import termios
import threading
from pathlib import Path
from typing import Final

import pytest

from collector import BrokenCollectorError, Collector, JobKilledError, current_job, settings
from tests.support.inside import (
    channel_to_sink,
    run_directory,
    server_pid,
    set_pace,
    sink_pid,
    supervisor_held_up,
)
from tests.support.jobs import (
    MIB,
    begun_then_wait,
    numbered,
    pid,
    sha256,
    square,
    wait_for,
)
from tests.support.leaks import is_running, wait_until
from tests.support.tiers import each_method, each_method_but
from tests.support.tree import kill, script, thread_states

pytestmark = pytest.mark.usefixtures("one_server")


def spill_then_wait(number: int, directory: str) -> int:
    for chunk in numbered(6 * MIB):
        current_job().write(chunk)
    current_job().flush()
    Path(directory, f"begun-{number}").touch()
    wait_for(os.path.join(directory, "until"))
    return number


@each_method
def test_an_idle_sink_that_is_killed_costs_no_job(method: str) -> None:
    with Collector(2, method) as collector:
        assert collector.submit(square, 2).result() == 4
        first = sink_pid(collector)
        kill(first)
        assert wait_until(lambda: sink_pid(collector) != first)
        jobs = [collector.submit(numbered, 6 * MIB) for _ in range(4)]
        assert {sha256(job.output()) for job in jobs} == {sha256(numbered(6 * MIB))}
        for job in jobs:
            job.output().close()


def wait_then_write(begun: str, until: str, size: int) -> None:
    begun_then_wait(begun, until)
    current_job().write(bytes(size))


@pytest.mark.parametrize("size", [1000, 150_000])
@each_method
def test_what_a_sink_had_reported_when_it_died_counts(
    method: str, size: int, tmp_path: Path
) -> None:
    """Also a report of several reads; here the parent comes to read it only after the death."""
    begun, until = tmp_path / "begun", tmp_path / "until"
    with Collector(1, method) as collector:
        assert collector.submit(square, 2).result() == 4
        sink, channel = sink_pid(collector), channel_to_sink(collector)
        assert sink is not None
        job = collector.submit(wait_then_write, os.fspath(begun), os.fspath(until), size)
        wait_for(begun)
        with supervisor_held_up(collector):
            until.touch()
            # All of it, which takes several writes: the sink has written and waits for news.
            assert wait_until(lambda: unread(channel.fd) > size and is_at_rest(sink))
            kill(sink)
            assert wait_until(lambda: not is_running(sink))
        assert job.exception(60) is None
        assert job.output().read() == bytes(size)
        assert collector.submit(square, 3).result() == 9


def is_at_rest(process: int) -> bool:
    return thread_states(process) == {"S"}


def unread(fd: int) -> int:
    """How many bytes have come that nobody has read."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


def note_down(number: int, path: str) -> int:
    with open(path, "a", encoding="ascii") as file:
        file.write(f"{number}\n")
    return number


@pytest.mark.parametrize("slots", [True, False], ids=["with slots", "without"])
@each_method
def test_no_job_is_run_twice_whose_end_only_the_sink_had_heard(
    method: str, slots: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not slots:
        monkeypatch.delattr(os, "memfd_create")
    path, count = tmp_path / "numbers", settings.JOBS_AHEAD + 12
    with Collector(1, method) as collector:
        assert collector.submit(square, 2).result() == 4
        sink = sink_pid(collector)
        assert sink is not None
        os.kill(sink, signal.SIGSTOP)
        with supervisor_held_up(collector):
            set_pace(collector, 0.0)
            jobs = [collector.submit(note_down, number, os.fspath(path)) for number in range(count)]
        assert wait_until(lambda: path.exists() and len(path.read_text().split()) >= 3)
        kill(sink)
        failed = {number for number, job in enumerate(jobs) if job.exception(60) is not None}
        assert all(isinstance(jobs[number].exception(), BrokenCollectorError) for number in failed)
        ran = [int(number) for number in path.read_text().split()]
        assert len(ran) == len(set(ran)), "a job was run twice"
        never = set(range(count)) - set(ran)
        # Only the one that was just beginning may have been cut off; but without slots nobody
        # knows which have begun.
        assert len(never) <= 1 or not slots
        assert set(ran[:3]) | never <= failed
        assert len(failed) < count
        assert collector.submit(square, 3).result() == 9


@pytest.fixture
def _short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "STOP_DEADLINE_S", 1.0)


def shuts_though_its_sink_is_stopped(collector: Collector, *, kill_all: bool) -> bool:
    """Stop the sink, then shut down, or end the block as a Ctrl-C does; whether that has an end."""
    sink = sink_pid(collector)
    assert sink is not None
    os.kill(sink, signal.SIGSTOP)

    def shut() -> None:
        if kill_all:
            collector.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        else:
            collector.shutdown()

    thread = threading.Thread(target=shut, daemon=True)
    thread.start()
    thread.join(30)
    over = not thread.is_alive()
    if not over:
        os.kill(sink, signal.SIGCONT)
        thread.join()
    return over


@pytest.mark.usefixtures("_short_deadline")
@each_method
def test_a_sink_that_is_stopped_does_not_hold_up_the_shutdown(method: str) -> None:
    collector = Collector(2, method)
    assert collector.submit(square, 2).result() == 4
    assert shuts_though_its_sink_is_stopped(collector, kill_all=False)


@pytest.mark.slow
@pytest.mark.usefixtures("_short_deadline")
@each_method
def test_a_sink_that_is_stopped_does_not_hold_up_a_ctrl_c(method: str, tmp_path: Path) -> None:
    collector = Collector(2, method)
    running = collector.submit(spill_then_wait, 0, os.fspath(tmp_path))
    waiting = [collector.submit(square, number) for number in range(10)]
    wait_for(tmp_path / "begun-0")
    assert shuts_though_its_sink_is_stopped(collector, kill_all=True)
    assert isinstance(running.exception(), JobKilledError)
    assert all(job.done() for job in waiting)
    running.output().close()


@each_method
def test_the_jobs_that_a_sink_had_open_fail_and_the_others_run(method: str, tmp_path: Path) -> None:
    with Collector(2, method) as collector:
        sealed = [collector.submit(numbered, size) for size in (MIB, 7 * MIB)]
        assert all(job.exception() is None for job in sealed)
        opened = [collector.submit(spill_then_wait, n, os.fspath(tmp_path)) for n in range(2)]
        pending = [collector.submit(numbered, 6 * MIB) for _ in range(4)]
        for number in range(2):
            wait_for(tmp_path / f"begun-{number}")
        unheard = run_directory(collector) / "streaming-output-0123456789abcdef.spill"
        unheard.touch()  # as one that was made just now, of which the parent had not been told
        kill(sink_pid(collector))
        for job in opened:
            error = job.exception(30)
            assert isinstance(error, BrokenCollectorError)
            assert job.name in str(error)
            assert not job.output().complete
            kept = job.output().read()
            assert b"".join(numbered(6 * MIB)).startswith(kept)
            job.output().close()
        for job in pending:
            assert sha256(job.output()) == sha256(numbered(6 * MIB))
            job.output().close()
        for job, size in zip(sealed, (MIB, 7 * MIB), strict=True):
            assert sha256(job.output()) == sha256(numbered(size))
            job.output().close()
        assert collector.submit(square, 5).result() == 25
        assert not unheard.exists()


@each_method
def test_with_retries_the_jobs_that_a_sink_had_open_are_run_again(
    method: str, tmp_path: Path
) -> None:
    with Collector(2, method, retries=1) as collector:
        jobs = [collector.submit(spill_then_wait, n, os.fspath(tmp_path)) for n in range(2)]
        for number in range(2):
            wait_for(tmp_path / f"begun-{number}")
        kill(sink_pid(collector))
        (tmp_path / "until").touch()
        for number, job in enumerate(jobs):
            assert job.result(60) == number
            assert job.attempt == 2
            assert sha256(job.output()) == sha256(numbered(6 * MIB))
            job.output().close()
        assert collector.submit(square, 3).result() == 9


@each_method_but("spawn")
def test_a_sink_that_dies_again_and_again_breaks_the_collector_and_says_so(method: str) -> None:
    with Collector(1, method, retries=100) as collector:
        job = collector.submit(kill_the_sink_for_ever)
        error = job.exception(60)
        assert isinstance(error, BrokenCollectorError)
        assert "died 5 times" in str(error)
        assert "SIGKILL" in str(error)
        with pytest.raises(BrokenCollectorError, match="died 5 times"):
            collector.submit(square, 1)
    with Collector(1, method) as another:
        assert another.submit(square, 3).result() == 9


def kill_the_sink_for_ever() -> None:
    """Kill the other process that has the run directory open: the sink."""
    writer = current_job()
    writer.write(bytes(6 * MIB))
    writer.flush()
    import signal

    parent = _the_parent()
    while True:
        for number in filter(str.isdigit, os.listdir("/proc")):
            if int(number) not in (os.getpid(), parent) and _holds_a_spill_file(number):
                os.kill(int(number), signal.SIGKILL)


def _the_parent() -> int:
    return int(os.environ["COLLECTOR_TEST_PARENT"])


def _holds_a_spill_file(process: str) -> bool:
    root = os.environ["COLLECTOR_TMPDIR"]
    try:
        links = [
            os.readlink(f"/proc/{process}/fd/{fd}") for fd in os.listdir(f"/proc/{process}/fd")
        ]
    except OSError:
        return False
    return any(link.startswith(root) and link.endswith(".spill") for link in links)


@pytest.fixture(autouse=True)
def _known_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLECTOR_TEST_PARENT", str(os.getpid()))


# -- what there is besides, by the method ----------------------------------------------------------


@pytest.mark.usefixtures("own_server")
def test_the_death_of_the_forkserver_harms_no_process_and_the_next_start_makes_one() -> None:
    with Collector(1, "forkserver") as collector:
        worker = collector.submit(pid).result()
        first = server_pid(collector)
        kill(first)
        assert collector.submit(pid).result() == worker
        kill(worker)
        again = collector.submit(pid).result()
        assert again != worker
        assert server_pid(collector) not in (None, first)


TRACKERS: Final = """
import sys
import multiprocess.resource_tracker, multiprocessing.resource_tracker
from collector import Collector
from tests.support.jobs import MIB, numbered, sha256, square
from tests.support.leaks import descendants, is_running, wait_until
from tests.support.inside import server_pid, sink_pid, worker_pids
from tests.support.tree import kill

def assert_works():
    assert collector.submit(square, 3).result(60) == 9
    with collector.submit(numbered, 6 * MIB).output(60) as output:
        assert sha256(output) == sha256(numbered(6 * MIB))

def assert_nothing_besides():
    ours = {sink_pid(collector), *worker_pids(collector), server_pid(collector)} - {None}
    there = [process for process in descendants() if not process.has_ended]
    assert {process.pid for process in there} == ours, list(map(str, there))

with Collector(1, sys.argv[1]) as collector:
    assert_works()
    assert_nothing_besides()
    for package in (multiprocess, multiprocessing):  # the program's own, for what it has itself
        tracker = package.resource_tracker._resource_tracker
        tracker.ensure_running()
        assert tracker._pid in [process.pid for process in descendants()]
        kill(tracker._pid)
        assert wait_until(lambda: not is_running(tracker._pid))
    assert_works()
    assert_nothing_besides()
    for kind in (worker_pids, lambda it: [sink_pid(it)]):  # it can start others, too
        (before,) = kind(collector)
        kill(before)
        assert wait_until(lambda: before not in kind(collector))
        assert_works()
        assert_nothing_besides()
print("fine", flush=True)
"""


@each_method_but("fork")
def test_no_resource_tracker_is_started_and_the_death_of_the_program_s_own_harms_nothing(
    method: str,
) -> None:
    with script(TRACKERS, method) as running:
        assert running.hear() == "fine"
        assert running.process.wait(60) == 0
        assert running.gone()
