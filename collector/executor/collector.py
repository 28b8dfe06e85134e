"""`Collector`, an executor whose jobs have outputs.

Runs in:    the parent, in threads of the user's.
Owns:       nothing that must be closed: the pool owns the processes, an `Output` its bytes or file.
"""

import contextlib
import functools
import importlib
import itertools
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from concurrent.futures import Executor
from typing import (
    TYPE_CHECKING,
    Any,
    ParamSpec,
    Self,
    TypeVar,
    overload,
)

from collector import interpreter, settings
from collector.checks import seconds, text, whole
from collector.executor.options import BatchOptions, Options, PoolOptions, ProgressCallback
from collector.process.start.child import hold_standard_descriptors, method_of
from collector.process.start.methods import launcher_for
from collector.store.absolute import absolute_path
from collector.store.output.chunk import Chunk
from collector.store.rundir.locks import loading

if TYPE_CHECKING:
    import collector
    from collector.executor.collecting import Submitting
    from collector.executor.job import Job
    from collector.process.pool.pool import Pool
else:  # `typing.get_type_hints` has what a signature names loaded by the face, when it asks
    collector = sys.modules["collector"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Collector(Executor):
    """Runs jobs in worker processes and collects what they write while they run.

    Args:
        max_workers: The most workers at a time; None for the number of usable CPUs: those that this
            process may run on, but no more than the quota of its control groups, rounded up.
        mp_context: A context of `multiprocess` or `multiprocessing`, or "forkserver" (the default),
            "spawn" or "fork".
        initializer: Called in each worker before its first job; if it raises, the Collector is
            broken.
        initargs: Its arguments. Locks, queues, shared values, connections and the like of
            `multiprocessing` and `multiprocess` may be among them, of a context of the same start
            method.
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
        timeout: Seconds that a job may run, from when its call is loaded: the import of its module
            and the unpickling of its arguments do not count (`job.kill()` ends what hangs there).
        retries: Further attempts after a crash, a time-out or an exception, at once; or a `Retry`,
            which counts each cause by itself, and waits.
        resources: How many jobs `with_options(resource=)` of a name may run at once, by that name.
        temp_root: Where the run directory is made; None for `$COLLECTOR_TMPDIR` or else a private
            directory in the system's temp directory.
        temp_file_base_name: Names of spilled files begin with it.
        verbose: Log at INFO what becomes of workers, and of outputs: run again, in a file, sealed.
        ask: Answer other processes of the same user: `collector top`, `follow` and `kill`.
        engine: "local" runs the jobs in worker processes here, "ray" in those of a Ray cluster
            (`pip install 'collector[ray]'`).
        address: Of a Ray cluster: "host:port", or "auto" for the one that this machine belongs to;
            None starts a Ray on this machine that ends with the Collector.
        ray_options: What each job asks of Ray: `num_cpus`, `num_gpus`, `memory`, `resources`,
            `accelerator_type`, `label_selector`, `scheduling_strategy`; and `runtime_env`, which
            the cluster is joined with.

    Raises:
        ValueError: A number that makes no sense, or an empty `temp_root`.
        TypeError: An argument of a wrong type.
        RunDirectoryError: The temp root cannot be used.
        OSError: There is no Python to start processes with, or its environment is too large.
        RuntimeError: The program is ending, and this is its first Collector; or something of
            another start method is among the initargs.
        ImportError: Ray is not installed, or in a version that was not tested.
        ConnectionError: There is no Ray at that address, or it cannot be joined or started.

    Guarantees: a worker's death fails the job that it was running and no other; memory is bounded
        by the budget; no process outlives this one, however it ends.

    Example:
        >>> from collector import Collector
        >>> def squares(count):
        ...     for number in range(count):
        ...         yield f"{number * number} "
        ...     return count
        >>> with Collector(max_workers=2) as collector:
        ...     job = collector.submit(squares, 4)
        ...     print(job.result(), job.output().text().split())
        4 ['0', '1', '4', '9']
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
        retries: "int | collector.Retry" = 0,
        resources: Mapping[str, int] | None = None,
        temp_root: str | os.PathLike[str] | None = None,
        temp_file_base_name: str = settings.TEMP_FILE_BASE_NAME,
        verbose: bool = False,
        ask: bool = True,
        engine: str = "local",
        address: str | None = None,
        ray_options: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(max_workers, int) and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        pool_options = PoolOptions(
            max_workers=max_workers,
            max_tasks_per_child=max_tasks_per_child,
            memory_budget=memory_budget,
            temp_root=temp_root,
            temp_file_base_name=temp_file_base_name,
            progress=progress,
            verbose=verbose,
            ask=ask,
            resources={} if resources is None else resources,
            engine=engine,
            address=address,
            ray_options=ray_options,
        ).checked()
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if not isinstance(initargs, Iterable):
            raise TypeError(f"initargs must be a tuple, not {initargs!r}")
        self._options = Options(
            timeout=timeout,
            retries=retries,
            memory_threshold=memory_threshold,
            on_progress=on_progress,
            capture=capture,
        ).checked()
        method = method_of(mp_context)
        call = None if initializer is None else (initializer, tuple(initargs))
        hold_standard_descriptors()
        with contextlib.ExitStack() as undo:  # no descriptors are to be had, or a Ctrl-C comes
            launcher = undo.enter_context(contextlib.closing(launcher_for(method)))
            launcher.prepare()
            try:
                with loading("collector.executor.core"):
                    from collector.executor.core import open_core  # noqa: PLC0415 - 45 ms, meanwhile
            except RuntimeError as error:  # at the end of the program nobody can load the pool
                interpreter.explain_refusal(error)
                raise

            self._core = open_core(launcher, pool_options, call)
            undo.pop_all()
        # Both standard executors have it, and dask, pipefunc and others read it.
        self._max_workers = self._core.max_workers

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

        Example:
            >>> with Collector(max_workers=1) as collector:
            ...     print(collector.submit(pow, 2, 10).result())
            1024
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
        deadline = None if timeout is None else time.monotonic() + seconds("timeout", timeout)
        groups = _batched(zip(*iterables, strict=False), chunksize)
        ahead = groups if buffersize is None else itertools.islice(groups, buffersize)
        submit = functools.partial(self.submit, self._core.in_groups(fn))
        jobs = deque(submit(group) for group in ahead)  # `map` takes a StopIteration for the end
        # Once all is submitted the iterator holds no Collector: dropped, that lets its workers go.
        further = iter(()) if buffersize is None else (submit(group) for group in groups)
        return _values(jobs, further, self._core.pool, deadline)

    def collect(  # noqa: PLR0913 - the options of the contract
        self,
        fn: Callable[[T], Any],
        iterable: Iterable[T],
        *,
        ordered: bool = False,
        buffersize: int | None = None,
        total: int | None = None,
        desc: str | None = None,
        batch: str | os.PathLike[str] | None = None,
        key: Callable[[T], object] | None = None,
        save: str | Callable[[T], str | os.PathLike[str]] | None = None,
        resume: str = "failed",
        durable: bool = False,
        keep_failed: bool = False,
        shard: tuple[int, int] | None = None,
        halt: str | None = None,
        budget: Mapping[str, float] | None = None,
    ) -> "Generator[collector.Job[Any], None, None]":
        """Run `fn(item)` for each item and yield the jobs as they finish, failed ones too.

        Items are taken as they are needed, and no job is held here that was yielded. Leaving the
        loop early cancels what has not started; if the generator has a name, call its `close()`.
        When an item cannot be had or submitted, the jobs before it are yielded first, then that is
        raised; a Ctrl-C and the like is raised at once.

        Args:
            fn: The function to run.
            iterable: Its inputs.
            ordered: Yield in the order of the inputs.
            buffersize: The most jobs that were submitted and not yet yielded; None for twice the
                workers.
            total: How many inputs there are, for the bar; None asks `len`.
            desc: A text before the bar.
            batch: A directory in which everything is kept: it is made, or continued. What it has
                the result of is yielded without being run, with `job.resumed`. The rest are options
                of it.
            key: Returns what makes an item itself, where the item is no text, bytes, number, None
                or path, nor a tuple, list or dict of these.
            save: A name for the output of each item that succeeds, or has: a template of
                `str.format` with the fields `input`, `key`, `seq` and `name`, or a function of the
                item. An item whose name a file of yours has fails, once it has run.
            resume: "failed" runs what has not succeeded, "new" what has no result at all, "all"
                everything again; "never" refuses a directory that has results.
            durable: Have everything on the disk before its job is yielded.
            keep_failed: Keep outputs and logs of failed attempts of jobs that succeed.
            halt: When to stop before the last input: "soon,fail=10%" starts nothing further once
                that many have failed, and lets what runs go on; "now,..." ends that too. Counted
                are "fail", "success", "done", and "same": equal failures in a row.
            budget: Bounds of meters (`current_job().count`), by name: once one is reached, stop as
                with "soon". In a batch directory what earlier runs have spent counts too.
            shard: `(i, n)`: run only those items whose key falls into the i-th of n parts, from 1;
                a percentage of `halt` is one of an even share of the inputs.

        Raises:
            ValueError: A buffersize below 1, or a total below 0.
            TypeError: An argument of a wrong type; or an item that has no key, after the last job.
            BatchHaltedError: It has stopped at `halt` or `budget`, after the last job.
            BatchError: The directory cannot be used; when the first job is asked for.
            Exception: Whatever the iterable, or submitting an item, raises; after the last job.

        Example:
            >>> def inverse(number):
            ...     return 1 / number
            >>> with Collector(max_workers=1) as collector:
            ...     for job in collector.collect(inverse, [4, 0], ordered=True):
            ...         print(job.args[0], job.exception() or job.result())
            4 0.25
            0 division by zero
        """
        given = 2 * self._core.max_workers if buffersize is None else buffersize
        ahead = whole("buffersize", given, least=1)
        if not callable(fn):
            raise TypeError(f"collect needs a function to run, not {fn!r}")
        desc = "" if desc is None else text("desc", desc)
        if total is not None:
            total = whole("total", total, least=0)
        elif isinstance(iterable, Sized):
            with contextlib.suppress(TypeError):  # it does not know: as `list` and tqdm have it
                total = len(iterable)
        keeping = BatchOptions(batch, key, save, resume, durable, keep_failed, shard).checked()
        if halt is not None:
            text("halt", halt)
        parts = 1 if keeping.shard is None else keeping.shard[1]
        stopping = self._core.stopping(halt, budget, total, parts)
        known = total if parts == 1 else None  # how many are of a part is not known before the end
        open_batch = functools.partial(self._core.board.open, desc, known)
        label = desc if keeping.batch is None else absolute_path(os.fsdecode(keeping.batch))
        coming = self._core.coming(label, known)
        submitting: Submitting[T] = functools.partial(
            self._core.just_run, self._core, self._options, fn, coming.numbers
        )
        if keeping.batch is not None:
            # By name: the room of batch directories stands on this one.
            with loading("collector.batch.collecting"):
                room = importlib.import_module("collector.batch.collecting")
            submitting = room.submitting(
                self._core, self._options, fn, keeping, total, coming.numbers
            )
        items = self._core.counted(coming, iter(iterable))
        return self._core.collected(
            self._core.pool,
            submitting,
            items,
            ahead,
            open_batch,
            ordered=ordered,
            stopping=stopping,
        )

    def statistics(self) -> "collector.Statistics":
        """Return what is going on now: a snapshot, which never waits, whatever else does.

        The numbers are those of the pool, whichever of the Collectors of `with_options` is asked.
        """
        return self._core.pool.statistics()

    def with_options(  # noqa: PLR0913 - the settings of the contract
        self,
        *,
        name: str | None = None,
        timeout: float | None = None,
        retries: "int | collector.Retry | None" = None,
        resource: str | None = None,
        memory_threshold: int | None = None,
        on_progress: ProgressCallback | None = None,
        capture: bool | None = None,
    ) -> Self:
        """Return a Collector of the same pool with other settings; None leaves one as it is.

        Example:
            >>> with Collector(max_workers=1) as collector:
            ...     careful = collector.with_options(timeout=60, capture=True, name="greeting")
            ...     print(careful.submit(print, "hello").log().text(), end="")
            hello
        """
        given: dict[str, Any] = {
            "name": name,
            "timeout": timeout,
            "retries": retries,
            "resource": resource,
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
            cancel_futures: Cancel the jobs that have not started; others are not run again.
        """
        self._shut(wait=wait, cancel=cancel_futures, kill=False)

    def terminate_workers(self) -> None:
        """End now, by SIGTERM; as `ProcessPoolExecutor.terminate_workers` of Python 3.14.

        Jobs that have not started are cancelled, those that run fail with `WorkerCrashError` and
        are not run again; a job that does not let itself be terminated goes on to its end. Returns
        at once: `shutdown` waits for what is left.
        """
        self._end_workers(kill=False)

    def kill_workers(self) -> None:
        """End now, by SIGKILL; as `ProcessPoolExecutor.kill_workers` of Python 3.14.

        Jobs that have not started are cancelled; those that run are killed with all processes of
        their groups, fail with `WorkerCrashError`, and are not run again. Returns at once:
        `shutdown` waits for what is left.
        """
        self._end_workers(kill=True)

    def _end_workers(self, *, kill: bool) -> None:
        pool = self._core.pool
        self._shut(wait=False, cancel=True, kill=False)
        if not pool.over and pool.owner_pid == os.getpid():
            pool.end_workers(kill=kill)

    def _shut(self, *, wait: bool, cancel: bool, kill: bool) -> None:
        core = self._core
        if core.pool.over or core.pool.owner_pid != os.getpid():
            return
        core.closed = True
        core.pool.stop(cancel=cancel or kill, kill=kill)
        if wait:
            core.pool.join()
            core.wait_for_recorders()
            core.board.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        """Shut down and wait; a Ctrl-C or `sys.exit` cancels waiting jobs and ends running ones."""
        leaving = kind is not None and not issubclass(kind, Exception)
        self._shut(wait=True, cancel=leaving, kill=leaving)


def _values(
    jobs: "deque[Job[Any]]",
    further: "Iterator[Job[Any]]",
    pool: "Pool",
    deadline: float | None,
) -> Iterator[Any]:
    """Yield the values of the jobs; take one of the `further` ones, as it comes, for each."""
    try:
        while jobs:
            left = None if deadline is None else deadline - time.monotonic()
            jobs[0].exception(left)
            values = jobs.popleft().result()
            values.reverse()
            job = next(further, None)
            if job is None:
                further = iter(())
            else:
                jobs.append(job)
            del job
            while values:
                yield values.pop()
    finally:
        pool.cancel(jobs)


def _batched(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while group := list(itertools.islice(items, size)):
        yield group
