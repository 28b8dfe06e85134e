"""Following a job: every reader gets every byte, whenever it starts and however the job ends."""

import asyncio
import contextlib
import errno
import functools
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from collector import (
    Collector,
    Job,
    JobError,
    JobKilledError,
    JobTimeoutError,
    OutputLostError,
    WorkerCrashError,
    current_job,
)
from tests.support.jobs import (
    KIB,
    METHODS,
    MIB,
    begun_then_wait,
    kill_self,
    nothing,
    numbered,
    random_chunks,
    sha256,
    wait_for,
    write_then_fail,
)

each_method = pytest.mark.parametrize("method", METHODS)
FIRST = b"the first chunk\n"
LAST = b"the last chunk\n"


# -- jobs ------------------------------------------------------------------------------------------


def in_two_parts(until: str) -> Iterator[bytes]:
    """Yield, wait for the file, yield again."""
    yield FIRST
    wait_for(until)
    yield LAST


def then(first: bytes, until: str, end: Callable[[], object]) -> Iterator[bytes]:
    """Yield, wait for the file, and end as told."""
    yield first
    wait_for(until)
    end()


def fails_once(marks: str, first: bytes, second: bytes) -> Iterator[bytes]:
    """Yield `first` and fail once the file `marks/go` is there; yield `second` the next time."""
    if current_job().attempt == 2:
        yield second
        return
    yield first
    wait_for(f"{marks}/go")
    raise ValueError("the first attempt fails")


def acknowledged(rounds: int, directory: str) -> Generator[bytes, None, int]:
    """Yield a number and wait until its reader has made the file of that name."""
    for number in range(rounds):
        yield b"%d\n" % number
        wait_for(f"{directory}/{number}")
    return rounds


def crash() -> None:
    kill_self()


def raise_value_error() -> None:
    raise ValueError("as it was told")


@contextlib.contextmanager
def collecting(workers: int, method: str = "forkserver", **options: Any) -> Iterator[Collector]:
    """A Collector whose jobs are ended if the test fails: most of them wait for the test."""
    with Collector(workers, method, progress=False, **options) as collector:
        try:
            yield collector
        except BaseException:
            collector._shut(wait=True, cancel=True, kill=True)
            raise


# -- readers ---------------------------------------------------------------------------------------


class Reader(threading.Thread):
    """Follows a job in a thread of its own."""

    def __init__(self, job: Job[Any], *, asynchronous: bool = False) -> None:
        super().__init__()
        self.job = job
        self.data = bytearray()
        self.error: BaseException | None = None
        self.has = threading.Condition()
        self._asynchronous = asynchronous
        self.start()

    def run(self) -> None:
        try:
            if self._asynchronous:
                asyncio.run(self._read())
            else:
                for block in self.job.follow():
                    self._take(block)
        except BaseException as error:  # noqa: BLE001 - raised again by `end`
            self.error = error

    async def _read(self) -> None:
        async for block in self.job.follow():
            self._take(block)

    def _take(self, block: bytes) -> None:
        assert block
        with self.has:
            self.data += block
            self.has.notify_all()

    def wait_for(self, size: int) -> None:
        """Wait until so many bytes have come."""
        with self.has:
            assert self.has.wait_for(lambda: len(self.data) >= size or self.error, 120)
        assert self.error is None

    def end(self) -> bytes:
        """Wait for the end, raise what following raised, return what came."""
        self.join(120)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return bytes(self.data)


