"""What the Collectors of one pool share, and how a Collector ends that nobody shuts down.

A Collector loads this, and with it the pool, while its forkserver starts (`open_core`).

Runs in:    the parent.
Owns:       the pool.
"""

import contextlib
import itertools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn

from collector import hooks
from collector.broken import BrokenCollectorError
from collector.executor.job import Job
from collector.executor.options import Options, PoolOptions
from collector.process import ship
from collector.process.crew import Crew
from collector.process.engine import Launcher
from collector.process.jobs import Work
from collector.process.pool import Pool
from collector.process.scheduler import Scheduler
from collector.progress.batch import Batch
from collector.progress.board import Board
from collector.store.reclaim import start_sweep
from collector.store.rundir import RunDirectory


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

    def submit(
        self,
        call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]],
        options: Options,
        batch: Callable[[], Batch | None],
    ) -> Job[Any]:
        """Have a worker make the call; raises as `Collector.submit` does."""
        if self.pool.owner_pid != os.getpid():
            raise RuntimeError(
                "this Collector belongs to the process that made it: make a new one after a fork"
            )
        fn, args, kwargs = call
        packed = ship.dumps(call)
        with self.lock:
            if self.pool.broken:
                raise BrokenCollectorError(f"the Collector is broken: {self.pool.broken}")
            if self.closed:
                raise RuntimeError(
                    "cannot schedule new futures after shutdown: make a new Collector"
                )
            job_id = next(self.numbers)
            label = options.name or ship.call_name(fn)
            watchers = self.board.watchers(batch(), options.on_progress)
            job: Job[Any] = Job(
                self.pool, job_id, args, kwargs, label, watchers, numbered=not options.name
            )
            work = Work(
                job_id,
                options.retries,
                options.timeout,
                owner=job,
                call=packed,
                memory_threshold=options.memory_threshold,
                capture=options.capture,
            )
            try:
                self.pool.submit(work)
            except RuntimeError as error:  # Python 3.12.0 to 3.12.2, at the end of the program
                hooks.explain_refusal(error)
                raise
        return job

    def cancel(self, jobs: Iterable[Job[Any]]) -> None:
        """Cancel those of these jobs that have not started."""
        left = [job.id for job in jobs if not job.cancel() and not job.done()]
        if left:  # some of them may only wait at a worker
            self.pool.unwanted(left)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Collector cannot be pickled; make one in the process that needs it")


def open_core(launcher: Launcher, options: PoolOptions, initializer: bytes) -> Core:
    """Make the pool of a Collector; the launcher is its own from now on.

    Raises:
        RunDirectoryError: The temp root cannot be used.
        OSError: No descriptor is to be had.
    """
    board = Board(options.progress)
    with contextlib.ExitStack() as undo:  # no descriptors are to be had, or a Ctrl-C comes
        directory = RunDirectory.create(options.temp_root)
        undo.callback(directory.release)
        start_sweep(directory.path.parent)
        crew = Crew(
            launcher,
            str(directory.path),
            options.temp_file_base_name,
            options.memory_budget,
            initializer,
        )
        undo.callback(crew.life.close)
        schedule = Scheduler(options.max_workers, options.max_tasks_per_child, time.monotonic)
        pool = Pool(crew, directory, schedule, verbose=options.verbose)
        undo.pop_all()
    return Core(pool, options.max_workers, board)


_open_cores: Final[weakref.WeakSet[Core]] = weakref.WeakSet()
_open_pools: Final[weakref.WeakSet[Pool]] = weakref.WeakSet()
"""A pool may outlive its core: its Collector was dropped and its jobs still run."""


@hooks.at_exit
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
