"""What the Collectors of one pool share, and how a Collector ends that nobody shuts down.

Runs in:    the parent.
Owns:       the pool.
"""

import atexit
import itertools
import os
import sys
import threading
import weakref
from typing import Final, NoReturn

from collector.process.pool import Pool
from collector.progress.board import Board


class Core:
    """What a Collector shares with those that `with_options` makes of it."""

    def __init__(self, pool: Pool, max_workers: int, board: Board) -> None:
        self.pool = pool
        self.board = board
        pool.at_end = board.finish
        board.say_at_the_end = pool.say_at_the_end
        self.max_workers = max_workers
        self.numbers = itertools.count(1)
        self.lock = threading.Lock()
        self.closed = False
        # Dropped without shutdown: what was submitted still runs, as with the standard executors.
        weakref.finalize(self, pool.stop).atexit = False
        _open_cores.add(self)
        _open_pools.add(pool)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Collector cannot be pickled; make one in the process that needs it")


_open_cores: Final[weakref.WeakSet[Core]] = weakref.WeakSet()
_open_pools: Final[weakref.WeakSet[Pool]] = weakref.WeakSet()
"""A pool may outlive its core: its Collector was dropped and its jobs still run."""


@atexit.register
def _finish_at_exit() -> None:
    """Wait for the jobs of Collectors that nobody shut down; after a Ctrl-C, end them."""
    last = getattr(sys, "last_type", None)
    interrupted = last is KeyboardInterrupt and not hasattr(
        sys, "ps1"
    )  # at a prompt it ends a line
    for core in list(_open_cores):  # a handler that runs after this one is told that it is late
        with core.lock:
            core.closed = True
    for pool in list(_open_pools):
        if pool.owner_pid == os.getpid():
            pool.stop(cancel=interrupted, kill=interrupted)
            if not (interrupted and pool.given_up):  # by a second Ctrl-C: do not ask for a third
                pool.join()
            pool.directory.dispose()  # outputs that were made only now have no other end