def open_files_of(directory: Path) -> list[str]:
    """The files below `directory` that this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [name for name in found if name.startswith(os.fspath(directory)) and "spill" in name]


def run_directory() -> Path:
    (run,) = Path(os.environ["COLLECTOR_TMPDIR"]).glob("run-*")
    return run


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
    rounds = 50
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


# -- ends of every kind ----------------------------------------------------------------------------


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


@pytest.mark.parametrize("asynchronous", [False, True], ids=["for", "async for"])
def test_a_reader_of_a_job_that_is_run_again_is_told_so_and_the_next_one_gets_the_whole(
    asynchronous: bool, tmp_path: Path
) -> None:
    first, second = b"of the first attempt", b"of the second attempt, which is longer"
    with collecting(1, retries=1) as collector:
        job = collector.submit(fails_once, os.fspath(tmp_path), first, second)
        reader = Reader(job, asynchronous=asynchronous)
        reader.wait_for(len(first))
        (tmp_path / "go").touch()
        with pytest.raises(JobError, match=r"attempt 1 of job .*runs again.*follow\(\) again") as e:
            reader.end()
        assert (e.value.job_id, e.value.name, e.value.attempt) == (job.id, job.name, 1)
        assert bytes(reader.data) == first
        assert b"".join(job.follow()) == second == job.output().read()


def test_a_reader_never_gets_bytes_of_two_attempts_however_late_it_reads(tmp_path: Path) -> None:
    first, second = b"a" * 100, b"b" * 200
    with collecting(1, retries=1) as collector:
        job = collector.submit(fails_once, os.fspath(tmp_path), first, second)
        reader = iter(job.follow())
        assert next(reader) == first
        (tmp_path / "go").touch()
        job.result()
        with pytest.raises(JobError, match="runs again"):
            next(reader)


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


# -- nothing is left -------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["running", "over"])
def test_a_reader_that_leaves_early_leaves_no_descriptor(when: str, tmp_path: Path) -> None:
    until = tmp_path / "go"
    with collecting(1) as collector:
        job = collector.submit(in_two_parts, os.fspath(until))
        if when == "over":
            until.touch()
            job.follow().__iter__().close()  # type: ignore[attr-defined]
            job.result()
        for _ in range(3):
            for block in job.follow():
                assert block.startswith(FIRST)
                break
        assert open_files_of(run_directory()) == []
        until.touch()


def test_an_asynchronous_reader_that_leaves_early_leaves_no_descriptor(tmp_path: Path) -> None:
    until = tmp_path / "go"

    async def read(job: Job[None]) -> None:
        async for block in job.follow():
            assert block == FIRST
            break
        reading = job.follow().__aiter__()
        assert await anext(reading) == FIRST
        pending = asyncio.ensure_future(_next(reading))
        await asyncio.sleep(0)
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending

    with collecting(1) as collector:
        job = collector.submit(in_two_parts, os.fspath(until))
        asyncio.run(read(job))
        assert open_files_of(run_directory()) == []
        until.touch()
        assert b"".join(job.follow()) == FIRST + LAST


async def _next(reading: AsyncIterator[bytes]) -> bytes:
    return await anext(reading)


@pytest.mark.parametrize("size", [4 * MIB, 32 * MIB], ids=["in memory", "in a file"])
def test_the_event_loop_goes_on_while_a_reader_catches_up(size: int) -> None:
    async def read(job: Job[int]) -> None:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.ensure_future(others())
        blocks = [block async for block in job.follow()]
        assert sum(map(len, blocks)) == size
        assert turns >= len(blocks)
        other.cancel()

    with collecting(1) as collector:
        job = collector.submit(numbered, size)
        job.result()
        asyncio.run(read(job))


def test_the_event_loop_goes_on_while_a_reader_waits(tmp_path: Path) -> None:
    until = tmp_path / "go"

    async def read(job: Job[None]) -> tuple[bytes, list[str]]:
        happened: list[str] = []

        async def other() -> None:
            while not job.running():  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.001)
            happened.append("the job was still running" if not job.done() else "too late")
            until.touch()

        task = asyncio.create_task(other())
        got = b"".join([block async for block in job.follow()])
        await task
        return got, happened

    with collecting(1) as collector:
        got, happened = asyncio.run(read(collector.submit(in_two_parts, os.fspath(until))))
    assert got == FIRST + LAST
    assert happened == ["the job was still running"]


def test_a_reader_whose_event_loop_was_closed_hurts_nobody(tmp_path: Path) -> None:
    until = tmp_path / "go"
    with collecting(1) as collector:
        job = collector.submit(in_two_parts, os.fspath(until))
        loop = asyncio.new_event_loop()
        reading = job.follow().__aiter__()
        assert loop.run_until_complete(_next(reading)) == FIRST
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        until.touch()
        assert b"".join(job.follow()) == FIRST + LAST
        assert job.result() is None


def test_many_short_readers_of_a_running_job_leave_nothing_with_it(tmp_path: Path) -> None:
    until = tmp_path / "go"
    with collecting(1) as collector:
        job = collector.submit(in_two_parts, os.fspath(until))
        for _ in range(200):
            assert next(iter(job.follow())) == FIRST
        assert job._watchers == []
        assert len(vars(job)["_done_callbacks"]) < 10
        until.touch()


# -- the campaign ----------------------------------------------------------------------------------


@pytest.mark.campaign
@each_method
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


# -- the page --------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "watch-a-job.md"
BLOCK = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("script", "shown"), BLOCK.findall(PAGE.read_text("utf-8")))
def test_the_examples_of_the_page_print_what_it_says(
    script: str, shown: str, tmp_path: Path
) -> None:
    path = tmp_path / "script.py"
    path.write_text(script, "utf-8")
    done = subprocess.run(
        [sys.executable, path],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.fspath(PAGE.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, shown), done.stderr


def test_every_example_of_the_page_shows_what_it_prints() -> None:
    assert len(BLOCK.findall(PAGE.read_text("utf-8"))) == PAGE.read_text("utf-8").count("```python")
