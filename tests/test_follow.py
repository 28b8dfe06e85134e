"""Following a job: every reader gets every byte, whenever it starts."""

import asyncio
import contextlib
import functools
import os
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from collector import JobKilledError
from tests.support.follow import (
    FIRST,
    LAST,
    Reader,
    acknowledged,
    collecting,
    in_two_parts,
    open_files_of,
    run_directory,
)
from tests.support.jobs import (
    KIB,
    MIB,
    begun_then_wait,
    nothing,
    numbered,
    random_chunks,
    sha256,
    wait_for,
)
from tests.support.tiers import each_method, each_method_in_one_tier

pytestmark = pytest.mark.usefixtures("one_server")

# -- every byte, to every reader -------------------------------------------------------------------


@each_method
@pytest.mark.parametrize("asynchronous", [False, True], ids=["for", "async for"])
def test_a_chunk_is_seen_while_the_job_still_runs(
    method: str, asynchronous: bool, tmp_path: Path
) -> None:
    until = tmp_path / "go"
    with collecting(1, method) as collector:
        job = collector.submit(in_two_parts, os.fspath(until))
        reader = Reader(job, asynchronous=asynchronous)
        reader.wait_for(len(FIRST))
        assert not job.done()
        assert bytes(reader.data) == FIRST
        until.touch()
        assert reader.end() == FIRST + LAST == job.output().read()


def test_each_chunk_comes_before_the_job_writes_the_next(tmp_path: Path) -> None:
    rounds = 15
    with collecting(1) as collector:
        job = collector.submit(acknowledged, rounds, os.fspath(tmp_path))
        got = b""
        for block in job.follow():
            got += block
            for line in block.splitlines():
                (tmp_path / line.decode()).touch()
        assert got == b"".join(b"%d\n" % number for number in range(rounds))
        assert job.result() == rounds


@pytest.mark.parametrize("method", ["forkserver", "fork"])
def test_readers_that_start_early_late_and_after_the_end_get_every_byte(
    method: str, tmp_path: Path
) -> None:
    until, hold = tmp_path / "go", tmp_path / "hold"
    with collecting(1, method) as collector:
        blocker = collector.submit(begun_then_wait, os.fspath(tmp_path / "begun"), os.fspath(hold))
        wait_for(tmp_path / "begun")
        job = collector.submit(in_two_parts, os.fspath(until))
        before = [Reader(job, asynchronous=kind) for kind in (False, True)]
        assert not job.running()
        hold.touch()
        blocker.result()
        before[0].wait_for(len(FIRST))
        late = [Reader(job, asynchronous=kind) for kind in (False, True)]
        for reader in before + late:
            reader.wait_for(len(FIRST))
        until.touch()
        for reader in before + late:
            assert reader.end() == FIRST + LAST
        after = [Reader(job, asynchronous=kind) for kind in (False, True)]
        assert [reader.end() for reader in after] == [FIRST + LAST] * 2
        assert b"".join(job.follow()) == FIRST + LAST
        following = job.follow()
        assert [b"".join(following), b"".join(following)] == [FIRST + LAST] * 2
    assert b"".join(job.follow()) == FIRST + LAST  # after shutdown too


@pytest.mark.parametrize("seed", range(4))
def test_several_readers_at_once_get_the_bytes_of_a_large_output(seed: int) -> None:
    with collecting(2) as collector:
        jobs = [collector.submit(random_chunks, seed * 7 + n, 60, 500 * KIB, 0.01) for n in (1, 2)]
        readers = [Reader(job, asynchronous=kind) for job in jobs for kind in (False, True)]
        for reader in readers:
            assert sha256([reader.end()]) == reader.job.result()


def test_a_slow_reader_holds_back_neither_the_job_nor_another_reader() -> None:
    size = 64 * MIB
    with collecting(1) as collector:
        job = collector.submit(numbered, size)
        slow = iter(job.follow())
        first = next(slow)
        assert sha256(job.follow()) == sha256(numbered(size))  # the other one is at its end
        assert job.result() == size
        assert job.output().size == size
        assert sha256([first, *slow]) == sha256(numbered(size))


def test_a_reader_that_is_asked_for_without_reading_holds_nothing() -> None:
    with collecting(1) as collector:
        job = collector.submit(numbered, 8 * MIB)
        job.follow()
        iter(job.follow())
        assert job.result() == 8 * MIB
        assert open_files_of(run_directory()) == []


def test_an_output_that_stays_in_memory_can_be_followed() -> None:
    with collecting(1) as collector:
        job = collector.submit(numbered, 1000)
        job.result()
        assert job.output().path is None
        assert b"".join(job.follow()) == b"".join(numbered(1000))
        assert job.output().path is None


def test_a_job_without_output_ends_its_followers() -> None:
    with collecting(1) as collector:
        jobs = [collector.submit(nothing) for _ in range(50)]
        assert [list(job.follow()) for job in jobs] == [[]] * 50


def test_following_makes_the_output_go_to_a_file_early(tmp_path: Path) -> None:
    until = tmp_path / "go"
    with collecting(1) as collector:
        job = collector.submit(in_two_parts, os.fspath(until))
        assert next(iter(job.follow())) == FIRST
        assert job.progress.temp_file_path is not None
        assert job.progress.temp_file_path.read_bytes() == FIRST
        until.touch()
        assert job.output().path is not None


def test_a_finished_output_that_was_saved_elsewhere_is_followed_there(tmp_path: Path) -> None:
    with collecting(1) as collector:
        job = collector.submit(numbered, 8 * MIB)
        job.output().save(tmp_path / "saved")
        assert sha256(job.follow()) == sha256(numbered(8 * MIB))


def test_saving_the_output_does_not_disturb_a_reader_that_is_half_way(tmp_path: Path) -> None:
    with collecting(1) as collector:
        job = collector.submit(numbered, 8 * MIB)
        job.result()
        reader = iter(job.follow())
        first = next(reader)
        job.output().save(tmp_path / "saved")
        job.output().close()
        assert sha256([first, *reader]) == sha256(numbered(8 * MIB))


# -- the campaign ----------------------------------------------------------------------------------


@pytest.mark.campaign
@each_method_in_one_tier
def test_readers_at_random_moments_of_jobs_that_end_at_random_moments(method: str) -> None:
    with collecting(2, method) as collector:
        for seed in range(150):
            chunks = functools.partial(random_chunks, seed, 40, 300 * KIB, 0.01)
            job = collector.submit(chunks)
            readers = []
            for number in range(4):
                time.sleep((seed * 31 + number * 17) % 50 / 1000)
                readers.append(Reader(job, asynchronous=number % 2 == 0))
            if seed % 3 == 0:
                job.kill()
            for reader in readers:
                with contextlib.suppress(JobKilledError, CancelledError, asyncio.CancelledError):
                    reader.end()
                if not job.cancelled():
                    assert bytes(reader.data) == job.output().read()
