"""`multiprocess.Pool`, which pickles by dill."""

import contextlib
from collections.abc import Iterator

import multiprocess

from bench.peers.multiprocessing_pool import Mapping


@contextlib.contextmanager
def pool(workers: int) -> Iterator[Mapping]:
    """Make one with its defaults."""
    with multiprocess.Pool(workers) as made:
        yield Mapping(made)
