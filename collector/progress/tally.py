"""Counts what the jobs of a batch have done, and knows of each that runs how long it has.

Runs in:    anywhere: it is told of events and times, and looks at no clock.
Owns:       the numbers of one batch.
States:     of a job: AWAY -> RUNS (`started`) -> AWAY (`ended`); RUNS -> RESTS (`rests`) -> RUNS
            (`started`) or AWAY (`ended`). An end may come without a start: jobs that are over at
            once are told of by their end alone.
Invariants: I1  a job that is not over is in no count but `retried`.
            I2  it holds as many running and resting jobs as there are, and of the others a bounded
                number.
            I3  a look at what runs takes as many steps as there are running jobs: of those that
                rest there may be very many.
"""

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypedDict, final

from collector import settings
from collector.progress.ends import Ended, How
from collector.progress.view import ShownJob, View
from collector.store.output.progress import Mode


@final
class Late(enum.StrEnum):
    """What is said of a job that runs; a fact and no verdict."""

    SLOW = "SLOW"
    """It has run for long."""
    QUIET = "QUIET"
    """No byte has come from it for long."""


@final
class LateJob(NamedTuple):
    """A running job that is late."""

    what: Late
    job: ShownJob


@final
class LeftOut(NamedTuple):
    """There were more of something than could be told of."""

    number: int
    what: str


_KINDS: Final = ("failed", "flaky", "slow", "passed", "done before")

Said = Ended | LateJob | LeftOut
"""What has a line of its own."""


@final
@dataclass(slots=True)
class _Running:
    name: str
    attempt: int
    begun_s: float
    byte_s: float
    slow_s: float
    quiet_s: float
    size_bytes: int = 0
    mode: Mode | None = None
    rests_s: float | None = None
    """Since when another attempt of it is waited for."""


@final
@dataclass(slots=True)
class Kept:
    """The first few jobs of a kind, and how many there were."""

    first: list[Ended] = field(default_factory=list)
    count: int = 0

    def add(self, ended: Ended) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < settings.DIGEST_JOBS:
            self.first.append(ended)


class Totals(TypedDict):
    """The numbers of a `View`."""

    done: int
    failed: int
    bytes_total: int
    retried: int
    resumed: int


class Drawn(Protocol):
    """Whatever can be drawn. The drawing thread asks; no method waits."""

    @property
    def number(self) -> int:
        """Its number in this process."""

    @property
    def owner_pid(self) -> int:
        """The process that may draw it."""

    def view(self) -> View:
        """Return how it is now."""

    def news(self) -> list[Said]:
        """Return what has happened since the last call, as far as it is to have lines."""


