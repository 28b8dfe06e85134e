"""Faults 3, 37, 44 to 49: no descriptors, no processes, no memory left; readers that are slow."""

import errno
import itertools
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import pytest

from collector import (
    BrokenCollectorError,
    Collector,
    JobTimeoutError,
    SpillError,
    WorkerCrashError,
    current_job,
    settings,
)
from collector.process.engine import Child, Role
from collector.process.worker import main as worker_main
from tests.support.jobs import (
    KIB,
    METHODS,
    MIB,
    exit_now,
    numbered,
    one_chunk,
    sha256,
    square,
    wait_for,
)
from tests.support.leaks import wait_until
from tests.support.tree import kill, script, sink_pid, worker_pids

each_method = pytest.mark.parametrize("method", METHODS)


def assert_runs(source: str, *arguments: str) -> list[str]:
    """Run a script to its good end, with nothing left of its tree; return what it printed."""
    with script(source, *arguments) as running:
        assert running.process.stdout is not None
        printed = running.process.stdout.read()
        assert running.process.wait() == 0, printed
        assert running.gone()
        return printed.splitlines()


# -- descriptors -----------------------------------------------------------------------------------

FEW_DESCRIPTORS: Final = """
import os, resource, sys, threading
from collector import BrokenCollectorError, Collector
from tests.support.jobs import MIB, numbered, sha256, square

def limit(number):
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))

def free():  # the lowest number that is free, and all above are
    for thread in threading.enumerate():  # the sweep at start-up holds some, too
        if thread is not threading.main_thread():
            thread.join()
    fd = os.dup(0)
    os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == fd + 1
    return fd

def attempt():
    with Collector(1, method) as collector:
        job = collector.submit(numbered, 6 * MIB)
        error = job.exception(60)
        if error is None:
            assert sha256(job.output()) == sha256(numbered(6 * MIB))
            job.output().close()
            return "fine"
        assert isinstance(error, BrokenCollectorError), error
        assert "Too many open files" in str(error), error
        return "broken"

os.closerange(3, 1024)  # what was inherited
method, step = sys.argv[1], int(sys.argv[2])
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
assert attempt() == "fine"  # everything that is loaded late is there now
first = free()
met = []
for more in range(0, 200, step):
    limit(first + more)
    try:
        met.append(attempt())
    except OSError as error:
        assert error.errno == 24, error
        met.append("refused")
    finally:
        limit(soft)
    assert free() == first, (more, met, os.listdir("/proc/self/fd"))
    if met[-2:] == ["fine", "fine"]:
        break
assert attempt() == "fine"
print(*met)
"""


@pytest.mark.parametrize(("method", "step"), [("forkserver", 3), ("spawn", 9), ("fork", 2)])
def test_whoever_runs_out_of_descriptors_is_told_and_can_go_on(method: str, step: int) -> None:
    """Some more are there each time, until the whole way is free: most steps of it fail once."""
    (met,) = assert_runs(FEW_DESCRIPTORS, method, str(step))
    assert met.startswith("refused")
    assert "broken" in met
    assert met.endswith("fine fine")


@each_method
def test_a_sink_that_has_no_descriptor_for_a_file_fails_that_job_only(method: str) -> None:
    with Collector(1, method) as collector:
        assert collector.submit(square, 2).result() == 4
        sink = sink_pid(collector)
        assert sink is not None
        opened = {int(name) for name in os.listdir(f"/proc/{sink}/fd")}
        first_free = min(set(range(len(opened) + 1)) - opened)
        limits = resource.prlimit(sink, resource.RLIMIT_NOFILE)
        resource.prlimit(sink, resource.RLIMIT_NOFILE, (first_free, limits[1]))
        job = collector.submit(numbered, 6 * MIB)
        error = job.exception(60)
        assert isinstance(error, SpillError)
        assert error.errno == errno.EMFILE
        resource.prlimit(sink, resource.RLIMIT_NOFILE, limits)
        again = collector.submit(numbered, 6 * MIB)
        assert sha256(again.output()) == sha256(numbered(6 * MIB))
        assert sink_pid(collector) == sink
        again.output().close()


