"""Faults 50, 52, 53 with processes: a full disk costs the job that filled it, and no other."""

import errno
import itertools
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector import Collector, SpillError, current_job
from tests.support.disks import fill, small_disk
from tests.support.inside import sink_pid, worker_pids
from tests.support.jobs import (
    MIB,
    numbered,
    pid,
    sha256,
    square,
    wait_for,
    write_in_halves,
)
from tests.support.leaks import is_running, wait_until
from tests.support.outputs import files
from tests.support.tiers import each_method, each_method_but

pytestmark = pytest.mark.usefixtures("one_server")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, 16 * MIB) as mounted:
        yield mounted


def write_when_there_is_room(size: int, full: str) -> int:
    """The first attempt fills the disk; the others find it as its owner left it."""
    if current_job().attempt > 1:
        os.truncate(full, 0)
    return sum(current_job().write(chunk) for chunk in numbered(size))


def assert_tells_of_a_full_disk(error: BaseException | None, name: str, disk: Path) -> None:
    assert isinstance(error, SpillError)
    assert error.errno == errno.ENOSPC
    assert str(error.filename).startswith(os.fspath(disk))
    assert name in str(error)


@each_method
def test_a_full_disk_fails_one_job_and_the_others_go_on(
    method: str, disk: Path, tmp_path: Path
) -> None:
    begun, until = tmp_path / "begun", tmp_path / "until"
    with Collector(3, method, temp_root=disk) as collector:
        held = collector.submit(numbered, 2 * MIB)
        assert held.exception() is None
        other = collector.submit(write_in_halves, 8 * MIB, os.fspath(begun), os.fspath(until))
        wait_for(begun)
        sink, workers = sink_pid(collector), worker_pids(collector)
        big = collector.submit(numbered, 32 * MIB)
        assert_tells_of_a_full_disk(big.exception(60), big.name, disk)
        assert big.output().size == 0
        assert not big.output().complete
        assert len(files(disk)) <= 1  # its own is gone, the other may not have one yet
        assert os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize >= 8 * MIB
        assert collector.submit(square, 3).result() == 9
        until.touch()
        assert other.result(60) == 8 * MIB
        assert sha256(other.output()) == sha256(numbered(8 * MIB))
        assert sha256(held.output()) == sha256(numbered(2 * MIB))
        other.output().close()
        again = collector.submit(numbered, 12 * MIB)
        assert again.exception(60) is None
        assert sha256(again.output()) == sha256(numbered(12 * MIB))
        again.output().close()
        assert sink_pid(collector) == sink
        survivors = [number for number in workers if number in worker_pids(collector)]
        assert len(survivors) >= len(workers) - 1  # but the one that was writing to the full disk
        assert all(is_running(number) for number in survivors)


@each_method
def test_a_disk_full_at_the_switch_keeps_what_was_held(method: str, disk: Path) -> None:
    with Collector(1, method, temp_root=disk) as collector:
        assert collector.submit(square, 2).result() == 4
        sink = sink_pid(collector)
        fill(disk)
        job = collector.submit(numbered, 32 * MIB)
        assert_tells_of_a_full_disk(job.exception(60), job.name, disk)
        output = job.output()
        assert not output.complete
        assert 4 * MIB <= output.size < 5 * MIB
        assert output.path is None
        assert b"".join(numbered(32 * MIB)).startswith(output.read())
        assert not files(disk)
        small = collector.submit(numbered, 4 * MIB)
        assert sha256(small.output()) == sha256(numbered(4 * MIB))
        assert sink_pid(collector) == sink
        output.close()
        small.output().close()


@each_method
def test_with_retries_the_job_succeeds_once_there_is_room(method: str, disk: Path) -> None:
    with Collector(1, method, temp_root=disk, retries=1) as collector:
        assert collector.submit(square, 2).result() == 4
        ballast = fill(disk)
        job = collector.submit(write_when_there_is_room, 8 * MIB, os.fspath(ballast))
        assert job.result(60) == 8 * MIB
        assert job.attempt == 2
        assert sha256(job.output()) == sha256(numbered(8 * MIB))
        assert len(files(disk)) == 1
        job.output().close()
        assert not files(disk)


