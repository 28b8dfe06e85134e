"""What the page sums up of all jobs: counts, times, bytes, and how these are spread.

Runs in:    any process; pure.
Invariants: I1  memory does not grow with the number of jobs, but for the failures that are shown.
"""

import math
from collections import Counter
from typing import Final, NamedTuple, final

from collector.batch.report.record import (
    DONE,
    FAILED,
    WAITING,
    Jobs,
    ReportedBatch,
    ReportedJob,
)

FAILURES_SHOWN: Final = 1000
"""So many failed jobs have the tail of their log in the page."""

_BARS: Final = 24


class Bar(NamedTuple):
    """One bar of a histogram: how many values lie from `low` to below `high`."""

    low: float
    high: float
    jobs: int
    failed: int


@final
class Spread:
    """How values are spread over powers of two."""

    def __init__(self) -> None:
        self._counts: Counter[int | None] = Counter()
        self._failed: Counter[int | None] = Counter()
        self.least = math.inf
        self.largest = 0.0

    def add(self, value: float, *, failed: bool) -> None:
        """Count a value, 0 or more; what is no number is left out."""
        if not math.isfinite(value):
            return
        power = None if value <= 0 else math.frexp(value)[1] - 1
        self._counts[power] += 1
        self._failed[power] += failed
        self.least = min(self.least, value)
        self.largest = max(self.largest, value)

    def bars(self) -> list[Bar]:
        """Return at most about two dozen bars without a gap; values of 0 have one of their own."""
        bars = []
        if None in self._counts:
            bars.append(Bar(0, 0, self._counts[None], self._failed[None]))
        powers = [power for power in self._counts if power is not None]
        if not powers:
            return bars
        first, last = min(powers), max(powers)
        step = -(-(last - first + 1) // _BARS)
        for low in range(first, last + 1, step):
            within = range(low, low + step)
            count = sum(self._counts[power] for power in within)
            failed = sum(self._failed[power] for power in within)
            bars.append(Bar(math.ldexp(1, low), math.ldexp(1, low + step), count, failed))
        return bars


@final
class Sums:
    """The sums of a batch.

    Attributes:
        statuses: How many jobs of each status; those of which only the number is known wait.
        total: How many jobs there are, as far as is known.
        flaky: How many are done that had failed.
        retried: How many have had more than one attempt.
        size: Bytes of all outputs of jobs that are done.
        busy_s: Seconds of all attempts.
        has_begun: Whether any job has.
        begin_s, end_s: When the first attempt began and the last one ended; the time of the report
            if none has.
        seconds, sizes: How the last attempts are spread.
        failures: The first jobs that failed.
    """

    def __init__(self, batch: ReportedBatch, jobs: Jobs) -> None:
        self.statuses: Counter[str] = Counter()
        self.flaky = self.retried = self.size = 0
        self.busy_s = 0.0
        self.begin_s, self.end_s = math.inf, -math.inf
        self.seconds, self.sizes = Spread(), Spread()
        self.failures: list[ReportedJob] = []
        for job in jobs:
            self._add(job)
        self.has_begun = self.begin_s < math.inf
        if self.begin_s > self.end_s:
            self.begin_s = min(batch.time, self.begin_s)
            self.end_s = batch.time
        if batch.inputs is not None:
            self.statuses[WAITING] += max(0, batch.inputs - self.statuses.total())
        self.total = self.statuses.total()

    def _add(self, job: ReportedJob) -> None:
        self.statuses[job.status] += 1
        self.flaky += job.is_flaky
        self.retried += len(job.attempts) > 1
        if job.status == FAILED and len(self.failures) < FAILURES_SHOWN:
            self.failures.append(job)
        if job.since is not None:
            self.begin_s = min(self.begin_s, job.since)
        for each in job.attempts:
            self.busy_s += each.seconds
            self.begin_s = min(self.begin_s, each.start)
            self.end_s = max(self.end_s, each.end)
        if (last := job.last) is not None:
            failed = last.status != DONE
            self.seconds.add(last.seconds, failed=failed)
            self.sizes.add(last.size, failed=failed)
            self.size += last.size if job.status == DONE else 0