@final
class Tally:
    """Counts.

    Args:
        slow_s: After so many seconds a job is slow.
        quiet_s: After so many seconds without a byte it is quiet.
    """

    def __init__(self, slow_s: float = settings.SLOW_S, quiet_s: float = settings.QUIET_S) -> None:
        self._slow_s: Final = slow_s
        self._quiet_s: Final = quiet_s
        self._running: dict[int, _Running] = {}
        self._resting: dict[int, _Running] = {}
        self.kept: Final = {name: Kept() for name in _KINDS}
        self.interrupted = self.resumed = self.retried = self.bytes_total = 0
        self.meters: Final = Counter[str]()

    @property
    def passed(self) -> int:
        """Jobs that ended well."""
        return self.kept["passed"].count

    @property
    def failed(self) -> int:
        """Jobs that failed."""
        return self.kept["failed"].count

    @property
    def done(self) -> int:
        """Jobs that passed or failed."""
        return self.passed + self.failed

    @property
    def has_heard(self) -> bool:
        """Whether any attempt has begun or ended."""
        ends = self.done + self.interrupted + self.retried
        return bool(ends or self._running or self._resting)

    def started(self, job: int, name: str, attempt: int, now_s: float) -> None:
        """An attempt begins."""
        self.gone(job)  # what began last stands last
        self._running[job] = _Running(
            name, attempt, now_s, now_s, now_s + self._slow_s, now_s + self._quiet_s
        )

    def wrote(self, job: int, size_bytes: int, now_s: float, mode: Mode | None = None) -> None:
        """A running attempt has written so much by now."""
        running = self._running.get(job)
        if running is not None:
            if running.size_bytes != size_bytes:
                running.byte_s, running.quiet_s = now_s, now_s + self._quiet_s
            running.size_bytes, running.mode = size_bytes, mode

    def rests(self, job: int, now_s: float) -> None:
        """An attempt is over, and another one will follow: now, or when it may."""
        running = self._running.pop(job, None)
        if running is not None:
            running.rests_s = now_s
            self._resting[job] = running

    def gone(self, job: int) -> None:
        """It runs no more; what has come of it is told by `ended`."""
        self._running.pop(job, None)
        self._resting.pop(job, None)

    def ended(self, ended: Ended) -> None:
        """An attempt is over."""
        self.gone(ended.job)
        self.bytes_total += ended.size_bytes
        if ended.meters:
            self.meters.update(ended.meters)
        if ended.again:
            self.retried += 1
            return
        self.resumed += ended.resumed
        kinds = {
            "failed": ended.how is How.FAILED,
            "done before": ended.how is How.PASSED and ended.resumed,
            "passed": ended.how is How.PASSED,
            "flaky": ended.how is How.PASSED and ended.attempt > 1 and not ended.resumed,
            "slow": ended.how is How.PASSED and ended.seconds >= self._slow_s and not ended.resumed,
        }
        for kind, is_it in kinds.items():
            if is_it:
                self.kept[kind].add(ended)
        self.interrupted += ended.how is How.INTERRUPTED

    def attempt(self, job: int) -> int:
        """Return which attempt of a job runs; 1 if none is known of."""
        running = self._not_over(job)
        return 1 if running is None else running.attempt

    def so_far(self, job: int, now_s: float) -> tuple[float, int]:
        """Return for how many seconds a job has run and what it wrote; 0 if it is not known to."""
        running = self._not_over(job)
        if running is None:
            return 0.0, 0
        until_s = now_s if running.rests_s is None else running.rests_s
        return until_s - running.begun_s, running.size_bytes

    def late(self, now_s: float) -> list[LateJob]:
        """Return what is to be said now of running jobs: of each when it has become so.

        Of a slow one again after twice that time, four times, and so on.
        """
        found: list[LateJob] = []
        for job, running in self._now():
            told = self._told(0, job, running, now_s)
            if now_s >= running.slow_s:
                running.slow_s = now_s + (now_s - running.begun_s)
                found.append(LateJob(Late.SLOW, told))
            if now_s >= running.quiet_s:
                running.quiet_s = float("inf")
                found.append(LateJob(Late.QUIET, told))
        return found

    def running(self, batch: int, now_s: float) -> tuple[ShownJob, ...]:
        """Return the running jobs, those that have run for longest first."""
        return tuple(self._told(batch, job, running, now_s) for job, running in self._now())

    def _now(self) -> list[tuple[int, _Running]]:
        return list(self._running.items())  # one step: others may count meanwhile

    def _not_over(self, job: int) -> _Running | None:
        return self._running.get(job) or self._resting.get(job)

    def totals(self, running: tuple[ShownJob, ...]) -> Totals:
        """Return what a `View` says of it in numbers."""
        return {
            "done": self.done,
            "failed": self.failed,
            "bytes_total": self.bytes_total + sum(job.size_bytes for job in running),
            "retried": self.retried,
            "resumed": self.resumed,
        }

    def counts(self, total: int | None) -> list[tuple[int, str]]:
        """Return what the line at the end says: jobs of so many, and how they ended."""
        parts = [
            (self.passed, f"passed{self._among()}"),
            (self.failed, "failed"),
            (self.interrupted, "interrupted"),
        ]
        whole = self.done + self.interrupted
        of = f"of {total} " if total is not None and total != whole else ""
        return [(whole, f"{of}job{'s' if (total or whole) != 1 else ''}"), *parts]

    def _among(self) -> str:
        parts = [
            (self.kept["flaky"].count, "flaky"),
            (self.kept["slow"].count, "slow"),
            (self.kept["done before"].count, "done before"),
        ]
        said = ", ".join(f"{count} {what}" for count, what in parts if count)
        return f" ({said})" if said else ""

    def _told(self, batch: int, job: int, running: _Running, now_s: float) -> ShownJob:
        elapsed_s, quiet_s = now_s - running.begun_s, now_s - running.byte_s
        return ShownJob(
            batch,
            job,
            running.name,
            running.attempt,
            running.size_bytes,
            running.mode,
            elapsed_s,
            quiet_s,
            slow=elapsed_s >= self._slow_s,
            quiet=quiet_s >= self._quiet_s,
        )
