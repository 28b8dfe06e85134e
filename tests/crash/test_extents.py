"""Fault 81: who writes to the end of its job's file itself is killed, forks, or lets go of it."""

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from collector import BrokenCollectorError, Collector, Job, WorkerCrashError, current_job
from tests.support.extents import (
    BLOCK,
    begin,
    block,
    files_of_jobs,
    is_prefix,
    path_of,
    put,
    same,
    write_unpublished,
)
from tests.support.inside import descriptor_of, file_of, sink_pid, writer_of_this_worker
from tests.support.jobs import MIB, begun_then_wait, kill_self, sha256, wait_for
from tests.support.leaks import wait_until
from tests.support.tiers import each_method
from tests.support.tree import kill

pytestmark = pytest.mark.usefixtures("one_server")


def to_files(collector: Collector) -> Collector:
    """Its outputs lie in files from their first byte on."""
    return collector.with_options(memory_threshold=0)


def run(fn: Callable[..., object], *args: object, method: str = "forkserver") -> Job[object]:
    """Run one job whose output lies in a file."""
    with Collector(1, method, progress=False) as collector:
        job: Job[object] = to_files(collector).submit(fn, *args)
        job.exception(60)
        return job


def any_sizes(seed: int) -> tuple[list[int], bool]:
    """Write chunks of all sizes; return those, and whether the worker wrote to the file itself."""
    chance, sizes, itself = random.Random(seed), list[int](), False
    for number in range(200):
        size = chance.choice((0, 1, 100, 5000, 16_384, BLOCK, 300_000, MIB + 1))
        current_job().write(bytes((number % 251,)) * size)
        sizes.append(size)
        itself = itself or file_of(writer_of_this_worker()) is not None
    return sizes, itself


@each_method
def test_what_a_worker_writes_to_the_file_itself_is_exact(method: str) -> None:
    with Collector(2, method, progress=False) as collector:
        jobs = [collector.submit(any_sizes, seed) for seed in range(2)]
        for job in jobs:
            sizes, itself = job.result(60)
            assert itself
            with job.output() as output:
                assert (output.size, output.chunks) == (sum(sizes), len(sizes))
                pieces = (bytes((number % 251,)) * size for number, size in enumerate(sizes))
                assert sha256(output) == sha256(pieces)


# -- deaths ----------------------------------------------------------------------------------------


def _begin_and_die(mark: str) -> None:
    number, _ = begin()
    _, published = write_unpublished(number)
    Path(mark).write_text(str(published))
    kill_self()


@each_method
def test_what_a_killed_worker_had_not_published_is_cut_off(method: str, tmp_path: Path) -> None:
    mark = tmp_path / "published"
    job = run(_begin_and_die, os.fspath(mark), method=method)
    assert isinstance(job.exception(), WorkerCrashError)
    with job.output() as output:
        assert output.size == int(mark.read_text())
        assert is_prefix(output.read())
        assert not output.complete


def _die_at_the_first_attempt(mark: str, blocks: int) -> None:
    if current_job().attempt == 1:
        _begin_and_die(mark)
    put(range(blocks))


@each_method
def test_another_attempt_has_another_file(method: str, tmp_path: Path) -> None:
    with Collector(1, method, progress=False, retries=1) as collector:
        mark = os.fspath(tmp_path / "published")
        job = to_files(collector).submit(_die_at_the_first_attempt, mark, 100)
        assert job.exception(60) is None
        assert job.attempt == 2
        with job.output() as output:
            assert same(output.read(), 100)


def _begin_and_wait(begun: str, until: str) -> None:
    number, _ = begin()
    put(range(number, number + 40))
    begun_then_wait(begun, until)


