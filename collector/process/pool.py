"""The pool: the processes of one Collector, for threads of the user's.

Runs in:    the parent, in any thread.
Owns:       the supervising and the settling thread; one lease on the run directory.
Invariants: I1  threads, sink and workers are started by the first job, a forkserver with the
                Collector; all are gone when `join` returns.
            I2  in a forked child of the parent the pool is dead: its descriptors are closed there,
                and nothing is signalled or removed.
"""

import os
import signal
import threading
import weakref
from typing import Final, final

from collector import hooks, settings
from collector.process.crew import Crew
from collector.process.jobs import Work
from collector.process.scheduler import Scheduler
from collector.process.supervisor import Supervisor
from collector.store.rundir import RunDirectory


@final
class Pool:
    """Runs jobs for one Collector.

    Args:
        crew: Starts the processes.
        directory: The run directory; the pool lets go of it at its end.
        schedule: Decides who runs what.
        verbose: Log what becomes of workers and outputs.
    """

    def __init__(
        self, crew: Crew, directory: RunDirectory, schedule: Scheduler, *, verbose: bool
    ) -> None:
        self.directory: Final = directory
        self.owner_pid: Final = os.getpid()
        self.at_end = _nothing
        """Called once when the last job is settled, in no thread that anything waits for."""
        self.given_up = False
        """Whether a wait for the end was interrupted."""
        self._crew = crew
        self._supervisor = Supervisor(crew, directory, schedule)
        self._supervisor.jobs.verbose = verbose
        self._lock = threading.Lock()
        self._threads: tuple[threading.Thread, ...] = ()
        self._over = False
        _pools.add(self)

    @property
    def broken(self) -> str:
        """Why nothing can run any more; empty while all is well."""
        return self._supervisor.broken

    def submit(self, work: Work) -> None:
        """Take a job."""
        with self._lock:
            if not self._threads:
                self._start()
        self._supervisor.note(work)
        if self._crew.launcher.method == "fork" and self._supervisor.may_start_workers:
            # Python 3.12.0 to 3.12.2 fork nothing once the program has begun to end.
            begun = threading.Event()
            self._supervisor.note(begun.set)
            begun.wait(settings.STOP_DEADLINE_S)

    def withdraw(self, job_id: int) -> None:
        """Forget a waiting job that its owner has cancelled."""
        self._supervisor.note(lambda: self._supervisor.withdraw(job_id))

    def say_at_the_end(self, farewell: bytes) -> None:
        """Have this written to stderr if this process dies: it gives the terminal back."""
        self._supervisor.note(lambda: self._crew.say_at_the_end(farewell))

    def kill(self, job_id: int) -> None:
        """End a running job."""
        self._supervisor.note(lambda: self._supervisor.kill(job_id))

    def unwanted(self, job_ids: list[int]) -> None:
        """Cancel those of these jobs that have not started, also where they wait at a worker."""
        self._supervisor.note(lambda: self._supervisor.unwanted(job_ids))

    def follow(self, job_id: int) -> None:
        """Have a job's output in a file while it runs, and its progress told more often."""
        self._supervisor.note(lambda: self._supervisor.follow(job_id))

    def stop(self, *, cancel: bool = False, kill: bool = False) -> None:
        """Take no further job, end with the last one; or cancel those that wait, or kill all."""
        if self.owner_pid != os.getpid():
            return  # a forked child drops its copy
        self._supervisor.note(lambda: self._supervisor.stop(cancel=cancel, kill=kill))
        with self._lock:
            if not self._threads and not self._over:
                self._over = True
                self._supervisor.close()
                self._close()

    def join(self) -> None:
        """Wait for the end; returns at once in a thread of the pool's own."""
        if threading.current_thread() not in self._threads:
            try:
                for thread in self._threads:
                    thread.join()
            except BaseException:  # a Ctrl-C: who waits has had enough of it
                self.given_up = True
                raise
            # The sink, which would clean up after this process, is gone; outputs may be left.
            self.directory.dispose_at_exit()

    def _start(self) -> None:
        # With SIGINT blocked, which processes inherit until they have a handler of their own: a
        # Ctrl-C while one starts is for the parent alone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
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
        self.directory.release()
        self.at_end()

    def abandon(self) -> None:
        """In a forked child: close what is the parent's (I2)."""
        self._supervisor.abandon()


def _nothing() -> None:
    """Nothing follows the last job."""


_pools: Final[weakref.WeakSet[Pool]] = weakref.WeakSet()


@hooks.in_forked_child
def _abandon_all() -> None:
    pools = list(_pools)
    _pools.clear()  # once: in a child of this child other files have these numbers
    for pool in pools:
        pool.abandon()
