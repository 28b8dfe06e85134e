"""What the Collectors of one pool share, and how a Collector ends that nobody shuts down.

A Collector loads this, and with it the pool, while its forkserver starts (`open_core`).

Runs in:    the parent.
Owns:       the pool.
"""

import contextlib
import functools
import importlib
import os
import random
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, Protocol, Self, TypeVar, final

from collector import interpreter
from collector.crash_errors import BrokenCollectorError
from collector.executor import collecting
from collector.executor.cpus import usable_cpus
from collector.executor.job import Job
from collector.executor.options import Options, PoolOptions
from collector.process.pickling import calls
from collector.process.pickling.script import Script
from collector.process.pool.job_table import Work
from collector.process.pool.local_engine import LocalEngine
from collector.process.pool.pool import Pool
from collector.process.pool.statistics import Coming
from collector.process.scheduler.retries import Retry
from collector.process.scheduler.scheduler import Scheduler
from collector.process.start.inheritance import Inheritance
from collector.process.start.launcher import Launcher
from collector.process.worker.begin import run_group
from collector.progress.board import Board
from collector.progress.waits import waits_text
from collector.store.rundir.current_directory import CurrentDirectory
from collector.store.rundir.reclaim import start_sweep
from collector.wire.capture import Capture

if TYPE_CHECKING:
    from collector.process.engine import Engine
    from collector.progress.batch import Batch

T = TypeVar("T")


class Recorder(Protocol):
    """Stores what comes of the jobs of a batch, behind the thread that settles them."""

    def wait(self) -> None:
        """Wait until everything that has ended is stored; at once in a thread of its own."""

    def __hash__(self) -> int:
        """It is one of a set."""


@final
class _Counted(Generic[T]):
    """The items of one `collect`, whose end says how many there are; the pool knows meanwhile."""

    def __init__(self, known: dict[int, Coming], coming: Coming, items: Iterator[T]) -> None:
        self._known = known
        self._coming = coming
        self._next = items.__next__
        known[id(coming)] = coming

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        try:
            return self._next()
        except StopIteration:
            self._coming.total = self._coming.given
            raise

    def __del__(self) -> None:
        try:  # noqa: SIM105 - at the end of the program contextlib is gone before this
            self._known.pop(id(self._coming), None)
        except AttributeError:  # a Ctrl-C came before it was one
            pass


class Core:
    """What a Collector shares with those that `with_options` makes of it."""

    # What a Collector calls is found here: at the end of a program it could not import it.
    collected = staticmethod(collecting.collected)
    stopping = staticmethod(collecting.stopping)
    just_run = collecting.JustRun

    def __init__(self, pool: Pool, max_workers: int, board: Board, script: Script) -> None:
        self.pool = pool
        self._script = script
        self.board = board
        pool.at_end = board.finish
        board.say_at_the_end = pool.say_at_the_end
        board.ask_waiting = lambda: waits_text(pool.waits(), time.monotonic())
        self.max_workers = max_workers
        self.closed = False
        self.recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()
        # Dropped without shutdown: what was submitted still runs, as with the standard executors.
        weakref.finalize(self, pool.stop).atexit = False
        _open_cores.add(self)
        _open_pools.add(pool)

    def submit(
        self,
        call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]],
        options: Options,
        batch: "Callable[[], Batch | None]",
        kind: Callable[..., Job[Any]] = Job,
        numbers: Iterator[int] | None = None,
    ) -> Job[Any]:
        """Have a worker make the call; raises as `Collector.submit` does."""
        if self.pool.over:
            self._refuse()
        if self.pool.owner_pid != os.getpid():
            raise RuntimeError(
                "this Collector belongs to the process that made it: make a new one after a fork"
            )
        fn, args, kwargs = call
        packed, parts, names = self._script.pack(call)
        if self.closed or self.pool.broken:  # as it may be by now
            self._check()
        job_id = next(self.pool.numbers if numbers is None else numbers)
        label = options.name or calls.call_name(fn)
        shown, callback = batch(), options.on_progress
        alone = shown is None and callback is None
        watchers = () if alone else self.board.watchers(shown, callback)
        job = kind(self.pool, job_id, args, kwargs, label, watchers, numbered=not options.name)
        retry = options.retries if isinstance(options.retries, Retry) else None
        work = Work(
            job_id,
            0 if isinstance(options.retries, Retry) else options.retries,
            options.timeout,
            owner=job,
            call=packed,
            parts=parts,
            names=names,
            memory_threshold=options.memory_threshold,
            capture=Capture(options.capture) if options.capture else Capture.NOTHING,
            retry=retry,
            resource=options.resource or "",
        )
        try:
            self.pool.submit(work)
        except RuntimeError as error:  # Python 3.12.0 to 3.12.2, at the end of the program
            interpreter.explain_refusal(error)
            raise
        # No lock is held, for a callback or a signal handler may shut down meanwhile. Who did so
        # before the pool had this job may have ended it; who did so after that, not without it.
        if (self.closed or self.pool.broken) and job.cancel():
            self._check()
        return job

    @staticmethod
    def in_groups(fn: Callable[..., T]) -> Callable[..., list[T]]:
        """Return what makes several calls of a function in one job, which is named after it."""
        call = functools.partial(run_group, fn)
        vars(call)["__name__"] = calls.call_name(fn)
        return call

    def coming(self, label: str, total: int | None) -> Coming:
        """Return what counts the jobs of a `collect`."""
        return Coming(label, total, self.pool.numbers)

    def counted(self, coming: Coming, items: Iterator[T]) -> Iterator[T]:
        """Return the items of a `collect`, and let the pool know how many are still to come."""
        return _Counted(self.pool.coming, coming, items)

    def number_of_resumed(self, numbers: Iterator[int], *, failed: bool) -> int:
        """Return a number for a job that is over: an earlier run of its batch has its result."""
        number = next(numbers)
        self.pool.resumed += 1
        self.pool.resumed_failed += failed
        return number

    def wait_for_recorders(self) -> None:
        """Wait until everything that has ended is stored; after `pool.join`."""
        for recorder in list(self.recorders):
            recorder.wait()

    def _check(self) -> None:
        if self.pool.broken:
            raise BrokenCollectorError(f"the Collector is broken: {self.pool.broken}")
        if self.closed:
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise RuntimeError("cannot schedule new futures after shutdown: make a new Collector")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Collector cannot be pickled; make one in the process that needs it")


