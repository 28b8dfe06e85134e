"""pebble's `ProcessPool`."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pebble import ProcessPool


class Scheduling:
    """A pool."""

    def __init__(self, made: ProcessPool) -> None:
        self._pool = made

    def all(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Submit all, then take the values."""
        for future in [self._pool.submit(fn, None, item) for item in items]:
            yield future.result()

    def one(self, fn: Callable[[Any], Any], item: Any) -> Any:
        """Submit one and wait."""
        return self._pool.submit(fn, None, item).result()


@contextlib.contextmanager
def pool(workers: int) -> Iterator[Scheduling]:
    """Make one with its defaults."""
    with ProcessPool(max_workers=workers) as made:
        yield Scheduling(made)
