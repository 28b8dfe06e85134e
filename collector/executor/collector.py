"""`Collector`, an executor whose jobs have outputs.

Runs in:    the parent, in threads of the user's.
Owns:       nothing that must be closed: the pool owns the processes, an `Output` its bytes or file.
"""

import contextlib
import functools
import itertools
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import Executor, Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from collector import hooks, settings
from collector.executor.options import Options, PoolOptions, ProgressCallback, seconds, text, whole
from collector.process import ship
from collector.process.birth import hold_standard_descriptors, method_of
from collector.process.launcher import launcher_for
from collector.store.chunk import Chunk
from collector.store.lease import loading

if TYPE_CHECKING:
    import collector
    from collector.executor.job import Job
    from collector.progress.board import OpenBatch
else:  # `typing.get_type_hints` has what a signature names loaded by the face, when it asks
    collector = sys.modules["collector"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Collector(Executor):
    """Runs jobs in worker processes and collects what they write while they run.

    Args:
        max_workers: The most workers at a time; None for the number of usable CPUs.
        mp_context: A context of `multiprocess` or `multiprocessing`, or "forkserver" (the default),
            "spawn" or "fork".
        initializer: Called in each worker before its first job; if it raises, the Collector is
            broken.
        initargs: Its arguments.
        max_tasks_per_child: A worker is replaced after so many jobs; None for never.
        memory_threshold: Bytes; an output of so many or more lies in a file.
        memory_budget: Bytes; all outputs together hold no more in memory, running ones and those
            that you have.
        progress: None draws a bar for each `collect` on a terminal, False none, True one also for
            `submit` and `map`; or an object whose `update(event)` is called with each
            `ProgressEvent` and whose `close()` at the end.
        on_progress: Called in this process with a job and its `Progress`, at most ten times a
            second and job, and once at its end.
        capture: Keep what jobs and their subprocesses print as `job.log()`, on descriptor level.
        timeout: Seconds that a job may run.
        retries: Further attempts after a crash, a time-out or an exception.
        temp_root: Where the run directory is made; None for `$COLLECTOR_TMPDIR` or else a private
            directory in the system's temp directory.
        temp_file_base_name: Names of spilled files begin with it.
        verbose: Log at INFO what becomes of workers, and of outputs: run again, in a file, sealed.

    Raises:
        ValueError: A number that makes no sense, or an empty `temp_root`.
        TypeError: An argument of a wrong type.
        RunDirectoryError: The temp root cannot be used.
        RuntimeError: The program is ending, and this is its first Collector.

    Guarantees: a worker's death fails the job that it was running and no other; memory is bounded
        by the budget; no process outlives this one, however it ends.
    """

    def __init__(  # noqa: PLR0913 - the settings of the contract
        self,
        max_workers: int | None = None,
        mp_context: object = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        memory_threshold: int = settings.MEMORY_THRESHOLD_BYTES,
        memory_budget: int = settings.MEMORY_BUDGET_BYTES,
        progress: "bool | collector.ProgressSink | None" = None,
        on_progress: ProgressCallback | None = None,
        capture: bool = False,
        timeout: float | None = None,
        retries: int = 0,
        temp_root: str | os.PathLike[str] | None = None,
        temp_file_base_name: str = settings.TEMP_FILE_BASE_NAME,
        verbose: bool = False,
    ) -> None:
        if isinstance(max_workers, int) and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        pool_options = PoolOptions(
            max_workers=_usable_cpus() if max_workers is None else max_workers,
            max_tasks_per_child=max_tasks_per_child,
            memory_budget=memory_budget,
            temp_root=temp_root,
            temp_file_base_name=temp_file_base_name,
            progress=progress,
            verbose=verbose,
        ).checked()
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._options = Options(
            timeout=timeout,
            retries=retries,
            memory_threshold=memory_threshold,
            on_progress=on_progress,
            capture=capture,
        ).checked()
        start = b"" if initializer is None else ship.dumps((initializer, tuple(initargs)))
        hold_standard_descriptors()
        with contextlib.ExitStack() as undo:  # no descriptors are to be had, or a Ctrl-C comes
            launcher = undo.enter_context(contextlib.closing(launcher_for(method_of(mp_context))))
            launcher.prepare()
            try:
                with loading("collector.executor.core"):
                    from collector.executor.core import open_core  # noqa: PLC0415 - 45 ms, meanwhile
            except RuntimeError as error:  # at the end of the program nobody can load the pool
                hooks.explain_refusal(error)
                raise

            self._core = open_core(launcher, pool_options, start)
            undo.pop_all()

    @overload
    def submit(  # type: ignore[overload-overlap]
        self, fn: Callable[P, Generator[Chunk, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> "collector.Job[R]": ...
    @overload
    def submit(
        self, fn: Callable[P, Iterator[Chunk]], /, *args: P.args, **kwargs: P.kwargs
    ) -> "collector.Job[None]": ...
    @overload
    def submit(
        self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> "collector.Job[R]": ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "collector.Job[Any]":
        """Run `fn(*args, **kwargs)` in a worker.

        Returns:
            The job: `result()` is what the function returns, `output()` what it writes or yields.

        Raises:
            RuntimeError: After `shutdown`.
            BrokenCollectorError: The Collector cannot run anything any more; the message says why.
            Exception: The call cannot be pickled (whatever pickling it raises).
        """
        if not callable(fn):
            raise TypeError(f"submit needs a function to run, not {fn!r}")
        return self._core.submit((fn, args, kwargs), self._options, self._core.board.standing)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Yield `fn(*inputs)` for the inputs, in their order; as `Executor.map`.

        Args:
            fn: The function to run.
            *iterables: Its arguments, taken together as by `zip`.
            timeout: Seconds from now until `TimeoutError`.
            chunksize: Calls that travel as one job.
            buffersize: The most jobs that have been submitted and whose values have not been
                yielded; None: all inputs are submitted now.

        Raises:
            ValueError: A chunksize or buffersize below 1.
            TypeError: An argument of a wrong type.
        """
        whole("chunksize", chunksize, least=1)
        if buffersize is not None:
            whole("buffersize", buffersize, least=1)
        seconds("timeout", timeout)
        deadline = None if timeout is None else time.monotonic() + float(timeout)
        groups = _batched(zip(*iterables, strict=False), chunksize)
        from collector.process.worker import run_group  # noqa: PLC0415 - is loaded by now

        call = functools.partial(run_group, fn)
        vars(call)["__name__"] = ship.call_name(fn)  # jobs are named after it
        ahead = groups if buffersize is None else itertools.islice(groups, buffersize)
        jobs = deque(self.submit(call, group) for group in ahead)
        return self._values(jobs, call, groups, deadline)

    def _values(
        self,
        jobs: "deque[Job[Any]]",
        call: Callable[..., Any],
        groups: Iterator[list[Any]],
        deadline: float | None,
    ) -> Iterator[Any]:
        try:
            while jobs:
                left = None if deadline is None else deadline - time.monotonic()
                jobs[0].exception(left)
                values = jobs.popleft().result()
                values.reverse()
                for group in itertools.islice(groups, 1):
                    jobs.append(self.submit(call, group))
                while values:
                    yield values.pop()
        finally:
            self._core.cancel(jobs)

    def collect(
        self,
        fn: Callable[[T], Any],
        iterable: Iterable[T],
        *,
        ordered: bool = False,
        buffersize: int | None = None,
        total: int | None = None,
        desc: str | None = None,
    ) -> "Iterator[collector.Job[Any]]":
        """Run `fn(item)` for each item and yield the jobs as they finish, failed ones too.

        Items are taken as they are needed, and no job is held here that was yielded. Leaving the
        loop early cancels what has not started.

        Args:
            fn: The function to run.
            iterable: Its inputs.
            ordered: Yield in the order of the inputs.
            buffersize: The most jobs that were submitted and not yet yielded; None for twice the
                workers.
            total: How many inputs there are, for the bar; None asks `len`.
            desc: A text before the bar.

        Raises:
            ValueError: A buffersize below 1, or a total below 0.
            TypeError: An argument of a wrong type.
        """
        ahead = 2 * self._core.max_workers if buffersize is None else buffersize
        whole("buffersize", ahead, least=1)
        if not callable(fn):
            raise TypeError(f"collect needs a function to run, not {fn!r}")
        if desc is not None:
            text("desc", desc)
        if total is not None:
            whole("total", total, least=0)
        if total is None and isinstance(iterable, Sized):
            total = len(iterable)
        items = iter(iterable)
        batch = functools.partial(self._core.board.open, desc or "", total)
        return self._collect(fn, items, ahead, batch, ordered=ordered)

    def _collect(
        self,
        fn: Callable[[T], Any],
        items: Iterator[T],
        ahead: int,
        open_batch: Callable[[], "OpenBatch"],
        *,
        ordered: bool,
    ) -> "Iterator[collector.Job[Any]]":
        finished: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        open_jobs: deque[Job[Any]] = deque()
        batch = open_batch()
        try:
            while True:
                for item in itertools.islice(items, ahead - len(open_jobs)):
                    job = self._core.submit((fn, (item,), {}), self._options, batch.belonging)
                    open_jobs.append(job)
                    if not ordered:
                        job.add_done_callback(finished.put)
                    del job, item
                if not open_jobs:
                    batch.complete()
                    return
                if ordered:
                    _settled(open_jobs[0])
                    yield open_jobs.popleft()
                else:
                    yield _taken(finished.get(), open_jobs)
        finally:
            self._core.cancel(open_jobs)
            batch.leave()

    def with_options(
        self,
        *,
        name: str | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        memory_threshold: int | None = None,
        on_progress: ProgressCallback | None = None,
        capture: bool | None = None,
    ) -> Self:
        """Return a Collector of the same pool with other settings; None leaves one as it is."""
        given: dict[str, Any] = {
            "name": name,
            "timeout": timeout,
            "retries": retries,
            "memory_threshold": memory_threshold,
            "on_progress": on_progress,
            "capture": capture,
        }
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        changes = {key: value for key, value in given.items() if value is not None}
        other._options = self._options._replace(**changes).checked()
        return other

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no further job; as `Executor.shutdown`. Outputs that you hold stay readable.

        Args:
            wait: Return when the last job has ended and no process is left.
            cancel_futures: Cancel the jobs that have not started.
        """
        self._shut(wait=wait, cancel=cancel_futures, kill=False)

    def _shut(self, *, wait: bool, cancel: bool, kill: bool) -> None:
        core = self._core
        if core.pool.owner_pid != os.getpid():
            return
        with core.lock:
            core.closed = True
        core.pool.stop(cancel=cancel or kill, kill=kill)
        if wait:
            core.pool.join()
            core.board.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Shut down and wait; a Ctrl-C or `sys.exit` cancels waiting jobs and ends running ones."""
        leaving = kind is not None and not issubclass(kind, Exception)
        self._shut(wait=True, cancel=leaving, kill=leaving)


def _usable_cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _batched(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while group := list(itertools.islice(items, size)):
        yield group


def _settled(job: "collector.Job[Any]") -> None:
    """Wait for the end, whatever it is."""
    done = threading.Event()
    job.add_done_callback(lambda _job: done.set())
    done.wait()


def _taken(job: Any, open_jobs: "deque[Job[Any]]") -> "collector.Job[Any]":
    open_jobs.remove(job)
    taken: Job[Any] = job
    return taken
