"""`joblib.Parallel` over its default backend, loky, with its own batching."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from joblib import Parallel, delayed


class Delaying:
    """A `Parallel`."""

    def __init__(self, parallel: Parallel) -> None:
        self._parallel = parallel

    def all(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Run them, values as they come."""
        call = delayed(fn)
        return iter(self._parallel(call(item) for item in items))

    def one(self, fn: Callable[[Any], Any], item: Any) -> Any:
        """Run a batch of one."""
        return next(iter(self._parallel([delayed(fn)(item)])))


@contextlib.contextmanager
def pool(workers: int) -> Iterator[Delaying]:
    """Make one with its defaults."""
    with Parallel(n_jobs=workers, return_as="generator_unordered") as parallel:
        yield Delaying(parallel)
