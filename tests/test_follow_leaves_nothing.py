"""Following a job: a reader that leaves takes all with it and holds up no event loop."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from collector import Job
from tests.support.follow import FIRST, LAST, collecting, in_two_parts, open_files_of, run_directory
from tests.support.inside import followers
from tests.support.jobs import MIB, numbered

pytestmark = pytest.mark.usefixtures("one_server")


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
        assert followers(job) == 0
        assert len(vars(job)["_done_callbacks"]) < 10
        until.touch()