@each_method
def test_a_sink_that_dies_with_granted_extents_leaves_a_prefix(method: str, tmp_path: Path) -> None:
    begun, until = tmp_path / "begun", tmp_path / "until"
    with Collector(1, method, progress=False) as collector:
        job = to_files(collector).submit(_begin_and_wait, os.fspath(begun), os.fspath(until))
        wait_for(begun)
        assert wait_until(lambda: job.progress.bytes_written > 0)
        kill(sink_pid(collector))
        assert isinstance(job.exception(60), BrokenCollectorError)
        with job.output() as output:
            assert output.size > 0
            assert is_prefix(output.read())
        again = to_files(collector).submit(put, range(100))
        with again.output(60) as output:
            assert same(output.read(), 100)


# -- who holds the file ----------------------------------------------------------------------------


def _begin_and_end() -> str:
    return path_of(begin()[1])


def test_the_file_is_closed_before_the_job_ends(tmp_path: Path) -> None:
    with Collector(1, progress=False) as collector:
        first = to_files(collector).submit(_begin_and_end)
        path = first.result(60)
        assert first.output().path == Path(path)
        assert collector.submit(files_of_jobs).result(60) == []
        first.output().close()


def _fork() -> int:
    begin()
    assert len(files_of_jobs()) == 1
    child = os.fork()
    if not child:
        os._exit(len(files_of_jobs()))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@each_method
def test_a_child_that_a_job_forks_has_not_the_file(method: str) -> None:
    job = run(_fork, method=method)
    assert job.result() == 0
    job.output().close()


def _give_its_number_to(path: str) -> None:
    number, file = begin()
    own = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(own, descriptor_of(file))
    put([number])


@each_method
def test_a_file_of_the_jobs_own_that_has_the_number_now_gets_nothing(
    method: str, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    job = run(_give_its_number_to, os.fspath(own), method=method)
    assert isinstance(job.exception(), WorkerCrashError)
    assert own.read_bytes() == b""
    assert is_prefix(job.output().read())
    job.output().close()


def _close_all_descriptors() -> None:
    number, _ = begin()
    os.closerange(3, 65_536)
    put([number])


def test_a_job_that_closes_all_descriptors_fails_and_leaves_a_prefix() -> None:
    job = run(_close_all_descriptors)
    assert isinstance(job.exception(), WorkerCrashError)
    assert is_prefix(job.output().read())
    job.output().close()


def _leave_a_thread(ended: str) -> None:
    number, _ = begin()
    here = current_job()

    def write_on() -> None:
        try:
            while True:
                here.write(block(0))
        except ValueError:
            Path(ended).touch()

    threading.Thread(target=write_on, daemon=True).start()
    put([number])


@each_method
def test_a_thread_that_a_job_leaves_writes_nothing_after_its_end(
    method: str, tmp_path: Path
) -> None:
    ended = tmp_path / "ended"
    with Collector(1, method, progress=False) as collector:
        job = to_files(collector).submit(_leave_a_thread, os.fspath(ended))
        assert job.exception(60) is None
        wait_for(ended)
        other = to_files(collector).submit(put, range(100))
        with other.output(60) as output:
            assert same(output.read(), 100)
        with job.output() as output:  # its size is looked at, and must be what was sealed
            assert len(output.read()) == output.size


# -- who reads it ----------------------------------------------------------------------------------


def _wait_for_its_reader(directory: str) -> int:
    number, file = begin()
    last = number + 30
    for now in range(number, last):
        put([now])
        wait_for(f"{directory}/{(now + 1) * BLOCK}")
    assert file_of(writer_of_this_worker()) is file
    return last


@pytest.mark.slow
def test_it_can_be_followed_while_the_worker_writes_to_it(tmp_path: Path) -> None:
    with Collector(1, progress=False) as collector:
        job = to_files(collector).submit(_wait_for_its_reader, os.fspath(tmp_path))
        came = bytearray()
        for piece in job.follow():
            for size in range(len(came) // BLOCK, (len(came) + len(piece)) // BLOCK):
                (tmp_path / str((size + 1) * BLOCK)).touch()
            came += piece
        assert same(bytes(came), job.result())
        job.output().close()
