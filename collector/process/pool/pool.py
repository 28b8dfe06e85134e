"""The pool: the processes of one Collector, for threads of the user's.

Runs in:    the parent, in any thread.
Owns:       the supervising and the settling thread; the run directory in use.
Invariants: I1  threads, sink and workers are started by the first job, a forkserver with the
                Collector; all are gone when `join` returns.
            I2  in a forked child of the parent the pool is dead: its descriptors are closed there,
                and nothing is signalled or removed.
"""

import contextlib
import itertools
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol, cast, final

from collector import interpreter, settings
from collector.process.engine import Engine
from collector.process.pool.answering import Answering
from collector.process.pool.followers import Followable
from collector.process.pool.job_table import Held, Work
from collector.process.pool.statistics import Coming, RunningJob, Statistics, next_of, still_to_come
from collector.process.pool.supervisor import Supervisor
from collector.process.scheduler.gates import Waits
from collector.process.scheduler.scheduler import Scheduler
from collector.store.output.progress import Mode
from collector.store.rundir.current_directory import CurrentDirectory
from collector.wire.messages import Farewell
from collector.wire.questions import shortened


class Cancellable(Protocol):
    """A job."""

    @property
    def id(self) -> int:
        """Its number."""

    def cancel(self) -> bool:
        """Cancel it, unless it is at a worker or over."""

    def done(self) -> bool:
        """Whether it is over."""


class Holder(Protocol):
    """Who has jobs that he submits later. Both methods may be called in any thread."""

    def held(self) -> list[Held]:
        """Return them."""

    def end_held(self, known_as: int) -> None:
        """Somebody wants the job ended that is known by that number, which was one of them."""


