"""Faults 37, 44 and 49: no memory left; readers and disks that are slow."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector import Collector
from tests.support.inside import sink_pid, worker_pids
from tests.support.jobs import KIB, MIB, numbered, sha256, square, wait_for
from tests.support.leaks import wait_until
from tests.support.tiers import each_method
from tests.support.tree import assert_runs, waits_for_a_pipe


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
from tests.support.inside import sink_pid
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
size = 40_000_000
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


@pytest.mark.slow
@each_method
def test_a_thousand_finished_outputs_that_nobody_reads_stay_within_the_budget(method: str) -> None:
    """1 MB each, under the threshold: 8 MiB of them stay in memory, the others are in files.

    A thousand by the default method, and a hundred by the others, of which the memory is the same.
    """
    (said,) = assert_runs(
        """
import os, sys
from collector import Collector
from tests.crash.test_limits_of_memory import pss_mib
from tests.support.jobs import METHODS, MIB, numbered, sha256, square
from tests.support.inside import sink_pid
count, size = (1000 if sys.argv[1] == METHODS[0] else 100), 1_000_000
with Collector(2, sys.argv[1], memory_budget=8 * MIB) as collector:
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
    assert int(said) <= 8 + 16


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
        assert wait_until(lambda: waits_for_a_pipe(worker))
        assert pss_mib(worker) - before <= 8
        os.kill(sink, signal.SIGCONT)
        assert sha256(job.output(60)) == sha256(numbered(200 * MIB))
        job.output().close()
        assert collector.submit(square, 3).result() == 9


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