def open_core(launcher: Launcher, options: PoolOptions, call: tuple[Any, ...] | None) -> Core:
    """Make the pool of a Collector; the launcher is its own from now on.

    Args:
        launcher: Starts its processes.
        options: Of the whole Collector.
        call: What each worker calls first, and with what; None for nothing.

    Raises:
        RunDirectoryError: The temp root cannot be used.
        RuntimeError: Something of another start method is among the arguments of the call.
        ImportError: What the engine needs is not installed, or in a version that was not tested.
        ConnectionError: The engine's cluster cannot be joined, or started.
        OSError: No descriptor is to be had.
        Exception: The call cannot be pickled (whatever pickling it raises).
    """
    max_workers, max_tasks = _most_workers(options), options.max_tasks_per_child
    options = options._replace(max_workers=max_workers)
    script = Script()
    board = Board(options.progress)
    with contextlib.ExitStack() as undo:  # no descriptors are to be had, or a Ctrl-C comes
        initializer = Inheritance(call, launcher.method, script)
        undo.callback(initializer.close)
        directory = CurrentDirectory(options.temp_root)
        undo.callback(directory.release)
        start_sweep(directory.latest.path.parent)
        engine = LocalEngine(
            launcher,
            directory,
            options.temp_file_base_name,
            options.memory_budget,
            initializer,
        )
        undo.callback(engine.life.close)
        distance = 1.0
        runs: Engine = engine
        if options.engine != "local":
            # By name: it stands on the executor, and needs what not everybody has installed.
            room = importlib.import_module(f"collector.integrations.{options.engine}.engine")
            runs = room.open_engine(engine, options)
            undo.callback(runs.close)
            max_workers, max_tasks = room.most_workers(runs, options), None
            distance = room.DISTANCE
        schedule = Scheduler(
            max_workers,
            max_tasks,
            time.monotonic,
            options.resources,
            random.Random().random,  # noqa: S311 - jitter
            distance=distance,
        )
        pool = Pool(runs, directory, schedule, verbose=options.verbose, ask=options.ask)
        undo.pop_all()
    return Core(pool, max_workers, board, script)


def _most_workers(options: PoolOptions) -> int:
    """Return how many workers there are at most; 0 for as many as the cluster has room for."""
    if options.max_workers is not None:
        return options.max_workers
    return 0 if options.engine == "ray" and options.address is not None else usable_cpus()


_open_cores: Final[weakref.WeakSet[Core]] = weakref.WeakSet()
_open_pools: Final[weakref.WeakSet[Pool]] = weakref.WeakSet()
"""A pool may outlive its core: its Collector was dropped and its jobs still run."""


@interpreter.at_exit
def _finish_at_exit() -> None:
    """Wait for the jobs of Collectors that nobody shut down; after a Ctrl-C, end them."""
    last = getattr(sys, "last_type", None)
    interrupted = last is KeyboardInterrupt and not hasattr(
        sys, "ps1"
    )  # at a prompt it ends a line
    for core in list(_open_cores):  # a handler that runs after this one is told that it is late
        core.closed = True
    for pool in list(_open_pools):
        if pool.owner_pid != os.getpid():
            pool.over = True  # it is the parent's
        else:
            pool.stop(cancel=interrupted, kill=interrupted)
            if not (interrupted and pool.given_up):  # by a second Ctrl-C: do not ask for a third
                pool.join()
            pool.over = True
            for core in [core for core in _open_cores if core.pool is pool]:
                core.wait_for_recorders()
            pool.directory.dispose()  # outputs that were made only now have no other end