@each_method
def test_descriptors_above_1024_and_a_thousand_jobs_at_once(method: str) -> None:
    """In every process: a child has the low numbers from its parent, or its own by their number."""
    (said,) = assert_runs(
        """
import os, resource, sys
from collector import Collector
from tests.support.jobs import numbered, sha256, square
from tests.support.tree import sink_pid, worker_pids
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1500)]
for fd in held:
    os.set_inheritable(fd, True)
with Collector(2, sys.argv[1], memory_threshold=100) as collector:
    jobs = [collector.submit(numbered, 200) for _ in range(1000)]
    expected = sha256(numbered(200))
    assert all(sha256(job.output()) == expected for job in jobs)
    for pid in (os.getpid(), sink_pid(collector), *worker_pids(collector)):
        assert max(map(int, os.listdir(f"/proc/{pid}/fd"))) > 1024, pid
    opened = len(os.listdir("/proc/self/fd")) - len(held)
    for job in jobs:
        job.output().close()
    assert collector.submit(square, 3).result() == 9
print(opened)
""",
        method,
    )
    assert int(said) < 100  # a thousand outputs in files are held, and none holds a descriptor


# -- processes and threads -------------------------------------------------------------------------

FEW_PROCESSES: Final = """
import os, resource, sys
import collector.cli, filelock, multiprocess
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
        error = collector.submit(square, 3).exception(60)
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


@each_method
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
    supervisor = collector._core.pool._supervisor
    launcher = supervisor._crew.launcher
    start, numbers = launcher.start, itertools.count(1)

    def limited(role: Role, *told: Any) -> Child:
        if role is worker_main and not allowed(next(numbers)):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return start(role, *told)

    launcher.start = limited  # type: ignore[method-assign,assignment]


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
        jobs = [collector.submit(pause, 0.05) for _ in range(20)]
        assert wait_until(lambda: len(attempts) > 2 + 2 * settings.WORKER_START_DEATHS_LIMIT)
        dies = collector.submit(exit_now, 3)
        jobs += [collector.submit(pause, 0.01) for _ in range(10)]
        assert isinstance(dies.exception(60), WorkerCrashError)
        assert [job.exception(60) for job in jobs] == [None] * 30


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
        supervisor = collector._core.pool._supervisor
        start_workers_if(collector, lambda _: bool(supervisor.broken))
        jobs = [collector.submit(square, number) for number in range(2)]
        assert all(isinstance(job.exception(60), BrokenCollectorError) for job in jobs)
        collector.shutdown(wait=False)
        left = not wait_until(lambda: not worker_pids(collector))
        for worker in worker_pids(collector):
            kill(worker)
        assert not left


# -- memory ----------------------------------------------------------------------------------------


@each_method
def test_a_sink_without_memory_fails_the_job_and_lives(method: str) -> None:
    """RLIMIT_AS of the sink just above what it has: the bytes of one job do not fit.

    In a fresh process: a fork of this one may have room enough in what earlier tests have freed.
    """
    assert_runs(
        """
