"""Following a job, however the job ends: all that came, then how it ended."""

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from collector import JobError, JobKilledError, JobTimeoutError, OutputLostError, WorkerCrashError
from tests.support.follow import FIRST, Reader, asks_once, collecting, crash, fails_once, then
from tests.support.jobs import (
    MIB,
    begun_then_wait,
    nothing,
    numbered,
    raise_value_error,
    sha256,
    wait_for,
    write_then_fail,
)
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")


@each_method
def test_a_reader_of_a_job_that_is_killed_gets_all_that_came_then_the_error(
    method: str, tmp_path: Path
) -> None:
    size = 3 * MIB + 5
    whole = b"".join(numbered(size))
    with collecting(1, method) as collector:
        job = collector.submit(then, whole, os.fspath(tmp_path / "never"), nothing)
        readers = [Reader(job, asynchronous=kind) for kind in (False, True)]
        for reader in readers:
            reader.wait_for(size)
        assert job.kill()
        for reader in readers:
            with pytest.raises(JobKilledError):
                reader.end()
            assert bytes(reader.data) == whole
        late = Reader(job)
        with pytest.raises(JobKilledError):
            late.end()
        assert bytes(late.data) == whole


@pytest.mark.parametrize(
    ("end", "kind"), [(crash, WorkerCrashError), (raise_value_error, ValueError)]
)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["for", "async for"])
def test_a_reader_of_a_job_that_fails_gets_all_that_came_then_the_error(
    end: Callable[[], object], kind: type[Exception], asynchronous: bool, tmp_path: Path
) -> None:
    until = tmp_path / "go"
    with collecting(1) as collector:
        job = collector.submit(then, FIRST, os.fspath(until), end)
        reader = Reader(job, asynchronous=asynchronous)
        reader.wait_for(len(FIRST))
        until.touch()
        with pytest.raises(kind) as caught:
            reader.end()
        assert caught.value is job.exception()
        assert bytes(reader.data) == FIRST == job.output().read()


@pytest.mark.slow
def test_a_reader_of_a_job_that_runs_too_long_gets_what_came_then_the_error(
    tmp_path: Path,
) -> None:
    with collecting(1, timeout=3) as collector:
        job = collector.submit(then, FIRST, os.fspath(tmp_path / "never"), nothing)
        reader = Reader(job)
        with pytest.raises(JobTimeoutError):
            reader.end()
        assert bytes(reader.data) == FIRST


@pytest.mark.parametrize("size", [100, 8 * MIB])
def test_a_reader_that_comes_after_a_failure_gets_what_was_kept_then_the_error(size: int) -> None:
    with collecting(1) as collector:
        job = collector.submit(write_then_fail, size, ValueError("late"))
        job.exception()
        reader = Reader(job)
        with pytest.raises(ValueError, match="late"):
            reader.end()
        assert sha256([bytes(reader.data)]) == sha256(numbered(size))


@pytest.mark.parametrize("asynchronous", [False, True], ids=["for", "async for"])
def test_a_reader_of_a_job_that_is_cancelled_is_told(asynchronous: bool, tmp_path: Path) -> None:
    until = tmp_path / "go"
    with collecting(1) as collector:
        collector.submit(begun_then_wait, os.fspath(tmp_path / "begun"), os.fspath(until))
        wait_for(tmp_path / "begun")
        job = collector.submit(numbered, 1000)
        early = Reader(job, asynchronous=asynchronous)
        assert job.cancel()
        late = Reader(job, asynchronous=asynchronous)
        for reader in (early, late):
            with pytest.raises((CancelledError, asyncio.CancelledError)):
                reader.end()
            assert not reader.data
        until.touch()


AGAIN = pytest.mark.parametrize(
    ("function", "said"),
    [
        (fails_once, r"attempt 1 of job .* failed and it runs again"),
        (asks_once, r"attempt 1 of job .* asked to be run later and it runs again"),
    ],
    ids=["fails", "asks for later"],
)


@AGAIN
@pytest.mark.parametrize("asynchronous", [False, True], ids=["for", "async for"])
def test_a_reader_of_a_job_that_is_run_again_is_told_so_and_the_next_one_gets_the_whole(
    asynchronous: bool,
    function: Callable[[str, bytes, bytes], Iterator[bytes]],
    said: str,
    tmp_path: Path,
) -> None:
    first, second = b"of the first attempt", b"of the second attempt, which is longer"
    with collecting(1, retries=1) as collector:
        job = collector.submit(function, os.fspath(tmp_path), first, second)
        reader = Reader(job, asynchronous=asynchronous)
        reader.wait_for(len(first))
        (tmp_path / "go").touch()
        with pytest.raises(JobError, match=rf"{said}.*follow\(\) again") as e:
            reader.end()
        assert (e.value.job_id, e.value.name, e.value.attempt) == (job.id, job.name, 1)
        assert bytes(reader.data) == first
        assert b"".join(job.follow()) == second == job.output().read()


@AGAIN
def test_a_reader_never_gets_bytes_of_two_attempts_however_late_it_reads(
    function: Callable[[str, bytes, bytes], Iterator[bytes]], said: str, tmp_path: Path
) -> None:
    first, second = b"a" * 100, b"b" * 200
    with collecting(1, retries=1) as collector:
        job = collector.submit(function, os.fspath(tmp_path), first, second)
        reader = iter(job.follow())
        assert next(reader) == first
        (tmp_path / "go").touch()
        job.result()
        with pytest.raises(JobError, match=said):
            next(reader)


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo], ids=["a directory", "a FIFO"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["for", "async for"])
def test_what_stands_in_the_place_of_a_followed_file_holds_no_reader_up(
    put: Callable[[Path], None], asynchronous: bool, tmp_path: Path
) -> None:
    until = tmp_path / "go"
    with collecting(1, temp_root=tmp_path / "root") as collector:
        job = collector.submit(then, FIRST, os.fspath(until), nothing)
        early = Reader(job)
        early.wait_for(len(FIRST))
        (path,) = (tmp_path / "root").glob("run-*/streaming-output-*")
        path.unlink()
        put(path)
        late = Reader(job, asynchronous=asynchronous)
        until.touch()
        for reader in (early, late):
            with pytest.raises(OutputLostError):
                reader.end()


def test_a_followed_file_that_somebody_truncated_is_an_error_and_no_short_read(
    tmp_path: Path,
) -> None:
    with collecting(1) as collector:
        job = collector.submit(numbered, 8 * MIB)
        path = job.output().path
        assert path is not None
        reader = iter(job.follow())
        next(reader)
        os.truncate(path, 2 * MIB)
        with pytest.raises(OutputLostError) as caught:
            list(reader)
        assert caught.value.errno == errno.EIO
