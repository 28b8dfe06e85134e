"""Jobs in an event loop: awaited, run as in any executor, cancelled, and failed."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector import Collector, WorkerCrashError
from tests.support.batches import wait_for
from tests.support.leaks import wait_until

pytestmark = pytest.mark.usefixtures("one_server")


def square(number: int) -> int:
    """Return its square."""
    return number * number


def write(size: int) -> Iterator[bytes]:
    """Write so many bytes; the value is None."""
    yield b"x" * size


def fail(text: str) -> None:
    """Fail."""
    raise LookupError(text)


def die() -> None:
    """Die."""
    os.kill(os.getpid(), signal.SIGKILL)


def wait_here(directory: Path) -> str:
    """Say that it runs, and wait to be let go."""
    (directory / "running").touch()
    wait_for(directory / "go")
    return "done"


def test_a_wrapped_job_gives_its_value_and_keeps_its_output() -> None:
    async def main() -> None:
        with Collector(max_workers=2) as collector:
            jobs = [collector.submit(write, size) for size in range(20)]
            values = await asyncio.gather(*map(asyncio.wrap_future, jobs))
            assert values == [None] * 20
            assert [job.output().size for job in jobs] == list(range(20))
            assert await asyncio.wrap_future(collector.submit(square, 7)) == 49

    asyncio.run(main())


def test_run_in_executor_takes_a_collector() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with Collector(max_workers=2) as collector:
            values = await asyncio.gather(
                *(loop.run_in_executor(collector, square, number) for number in range(20))
            )
            assert values == [number * number for number in range(20)]

    asyncio.run(main())


def test_a_failed_job_raises_where_it_is_awaited() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with Collector(max_workers=1) as collector:
            with pytest.raises(LookupError, match="gone"):
                await loop.run_in_executor(collector, fail, "gone")
            with pytest.raises(WorkerCrashError):
                await asyncio.wrap_future(collector.submit(die))
            assert await loop.run_in_executor(collector, square, 3) == 9

    asyncio.run(main())


def test_the_loop_goes_on_while_jobs_run(tmp_path: Path) -> None:
    async def main() -> None:
        with Collector(max_workers=1) as collector:
            waiting = asyncio.ensure_future(
                asyncio.wrap_future(collector.submit(wait_here, tmp_path))
            )
            await asyncio.to_thread(wait_for, tmp_path / "running")
            assert not waiting.done()
            (tmp_path / "go").touch()
            assert await waiting == "done"

    asyncio.run(main())


def test_cancelling_what_is_awaited_cancels_a_job_that_waits(tmp_path: Path) -> None:
    async def main() -> None:
        with Collector(max_workers=1) as collector:
            running = collector.submit(wait_here, tmp_path)
            jobs = [collector.submit(square, number) for number in range(50)]
            futures = [asyncio.wrap_future(job) for job in jobs]
            futures[-1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await futures[-1]
            (tmp_path / "go").touch()
            assert await asyncio.wrap_future(running) == "done"
            assert jobs[-1].cancelled()
            assert await asyncio.gather(*futures[:-1]) == [job.result() for job in jobs[:-1]]

    asyncio.run(main())


def test_giving_up_a_running_job_leaves_it_running(tmp_path: Path) -> None:
    async def main() -> None:
        with Collector(max_workers=1) as collector:
            job = collector.submit(wait_here, tmp_path)
            await asyncio.to_thread(wait_for, tmp_path / "running")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.wrap_future(job), 0.01)
            assert job.running()
            (tmp_path / "go").touch()
            assert await asyncio.wrap_future(job) == "done"

    asyncio.run(main())


def test_a_loop_that_is_closed_before_its_jobs_end_disturbs_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Collector(max_workers=1) as collector:
        job = collector.submit(wait_here, tmp_path)

        async def main() -> None:
            asyncio.wrap_future(job).add_done_callback(lambda _: None)

        asyncio.run(main())
        assert wait_until((tmp_path / "running").exists)
        (tmp_path / "go").touch()
        assert job.result() == "done"
        assert collector.submit(square, 2).result() == 4
    assert caplog.records == []
