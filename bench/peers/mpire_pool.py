"""mpire's `WorkerPool`."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mpire import WorkerPool


class Mapping:
    """A pool that is kept alive from one call to the next."""

    def __init__(self, made: WorkerPool) -> None:
        self._pool = made

    def all(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Map them, one by one."""
        return iter(self._pool.imap_unordered(fn, items, chunk_size=1))

    def one(self, fn: Callable[[Any], Any], item: Any) -> Any:
        """Apply."""
        return self._pool.apply(fn, (item,))


@contextlib.contextmanager
def pool(workers: int) -> Iterator[Mapping]:
    """Make one with its defaults, but for the workers that stay."""
    with WorkerPool(n_jobs=workers, keep_alive=True) as made:
        yield Mapping(made)
