"""What this package needs itself of a Collector beyond what a program can have.

Runs in:    the parent.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol, final

from collector.executor.collector import Collector
from collector.executor.job import Job
from collector.process.pool.pool import Holder, Pool
from collector.process.scheduler.gates import Waits
from collector.wire.capture import Capture


class Attempt(Protocol):
    """What an attempt of a job is called with."""

    @property
    def seq(self) -> int:
        """The number of the job."""

    @property
    def attempt(self) -> int:
        """Which attempt it is; the first is 1."""


class Watching(Holder, Protocol):
    """Whoever hears of running jobs, in threads of the pool's. No method waits."""

    def started(self, job: Job[Any]) -> None:
        """An attempt begins. Of one that is over at once nothing is told."""

    def wrote(self, job: Job[Any]) -> None:
        """It has written more."""

    def rests(self, job: Job[Any]) -> None:
        """It has asked to be run later: another one may have its place."""


class _InnerJob(Job[Any]):
    watching: Watching

    def started(self) -> None:
        """See `JobOwner.started`."""
        super().started()
        self.watching.started(self)

    def progressed(self, bytes_written: int, chunks: int, name: str) -> None:
        """See `JobOwner.progressed`."""
        super().progressed(bytes_written, chunks, name)
        self.watching.wrote(self)

    def attempted(self, attempt: int) -> None:
        """See `JobOwner.attempted`."""
        super().attempted(attempt)
        self.watching.rests(self)


@final
class Inner:
    """The inside of a Collector.

    Args:
        collector: Its jobs are submitted and ended here.
        capture: What they print that is kept as their log.
        watching: Hears of the jobs.
    """

    def __init__(self, collector: Collector, capture: Capture, watching: Watching) -> None:
        self._collector: Final = collector
        self._core: Final = collector._core  # noqa: SLF001 - in this module alone: a part of the Collector
        self._options: Final = collector._options._replace(capture=capture)  # noqa: SLF001 - as above
        self._watching: Final = watching
        self._core.pool.holder = watching

    @property
    def broken(self) -> str:
        """Why nothing can run any more; empty while all is well."""
        return self._core.pool.broken

    def submit(
        self, fn: Callable[..., Any], call: Attempt, name: str, timeout_s: float | None
    ) -> Job[Any]:
        """Have a worker call a function with one argument; raises as `Collector.submit` does."""
        options = self._options._replace(name=name, timeout=timeout_s)
        return self._core.submit((fn, (call,), {}), options, self._core.board.standing, self._job)

    def _job(
        self, pool: Pool, job_id: int, args: tuple[Attempt], *more: Any, **named: Any
    ) -> Job[Any]:
        job = _InnerJob(pool, job_id, args, *more, **named)
        job.watching = self._watching
        job.known_as, job.earlier_attempts = args[0].seq, args[0].attempt - 1
        return job

    def tell(self, told: Callable[[], Mapping[str, object]]) -> None:
        """Have those who ask told this: `batch`, `done`, `failed`, `total`, `bytes`."""
        self._core.pool.told = told

    def say_last_words(self) -> None:
        """See `Board.say_last_words`: what is shown is not the Collector's."""
        self._core.board.say_last_words()

    def put_off(self) -> int:
        """Return how many jobs wait to be run again, for no resource that others wait for too."""
        return sum(one.jobs for one in self.waits() if not one.resource)

    def waits(self) -> list[Waits]:
        """Return what jobs wait for, beside workers."""
        return self._core.pool.waits()

    def cancel(self, jobs: Iterable[Job[Any]]) -> None:
        """Cancel those that have not started."""
        self._core.pool.cancel(jobs)

    def signal(self, number: int, *, workers: bool) -> None:
        """Send a signal to the process groups of running jobs, or to the workers too."""
        self._core.pool.signal_jobs(number, workers=workers)

    def kill(self) -> None:
        """Kill what runs, and run nothing more."""
        self._collector.kill_workers()


def has_left_behind(collector: Collector) -> bool:
    """Tell whether `shutdown` has left behind a callback that does not return."""
    return collector._core.board.left_behind  # noqa: SLF001 - as above
