"""How many jobs are prefetched for a worker, and when they are recalled.

The way of a job to a worker and back takes longer than a very short job. So while jobs are short,
some wait at the workers, and each begins as soon as the one before it ends. No job waits behind a
long one.

Pure: as the scheduler, which has one.
"""

from collections.abc import Callable, Iterator
from typing import final

from collector import settings
from collector.process.scheduler.decisions import Entry
from collector.process.scheduler.seats import Seats
from collector.process.scheduler.worker_state import Seat


@final
class Prefetch:
    """Moving average of the duration of jobs; decides how many to prefetch for each worker.

    Args:
        job_s: The average before the first job has ended, in seconds.
        distance: How many times as long as on this machine the way to a worker takes: jobs may be
            that much longer, and wait that much longer there.
    """

    def __init__(self, job_s: float = 1.0, distance: float = 1.0) -> None:
        self._job_s = job_s
        self._distance = distance
        self._refill_at = 0

    def took(self, job_s: float) -> bool:
        """A job has taken so long; returns whether they are short no more, as they were before."""
        before_s, long_s = self._job_s, settings.BRISK_S * self._distance
        self._job_s += (job_s - before_s) * settings.PACE_WEIGHT
        return before_s <= long_s < self._job_s

    @property
    def brisk(self) -> bool:
        """Whether jobs are so short that some are to wait at a worker."""
        return self._ahead() > 1

    def wants_more(self, seat: Seat) -> bool:
        """Whether a worker is to be refilled: it has done a portion of its jobs, or is retired."""
        return len(seat.entries) <= self._refill_at or seat.retired

    def share_out(
        self, take: Callable[[], Entry | None], seats: Seats, now_s: float
    ) -> Iterator[tuple[Seat, Entry]]:
        """Yield jobs, as long as there are any, each with a worker that has the fewest of them.

        Args:
            take: Takes a job out of the line; None if there is none.
            seats: The workers; each has what was yielded with it when the next is asked for.
            now_s: The time.
        """
        ahead, brisk_since_s = self._ahead(), now_s - self._recall_after_s
        while (seat := seats.least()) is not None and len(seat.entries) < ahead:
            if seat.entries and seat.since_s < brisk_since_s:
                seats.leave_out(seat)  # none waits behind a long one
            elif (entry := take()) is not None:
                yield seat, entry
            else:
                break

    def _ahead(self) -> int:
        """Return how many jobs may be at one worker now, with the running one."""
        ahead_s = settings.AHEAD_S * self._distance
        ahead = round(min(settings.JOBS_AHEAD, ahead_s / max(self._job_s, 1e-9)))
        self._refill_at = ahead - ahead // settings.PORTIONS
        return ahead

    @property
    def _recall_after_s(self) -> float:
        return settings.RECALL_AFTER_S * self._distance

    def recall_at_s(self, seat: Seat) -> float:
        """When the jobs that wait behind a running one are recalled, for workers that are free.

        At once if they are short no more and would together need RECALL_AFTER_S: where only a few
        wait, they would come and go.
        """
        ahead_s = (len(seat.entries) - 1) * self._job_s
        is_long = self._job_s > settings.BRISK_S * self._distance
        at_once = is_long and ahead_s > self._recall_after_s
        return seat.since_s + (0.0 if at_once else self._recall_after_s)
