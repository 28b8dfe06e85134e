"""The rivals, one module each.

A module has one or both of

- `pool(workers)`, a context manager that gives an object with `all(fn, items)`, which submits a job
  for each item the way its users do and yields what they return, and `one(fn, item)`;
- `collecting(workers, chunk_bytes, count, *, resident)`, a contender (see `bench/case.py`) that
  brings `count` chunks of each worker into one file a worker.

A module that cannot be imported, or raises `MissingError`, is left out.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, Protocol

NAMES = {
    "collector": "bench.ours",
    "ProcessPoolExecutor": "bench.peers.process_pool_executor",
    "multiprocessing.Pool": "bench.peers.multiprocessing_pool",
    "multiprocess.Pool": "bench.peers.multiprocess_pool",
    "loky": "bench.peers.loky_executor",
    "joblib": "bench.peers.joblib_parallel",
    "mpire": "bench.peers.mpire_pool",
    "pebble": "bench.peers.pebble_pool",
}
"""Where the pools are."""


class Pool(Protocol):
    """What `pool` gives."""

    def all(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Run a job for each item; yield what they return, in any order."""

    def one(self, fn: Callable[[Any], Any], item: Any) -> Any:
        """Run one job and wait for it."""


def pool_of(name: str, workers: int) -> contextlib.AbstractContextManager[Pool]:
    """Make a pool by its name."""
    made: contextlib.AbstractContextManager[Pool] = import_module(NAMES[name]).pool(workers)
    return made
