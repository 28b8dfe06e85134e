"""`multiprocessing.Pool`."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Mapping:
    """A pool with `imap_unordered` and `apply`."""

    def __init__(self, made: Any) -> None:
        self._pool = made

    def all(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Map them, one by one."""
        return iter(self._pool.imap_unordered(fn, items))

    def one(self, fn: Callable[[Any], Any], item: Any) -> Any:
        """Apply."""
        return self._pool.apply(fn, (item,))


@contextlib.contextmanager
def pool(workers: int) -> Iterator[Mapping]:
    """Make one with the defaults of this Python."""
    with multiprocessing.Pool(workers) as made:
        yield Mapping(made)
