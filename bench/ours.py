"""`collector` itself, with the interface of the peers (`bench/peers/__init__.py`)."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any

from collector import Collector, current_job

if TYPE_CHECKING:
    from collector import Output

BUDGET_BYTES = 256 * 1024 * 1024


class Pool:
    """A Collector that is ready."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def all(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Submit a job for each item, then yield what they returned."""
        for job in [self._collector.submit(fn, item) for item in items]:
            yield job.result()

    def one(self, fn: Callable[[Any], Any], item: Any) -> Any:
        """Run one job."""
        return self._collector.submit(fn, item).result()

    def outputs(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator["Output"]:
        """Yield the outputs of jobs as they finish."""
        for job in self._collector.collect(fn, items):
            yield job.output()


@contextlib.contextmanager
def pool(workers: int) -> Iterator[Pool]:
    """Make a pool; its run directory is in `$COLLECTOR_TMPDIR`."""
    with Collector(workers) as collector:
        yield Pool(collector)


def write(chunk_bytes: int, count: int) -> None:
    """A job that writes `count` chunks."""
    chunk = b"x" * chunk_bytes
    put = current_job().write
    for _ in range(count):
        put(chunk)


def collecting(workers: int, chunk_bytes: int, count: int, *, resident: bool) -> Iterator[float]:
    """Collect `count` chunks of each worker, to the end of the last output."""
    from bench import recycling, target  # what no other pool loads would count as its start-up

    size = chunk_bytes * count
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(target.directory())
        if resident:
            stack.enter_context(recycling.recycled())
        root = os.path.join(path, "root")
        collector = stack.enter_context(Collector(workers, temp_root=root, progress=False))
        while True:
            if not resident:
                target.warm(path, size * workers)
            start = perf_counter()
            jobs = [collector.submit(write, chunk_bytes, count) for _ in range(workers)]
            outputs = [job.output() for job in jobs]
            seconds = perf_counter() - start
            for job, output in zip(jobs, outputs, strict=True):
                job.result()
                if (output.size, output.chunks) != (size, count):
                    raise AssertionError(f"{output.size} bytes in {output.chunks} chunks")
                if resident and output.path and os.stat(output.path).st_blocks:
                    raise AssertionError("the bytes went to a fresh file")
                output.close()
            yield seconds
