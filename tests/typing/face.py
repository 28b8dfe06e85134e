"""What a type checker knows of the public face: read by it, never run.

Each `type: ignore` stands where a wrong use must be reported: without an error there it is one.
"""

import array
import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Executor, Future, as_completed, wait
from pathlib import Path
from typing import Any, assert_type

from collector import (
    Collector,
    Job,
    Mode,
    Output,
    Progress,
    ProgressEvent,
    SpillManager,
    current_job,
)


def square(number: int, *, times: int = 1) -> int:
    """A plain function."""
    return number**2 * times


def nothing() -> None:
    """A plain function without a value."""


def lines(count: int) -> Iterator[str]:
    """Yields text and returns nothing."""
    yield "x" * count


def blocks(path: Path) -> Generator[bytes, None, float]:
    """Yields bytes and returns a number."""
    yield path.read_bytes()
    return 1.5


def pairs(first: str, second: bytes) -> dict[str, bytes]:
    """Takes two things."""
    return {first: second}


class Model:
    """Has a method that yields."""

    def stream(self, name: str) -> Generator[memoryview | bytearray, None, list[str]]:
        """Yields buffers and returns names."""
        yield memoryview(name.encode())
        return [name]


def submit(collector: Collector) -> None:
    """The value is what the function returns; of a generator, what it returns in the end."""
    assert_type(collector.submit(square, 3), Job[int])
    assert_type(collector.submit(square, 3, times=2).result(), int)
    assert_type(collector.submit(nothing), Job[None])
    assert_type(collector.submit(lines, 3), Job[None])
    assert_type(collector.submit(blocks, Path()), Job[float])
    assert_type(collector.submit(pairs, "a", b"b").result(timeout=1), dict[str, bytes])
    assert_type(collector.submit(Model().stream, "name"), Job[list[str]])
    assert_type(collector.submit(len, "abc"), Job[int])
    assert_type(collector.with_options(name="x").submit(square, 3), Job[int])
    small: Callable[[int], int] = abs
    assert_type(collector.submit(small, 3), Job[int])


class Ours(Collector):
    """A Collector of the user's own."""


def with_options(ours: Ours) -> None:
    """The same, with other settings."""
    assert_type(ours.with_options(retries=1), Ours)


def wrong_submit(collector: Collector) -> None:
    """Wrong arguments are reported."""
    collector.submit(square, "three")  # type: ignore[call-overload]
    collector.submit(square)  # type: ignore[call-overload]
    collector.submit(lines, b"3")  # type: ignore[call-overload]
    collector.submit(3)  # type: ignore[call-overload]


def others(collector: Collector) -> None:
    """`map` and `collect`."""
    assert_type(collector.map(square, [1, 2], chunksize=2), Iterator[int])
    for job in collector.collect(lines, range(3), ordered=True, desc="x", total=3):
        assert_type(job.output(), Output)
        assert_type(job.progress, Progress)
        assert_type(job.progress.mode, Mode)
    collector.collect(lines, [3]).close()
    collector.collect(lines, ["three"])  # type: ignore[arg-type]


def as_executor(executor: Executor) -> list[Future[int]]:
    """It is one of `concurrent.futures`."""
    return [executor.submit(square, 3)]


def as_future(collector: Collector) -> None:
    """And its jobs are futures."""
    job = collector.submit(square, 3)
    futures: list[Future[int]] = as_executor(collector)
    futures.append(job)
    assert_type(wait([job]).done, set[Future[int]])
    for done in as_completed([job]):
        assert_type(done, Future[int])
    assert_type(job.id, int)
    assert_type(job.name, str)
    assert_type(job.attempt, int)
    assert_type(job.kill(), bool)
    assert_type(job.exception(), BaseException | None)


async def awaited(collector: Collector) -> None:
    """In an event loop."""
    assert_type(await asyncio.wrap_future(collector.submit(square, 3)), int)
    loop = asyncio.get_running_loop()
    assert_type(await loop.run_in_executor(collector, square, 3), int)


async def followed(job: Job[int]) -> AsyncIterator[bytes]:
    """Both ways to follow a job."""
    for chunk in job.follow():
        assert_type(chunk, bytes)
    for piece in job.follow(text=True):
        assert_type(piece, str)
    async for chunk in job.follow():
        yield chunk


class Renderer:
    """What `progress=` takes."""

    def update(self, event: ProgressEvent) -> None:
        """Called with each event."""
        assert_type(event.jobs_total, int | None)

    def close(self) -> None:
        """Called at the end."""


def told(job: Job[Any], progress: Progress) -> None:
    """What `on_progress` takes."""
    assert_type(progress.temp_file_path, Path | None)


def options() -> None:
    """What a Collector is made with."""
    Collector(4, "spawn", print, ("hello",), progress=Renderer(), on_progress=told)
    Collector(progress=True, timeout=1.5, retries=2, temp_root=Path())
    Collector(progress="yes")  # type: ignore[arg-type]
    Collector(on_progress=square)  # type: ignore[arg-type]
    Collector(None, None, None, (), 5)  # type: ignore[call-arg]


def inside() -> None:
    """What a job sees of itself."""
    assert_type(current_job().write("text"), int)
    assert_type(current_job().scratch_dir, Path)
    current_job().write(3)  # type: ignore[arg-type]
    print("text", file=current_job())
    assert_type(current_job().fileno(), int)
    current_job().writelines([b"bytes", array.array("d", [1.0])])
    subprocess.run(["true"], check=True, stdout=current_job())


def outputs(output: Output) -> None:
    """An output is a file and a path."""
    with output as same:
        assert_type(same, Output)
    assert_type(output.read(), bytes)
    assert_type(output.text(errors="replace"), str)
    assert_type(output.view(), memoryview)
    assert_type(output.path, Path | None)
    assert_type(len(output), int)
    open(output, "rb").close()
    for block in output:
        assert_type(block, bytes)
    for line in output.lines():
        assert_type(line, str)


def alone(manager: SpillManager) -> None:
    """A manager on its own."""
    manager.write(memoryview(b"x"))
    assert_type(manager.write(bytearray(b"x")), int)
    assert_type(manager.write("text"), int)
    assert_type(manager.finalize(), Output)