@each_method_but("fork")
def test_many_jobs_that_fill_one_disk_together_end_and_leave_nothing(
    method: str, disk: Path
) -> None:
    """All write more than there is at the same time: whoever fails makes room for the others."""
    with Collector(4, method, temp_root=disk, retries=20) as collector:
        jobs = []
        for job in collector.collect(lambda size: list(numbered(size)), [1, 2, 3]):
            assert job.exception() is None
        for job in collector.collect(numbered, [10 * MIB] * 12):
            error = job.exception()
            jobs.append(job.name)
            if error is None:
                assert sha256(job.output()) == sha256(numbered(10 * MIB))
            else:
                assert_tells_of_a_full_disk(error, job.name, disk)
            job.output().close()
        assert len(jobs) == 12
        assert wait_until(lambda: not files(disk))
        assert sha256(collector.submit(numbered, 12 * MIB).output()) == sha256(numbered(12 * MIB))


@each_method
def test_the_whole_batch_comes_through_though_only_one_output_fits_at_a_time(
    method: str, disk: Path
) -> None:
    with Collector(1, method, temp_root=disk) as collector:
        for job in collector.collect(numbered, [12 * MIB] * 3, buffersize=1):
            with job.output() as output:
                assert output.complete
                assert sha256(output) == sha256(numbered(12 * MIB))


@each_method
def test_a_file_size_limit_fails_the_job_that_reaches_it(method: str, tmp_path: Path) -> None:
    """RLIMIT_FSIZE of worker and sink: EFBIG, and no SIGXFSZ that would end one."""
    with Collector(1, method, temp_root=tmp_path) as collector:
        worker = collector.submit(pid).result()
        sink = sink_pid(collector)
        assert sink is not None
        for process in (worker, sink):
            resource.prlimit(process, resource.RLIMIT_FSIZE, (8 * MIB, resource.RLIM_INFINITY))
        job = collector.submit(numbered, 32 * MIB)
        error = job.exception(60)
        assert isinstance(error, SpillError)
        assert error.errno == errno.EFBIG
        assert not files(tmp_path)
        fits = collector.submit(numbered, 7 * MIB)
        assert sha256(fits.output()) == sha256(numbered(7 * MIB))
        assert sink_pid(collector) == sink
        assert worker not in worker_pids(collector) or is_running(worker)
        fits.output().close()


def write_until(path: str) -> None:
    """Write on, whatever becomes of it, until the file is there."""
    for chunk in itertools.takewhile(lambda _: not os.path.exists(path), itertools.repeat(b"x")):
        current_job().write(chunk * MIB)


@pytest.mark.slow
@each_method
def test_jobs_that_wait_at_the_worker_of_a_failed_one_do_not_wait_for_its_end(
    method: str, tmp_path: Path
) -> None:
    """What it writes on is dropped, and it is ended with its worker."""
    until = tmp_path / "until"
    with Collector(1, method, temp_root=tmp_path / "root") as collector:
        for _ in range(3):  # jobs are brisk: from now on some are sent ahead
            assert list(collector.map(square, range(500))) == [n * n for n in range(500)]
        sink = sink_pid(collector)
        assert sink is not None
        for process in (*worker_pids(collector), sink):
            resource.prlimit(process, resource.RLIMIT_FSIZE, (8 * MIB, resource.RLIM_INFINITY))
        before = [collector.submit(square, number) for number in range(10)]
        failing = collector.submit(write_until, os.fspath(until))
        behind = [collector.submit(square, number) for number in range(10)]
        try:
            assert isinstance(failing.exception(60), SpillError)
            assert [job.result(30) for job in before + behind] == [n * n for n in range(10)] * 2
        finally:
            until.touch()