import resource, sys
from pathlib import Path
from collector import Collector, WorkerCrashError
from tests.support.jobs import MIB, numbered, sha256, square
from tests.support.tree import sink_pid
with Collector(1, sys.argv[1]) as collector:
    assert collector.submit(square, 2).result() == 4
    sink = sink_pid(collector)
    size = int(Path(f"/proc/{sink}/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.prlimit(sink, resource.RLIMIT_AS)
    resource.prlimit(sink, resource.RLIMIT_AS, (size + 8 * MIB, limits[1]))
    job = collector.with_options(memory_threshold=64 * MIB).submit(numbered, 40 * MIB)
    error = job.exception(60)
    assert isinstance(error, WorkerCrashError), error
    assert "MemoryError" in str(error), error
    assert not job.output().complete
    resource.prlimit(sink, resource.RLIMIT_AS, limits)
    again = collector.submit(numbered, 4 * MIB)
    assert sha256(again.output()) == sha256(numbered(4 * MIB))
    assert sink_pid(collector) == sink
""",
        method,
    )


@each_method
def test_a_parent_without_memory_for_a_value_fails_that_job_and_lives(method: str) -> None:
    assert_runs(
        """
import resource, sys
from pathlib import Path
from collector import Collector
from tests.support.jobs import MIB, numbered, sha256, square
size = 100_000_000
with Collector(1, sys.argv[1]) as collector:
    assert collector.submit(square, 2).result() == 4
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + size * 2 // 3, hard))
    error = collector.submit(bytes, size).exception(60)
    assert isinstance(error, BaseException), error
    assert "MemoryError" in repr(error) or "MemoryError" in str(error), error
    assert collector.submit(square, 3).result(60) == 9
    with collector.submit(numbered, 6 * MIB).output(60) as output:
        assert sha256(output) == sha256(numbered(6 * MIB))
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    assert len(collector.submit(bytes, size).result(60)) == size
""",
        method,
    )


def pss_mib(pid: int) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(
        int(line.split()[1]) / KIB for line in rollup.splitlines() if line.startswith("Pss:")
    )


@each_method
def test_a_thousand_finished_outputs_that_nobody_reads_stay_within_the_budget(method: str) -> None:
    """4 MB each, under the threshold: 32 MiB of them stay in memory, the others are in files."""
    (said,) = assert_runs(
        """
import os, sys
from collector import Collector
from tests.crash.test_limits import pss_mib
from tests.support.jobs import MIB, numbered, sha256, square
from tests.support.tree import sink_pid
count, size = 1000, 4_000_000
with Collector(2, sys.argv[1], memory_budget=32 * MIB) as collector:
    assert collector.submit(square, 2).result() == 4
    before = pss_mib(os.getpid()) + pss_mib(sink_pid(collector))
    jobs = list(collector.collect(numbered, [size] * count))
    after = pss_mib(os.getpid()) + pss_mib(sink_pid(collector))
    assert all(job.exception() is None and job.output().size == size for job in jobs)
    expected = sha256(numbered(size))
    assert all(sha256(job.output()) == expected for job in jobs[::50])
    held = sum(job.output().path is None for job in jobs)
    assert 0 < held <= 8, held
    for job in jobs:
        job.output().close()
    assert collector.submit(square, 3).result() == 9
print(int(after - before))
""",
        method,
    )
    assert int(said) <= 32 + 16


@each_method
def test_inputs_are_taken_only_so_far_ahead_of_a_slow_reader(method: str) -> None:
    taken = 0

    def inputs() -> Iterator[int]:
        nonlocal taken
        for number in range(40):
            taken = number + 1
            yield MIB

    with Collector(2, method) as collector:
        for number, job in enumerate(collector.collect(numbered, inputs(), buffersize=3)):
            assert taken <= number + 3
            assert job.output().size == MIB
            job.output().close()
        assert collector.submit(square, 3).result() == 9
    assert taken == 40


@each_method
def test_a_sink_that_stands_still_holds_up_its_workers_and_memory_stays_flat(method: str) -> None:
    """As with a very slow disk: the worker waits for credits, it does not pile up chunks."""
    with Collector(1, method) as collector:
        assert collector.submit(square, 2).result() == 4
        (worker,) = worker_pids(collector)
        sink = sink_pid(collector)
        assert sink is not None
        before = pss_mib(worker)
        os.kill(sink, signal.SIGSTOP)
        job = collector.submit(numbered, 200 * MIB)
        assert wait_until(lambda: _waits_for_a_pipe(worker))
        assert pss_mib(worker) - before <= 8
        os.kill(sink, signal.SIGCONT)
        assert sha256(job.output(60)) == sha256(numbered(200 * MIB))
        job.output().close()
        assert collector.submit(square, 3).result() == 9


def _waits_for_a_pipe(pid: int) -> bool:
    """Whether the main thread is in read(2) of a pipe and has slept there for a while."""
    return Path(f"/proc/{pid}/wchan").read_text() in ("pipe_read", "anon_pipe_read") or (
        Path(f"/proc/{pid}/syscall").read_text().split()[0] == "0"
    )


@each_method
def test_large_jobs_do_not_wait_behind_a_long_one_while_a_worker_is_idle(
    method: str, tmp_path: Path
) -> None:
    """They are more than the pipe to their worker holds: some are still on the way there."""
    until, large = tmp_path / "until", bytes(300_000)
    with Collector(2, method) as collector:
        for _ in range(3):  # jobs are brisk: from now on some are sent ahead
            assert list(collector.map(square, range(500))) == [n * n for n in range(500)]
        jobs = [collector.submit(len, large) for _ in range(60)]
        collector.submit(wait_for, os.fspath(until))
        jobs += [collector.submit(len, large) for _ in range(60)]
        try:
            assert [job.result(60) for job in jobs] == [300_000] * 120
        finally:
            until.touch()


# -- workers that are killed while they wait -------------------------------------------------------


@each_method
def test_a_worker_killed_within_a_chunk_of_50_mb_stalls_no_other(
    method: str, tmp_path: Path
) -> None:
    with Collector(2, method) as collector:
        begun, until = tmp_path / "begun", tmp_path / "until"
        assert [job.result() for job in map(collector.submit, [square] * 2, [2, 3])] == [4, 9]
        job = collector.submit(announced_chunk, 50 * MIB, os.fspath(begun), os.fspath(until))
        wait_for(begun)
        sink = sink_pid(collector)
        assert sink is not None
        os.kill(sink, signal.SIGSTOP)  # the worker runs out of slots in the middle of its chunk
        until.touch()
        worker = int(begun.read_text())
        assert wait_until(lambda: _waits_for_a_pipe(worker))
        kill(worker)
        os.kill(sink, signal.SIGCONT)
        error = job.exception(60)
        assert isinstance(error, WorkerCrashError)
        kept = job.output().read()
        assert len(kept) < 50 * MIB
        assert next(numbered(50 * MIB, 50 * MIB)).startswith(kept)
        assert not job.output().complete
        others = [collector.submit(numbered, 6 * MIB) for _ in range(2)]
        assert {sha256(other.output()) for other in others} == {sha256(numbered(6 * MIB))}
        for other in others:
            other.output().close()
        job.output().close()


def announced_chunk(size: int, begun: str, until: str) -> None:
    partial = f"{begun}.part"
    Path(partial).write_text(str(os.getpid()))
    os.rename(partial, begun)
    wait_for(until)
    one_chunk(size)


def write_for_ever(times: int) -> None:
    for number in range(1, times + 1):
        current_job().write(number.to_bytes(8, "little") * (KIB * 8))


@each_method
def test_a_job_that_runs_out_of_time_while_it_writes_leaves_what_had_come(method: str) -> None:
    with Collector(1, method) as collector:
        assert collector.submit(square, 2).result() == 4
        assert collector.submit(write_for_ever, 1).exception() is None  # it has loaded this module
        before = threading.active_count()
        job = collector.with_options(timeout=0.5).submit(write_for_ever, 10**9)
        assert isinstance(job.exception(60), JobTimeoutError)
        output = job.output()
        assert not output.complete
        assert output.size > 0
        for number, block in enumerate(_blocks(output.open(), 64 * KIB), 1):
            assert block == (number.to_bytes(8, "little") * (KIB * 8))[: len(block)]
        assert collector.submit(square, 3).result() == 9
        assert threading.active_count() <= before
        output.close()


def _blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    with file:
        while block := file.read(size):
            yield block
