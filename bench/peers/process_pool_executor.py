"""`concurrent.futures.ProcessPoolExecutor`, and other executors that are used as it is."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from typing import Any


class Executing:
    """An executor."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def all(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Submit all, then take the values."""
        for future in [self._executor.submit(fn, item) for item in items]:
            yield future.result()

    def one(self, fn: Callable[[Any], Any], item: Any) -> Any:
        """Submit one and wait."""
        return self._executor.submit(fn, item).result()

    def as_finished(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Submit all, then take the values as they come."""
        for future in as_completed([self._executor.submit(fn, item) for item in items]):
            yield future.result()


@contextlib.contextmanager
def pool(workers: int) -> Iterator[Executing]:
    """Make one with the defaults of this Python."""
    with ProcessPoolExecutor(workers) as executor:
        yield Executing(executor)
