"""What does the engine for Ray cost, against Ray's own streams and tasks?

Each contender has a Ray of its own on this machine, with as many CPUs as there are workers.
"""

import asyncio
import importlib.util
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from bench import target
from bench.case import OURS, Case, Contender, Goal, Scale, per_second
from bench.host import MissingError
from bench.target import MIB
from collector import Collector
from collector.settings import RAY_STORE_BYTES

BARE = "bare Ray"
BARE_STREAM = "bare Ray, streamed"
OF_STREAMS = 0.8
OF_TASKS = 0.5
WINDOW = 8
KIB = 1024
BUDGET = 256 * MIB


def chunks(chunk_bytes: int, count: int) -> Iterator[bytes]:
    """A job."""
    chunk = b"x" * chunk_bytes
    for _ in range(count):
        yield chunk


def nothing(number: int) -> int:
    """Another one."""
    return number


def streamed(number: int) -> Iterator[int]:
    """The same, as a stream."""
    yield number


def _needs_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        raise MissingError("ray is not installed")


@contextmanager
def _ray(workers: int) -> Iterator[Any]:
    _needs_ray()
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    import ray

    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as path:
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=BUDGET + RAY_STORE_BYTES,
            _temp_dir=path,
        )
        try:
            yield ray
        finally:
            ray.shutdown()


def bare_streams(workers: int, chunk_bytes: int, count: int) -> Iterator[float]:
    """Yield the seconds until what tasks of Ray's stream, each to its own file, is there."""
    with target.directory() as path, _ray(workers) as ray:
        task = ray.remote(chunks).options(
            num_cpus=1,
            max_retries=0,
            num_returns="streaming",
            _generator_backpressure_num_objects=WINDOW,
        )
        while True:
            size = workers * count * chunk_bytes
            target.warm(path, size)
            names = [os.path.join(path, f"out-{number}") for number in range(workers)]
            start = perf_counter()
            streams = {
                task.remote(chunk_bytes, count): os.open(name, os.O_WRONLY | os.O_CREAT, 0o600)
                for name in names
            }
            while streams:
                for stream in ray.wait(list(streams), num_returns=1)[0]:
                    try:
                        os.write(streams[stream], ray.get(next(stream)))
                    except StopIteration:
                        os.close(streams.pop(stream))
            seconds = perf_counter() - start
            assert sum(map(os.path.getsize, names)) == size
            for name in names:
                os.unlink(name)
            yield seconds


def our_streams(workers: int, chunk_bytes: int, count: int) -> Iterator[float]:
    """Yield the seconds until the outputs of jobs on Ray are there."""
    _needs_ray()
    with target.directory() as path, _collector(workers, path) as collector:
        while True:
            size = workers * count * chunk_bytes
            target.warm(path, size)
            start = perf_counter()
            jobs = [collector.submit(chunks, chunk_bytes, count) for _ in range(workers)]
            outputs = [job.output() for job in jobs]
            seconds = perf_counter() - start
            assert sum(output.size for output in outputs) == size
            for output in outputs:
                output.close()
            yield seconds


def bare_tasks(workers: int, count: int) -> Iterator[float]:
    """Yield the seconds that so many tasks take."""
    with _ray(workers) as ray:
        task = ray.remote(nothing).options(num_cpus=1, max_retries=0)
        while True:
            start = perf_counter()
            assert len(ray.get([task.remote(number) for number in range(count)])) == count
            yield perf_counter() - start


def bare_streamed_tasks(workers: int, count: int) -> Iterator[float]:
    """Yield the seconds that so many tasks take whose one value is streamed, one a CPU at a time.

    So has whoever wants what a task yields while it runs, and to know which of them runs.
    """
    with _ray(workers) as ray:
        task = ray.remote(streamed).options(num_cpus=1, max_retries=0, num_returns="streaming")
        numbers = iter(range(0))

        async def one_after_the_other() -> None:
            for number in numbers:
                async for reference in task.remote(number):
                    assert await reference == number

        async def all_of_them() -> None:
            await asyncio.gather(*(one_after_the_other() for _ in range(workers)))

        while True:
            numbers = iter(range(count))
            start = perf_counter()
            asyncio.run(all_of_them())
            yield perf_counter() - start


def our_tasks(workers: int, count: int) -> Iterator[float]:
    """Yield the seconds that so many jobs take."""
    _needs_ray()
    with target.directory() as path, _collector(workers, path) as collector:
        while True:
            start = perf_counter()
            for job in [collector.submit(nothing, number) for number in range(count)]:
                job.result()
            yield perf_counter() - start


def _collector(workers: int, path: str) -> Collector:
    return Collector(workers, engine="ray", temp_root=path, memory_budget=BUDGET, progress=False)


def cases(scale: Scale) -> Iterator[Case]:
    """Chunks of 64 KiB and of 1 MiB, from one job and from two; and jobs that do nothing."""
    for name, chunk_bytes in {"64k": 64 * KIB, "1m": MIB}.items():
        for workers in (1, 2):
            total = scale.pick(256 * MIB, 64 * MIB)
            arguments = {
                "workers": workers,
                "chunk_bytes": chunk_bytes,
                "count": total // chunk_bytes // workers,
            }
            yield Case(
                name=f"ray-streams-{name}-{workers}",
                unit="GB/s",
                contenders={
                    OURS: Contender("bench.cases.on_ray:our_streams", arguments),
                    BARE: Contender("bench.cases.on_ray:bare_streams", arguments),
                },
                figure=per_second(total / 1e9),
                goals=(Goal(BARE, OF_STREAMS),),
            )
    count = scale.pick(2000, 500)
    yield Case(
        name="ray-jobs",
        unit="jobs/s",
        contenders={
            OURS: Contender("bench.cases.on_ray:our_tasks", {"workers": 2, "count": count}),
            BARE: Contender("bench.cases.on_ray:bare_tasks", {"workers": 2, "count": count}),
            BARE_STREAM: Contender(
                "bench.cases.on_ray:bare_streamed_tasks", {"workers": 2, "count": count}
            ),
        },
        figure=per_second(count),
        goals=(Goal(BARE, OF_TASKS),),
    )