@final
class Pool:
    """Runs jobs for one Collector.

    Args:
        engine: Starts the processes.
        directory: The run directory in use, which the pool lets go of at the end.
        schedule: Decides who runs what.
        verbose: Log what becomes of workers and outputs.
        ask: Answer other processes of the user.
    """

    holder: Holder | None = None
    """Who has jobs that he submits later, if somebody has."""

    def __init__(
        self,
        engine: Engine,
        directory: CurrentDirectory,
        schedule: Scheduler,
        *,
        verbose: bool,
        ask: bool,
    ) -> None:
        self.directory: Final = directory
        self.owner_pid: Final = os.getpid()
        self.at_end = _nothing
        """Called once when the last job is settled, in a thread that nothing waits for."""
        self.over = False
        """Whether nothing is left to be ended; ask this first at exit: modules may be gone."""
        self.given_up = False
        """Whether a wait for the end was interrupted."""
        self.numbers: Final = itertools.count(1)
        """Gives each job its number."""
        self.coming: Final[dict[int, Coming]] = {}
        """What each `collect` that runs has still to submit."""
        self.resumed = self.resumed_failed = 0
        """Jobs that are over since an earlier run of their batch, and those of them that failed."""
        self.told: Callable[[], Mapping[str, object]] = dict
        """What is told of the jobs as a whole by who runs each attempt as a job of ours."""
        self._engine = engine
        self._scheduler = schedule
        self._answering = Answering(directory, self) if ask else None
        self._supervisor = Supervisor(engine, directory, schedule, self._answering)
        self._supervisor.jobs.verbose = verbose
        if self._answering is not None:
            self._supervisor.jobs.audience = self._answering.followers
        self._lock = threading.RLock()  # a signal handler may come while its own thread holds it
        self._starting = self._joining = self._closed = False
        self._gates: list[threading.Lock] = []
        self._threads: tuple[threading.Thread, ...] = ()
        _pools.add(self)

    @property
    def broken(self) -> str:
        """Why nothing can run any more; empty while all is well."""
        return self._supervisor.broken

    def submit(self, work: Work) -> None:
        """Take a job; one that comes after the end is not run.

        Raises:
            RuntimeError: No thread is to be had.
        """
        if not self._threads:
            with self._lock:
                if not self._threads and not self._starting and not self.over:
                    self._starting = True
                    try:
                        self._start()
                    finally:
                        self._starting = False
        self._supervisor.note(work)
        if self._engine.forks and self._supervisor.may_start_workers:
            # Python 3.12.0 to 3.12.2 fork nothing once the program has begun to end.
            begun = _closed_gate()
            self._supervisor.note(begun.release)
            begun.acquire(timeout=settings.STOP_DEADLINE_S)

    def withdraw(self, job_id: int) -> None:
        """Forget a waiting job that its owner has cancelled."""
        self._supervisor.note(lambda: self._supervisor.withdraw(job_id))

    def say_at_the_end(self, farewell: Farewell) -> None:
        """Have the sink write this to stderr if this process dies: it gives the terminal back."""
        self._supervisor.note(lambda: self._supervisor.say_at_the_end(farewell))

    def kill(self, job_id: int) -> None:
        """End a running job."""
        self._supervisor.note(lambda: self._scheduler.killed(job_id))

    def drop(self, job_ids: Iterable[int]) -> None:
        """End those of these jobs that wait to be run again; those that run go on."""
        ids = list(job_ids)
        self._supervisor.note(lambda: self._scheduler.dropped(ids))

    def waits(self) -> list[Waits]:
        """Return what jobs wait for beside workers: gates, and pauses after failures."""
        return self._scheduler.waits()

    def cancel(self, jobs: Iterable[Cancellable]) -> None:
        """Cancel those of these jobs that have not started, also where they wait at a worker."""
        if self.over:
            return
        left = [job.id for job in jobs if not job.cancel() and not job.done()]
        if left:
            self._supervisor.note(lambda: self._scheduler.unwanted(left))

    def follow(self, job_id: int) -> None:
        """Have a job's output in a file while it runs, and its progress told more often."""
        self._supervisor.note(lambda: self._supervisor.follow(job_id))

    def statistics(self) -> Statistics:
        """Return what is going on now, in any thread."""
        jobs, now_s = self._supervisor.jobs, time.monotonic()
        running = [
            RunningJob(
                id=work.owner.known_as or work.job_id,
                name=work.owner.name,
                attempt=work.owner.earlier_attempts + work.attempt,
                seconds=max(0.0, now_s - work.started_s),
                bytes=work.bytes_written,
                mode=Mode.STREAMING if work.spilled else Mode.MEMORY,
            )
            for work in cast("list[Work]", self._scheduler.running())
        ]
        running.sort(key=lambda job: -job.seconds)
        done = jobs.done + self.resumed
        submitted, left = self._submitted_and_left()
        in_memory = sum(job.bytes for job in running if job.mode is Mode.MEMORY)
        return Statistics(
            waiting=0 if self.over else max(0, submitted - done - jobs.cancelled - len(running)),
            running=tuple(running),
            done=done,
            failed=jobs.failed + self.resumed_failed,
            total=None if left is None else submitted - jobs.cancelled + left,
            bytes=jobs.bytes + sum(job.bytes for job in running),
            memory_bytes=self._supervisor.held_bytes + in_memory,
        )

    def _submitted_and_left(self) -> tuple[int, int | None]:
        """Return how many jobs have a number, and how many inputs are to get one, of one moment."""
        while True:
            submitted = next_of(self.numbers)
            left = still_to_come(list(self.coming.values()))
            if submitted == next_of(self.numbers):  # no input became a job while both were read
                return submitted - 1, left

    def describe(self) -> dict[str, Any]:
        """See `Asked.describe`."""
        now, path = self.statistics(), self.directory.latest.path
        labels = [coming.label for coming in list(self.coming.values())]
        return {
            "run": path.name,
            "pid": self.owner_pid,
            "batch": shortened(next(filter(None, labels), "")) or None,
            "done": now.done,
            "failed": now.failed,
            "total": now.total,
            "bytes": now.bytes,
            "memory_bytes": now.memory_bytes,
            "running": [
                {
                    "job": job.id,
                    "name": shortened(job.name),
                    "attempt": job.attempt,
                    "seconds": round(job.seconds, 3),
                    "bytes": job.bytes,
                }
                for job in now.running
            ],
            **self.told(),
        }

    def find(self, job: str) -> list[Followable]:
        """See `Asked.find`."""
        held = () if self.holder is None else self.holder.held()
        return cast("list[Followable]", self._supervisor.jobs.find(job, held))

    def end(self, job: Followable) -> None:
        """See `Asked.end`."""
        job.wanted_dead = True
        if job.id:
            self.kill(job.id)
        elif self.holder is not None:
            self.holder.end_held(job.known_as)

    def known_to_run(self) -> list[Followable]:
        """See `Asked.known_to_run`."""
        works = cast("list[Work]", self._scheduler.running())
        return [cast("Followable", work.owner) for work in works]

    def stop(self, *, cancel: bool = False, kill: bool = False) -> None:
        """Take no further job, end with the last one; or cancel those that wait, or kill all."""
        if self.owner_pid != os.getpid():
            return  # a forked child drops its copy
        self._supervisor.note(lambda: self._supervisor.stop(cancel=cancel, kill=kill))
        with self._lock:
            if not self._threads and not self._starting and not self.over:
                self.over = True
                self._supervisor.close()
                self._close()

    def end_workers(self, *, kill: bool) -> None:
        """End every worker at once, by SIGKILL or by SIGTERM; after `stop`."""
        self._supervisor.note(lambda: self._supervisor.end_workers(kill=kill))

    def signal_jobs(self, number: int, *, workers: bool) -> None:
        """Send a signal to the process groups that running jobs have begun; it is sent on return.

        Args:
            number: Of the signal.
            workers: Send it to the workers and their groups too.
        """
        if self.over or not self._threads:
            return
        sent = _closed_gate()

        def send() -> None:
            try:
                self._supervisor.signal_jobs(number, workers=workers)
            finally:
                sent.release()

        self._supervisor.note(send)
        sent.acquire(timeout=settings.STOP_DEADLINE_S)

    def join(self) -> None:
        """Wait for the end; returns at once in a thread of the pool's own."""
        if threading.current_thread() in self._threads:
            return
        try:
            self._wait()
        except BaseException:  # a Ctrl-C: whoever waits has given up
            self.given_up = True
            raise
        self.over = not self._starting
        # The sink, which would clean up after this process, is gone; outputs may be left.
        self.directory.dispose_at_exit()

    def _wait(self) -> None:
        """Wait until the last job is settled.

        A signal handler that interrupts this may wait too, in the same thread. Only the outer call
        joins the threads then: `Thread.join` holds a lock that a second one would wait for.
        """
        if self._threads:
            gate = _closed_gate()
            self._gates.append(gate)
            if not self._closed:
                gate.acquire()
        if not self._joining:
            self._joining = True
            try:
                for thread in self._threads:
                    thread.join()
            finally:
                self._joining = False

    def _start(self) -> None:
        # With SIGINT blocked, which processes inherit until they have a handler of their own: a
        # Ctrl-C while one starts is for the parent alone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._supervisor.listen()
            settling = self._supervisor.jobs.start()
            supervising = threading.Thread(
                target=self._supervise, name="collector-supervise", daemon=True
            )
            try:
                supervising.start()
            except RuntimeError:  # no thread is to be had: not half a pool either
                self._supervisor.jobs.end()
                raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._threads = (supervising, settling)

    def _supervise(self) -> None:
        try:
            self._supervisor.run()
        finally:
            self._supervisor.jobs.later(self._close)
            self._supervisor.jobs.end()

    def _close(self) -> None:
        _pools.discard(self)
        at_end, self.at_end = self.at_end, _nothing  # it leads to what is the user's
        try:
            with contextlib.ExitStack() as letting_go:
                letting_go.callback(at_end)
                letting_go.callback(self.directory.release)
                if self._answering is not None:
                    letting_go.callback(self._answering.close)
        finally:
            self._closed = True
            while self._gates:
                self._gates.pop().release()

    def abandon(self) -> None:
        """In a forked child: close what is the parent's (I2)."""
        self._supervisor.abandon()


def _closed_gate() -> threading.Lock:
    """Return a lock that is held until somebody releases it: an Event has a lock inside as well."""
    gate = threading.Lock()
    gate.acquire()
    return gate


def _nothing() -> None:
    """Do nothing: nobody wants to know when the last job is settled."""


_pools: Final[weakref.WeakSet[Pool]] = weakref.WeakSet()


@interpreter.in_forked_child
def _abandon_all() -> None:
    pools = list(_pools)
    _pools.clear()  # once: in a child of this child other files have these numbers
    for pool in pools:
        pool.abandon()
