"""loky's executor."""

import contextlib
from collections.abc import Iterator

from loky import ProcessPoolExecutor

from bench.peers.process_pool_executor import Executing


@contextlib.contextmanager
def pool(workers: int) -> Iterator[Executing]:
    """Make one with its defaults."""
    with ProcessPoolExecutor(workers) as executor:
        yield Executing(executor)
