"""How long jobs take these days, and what follows from it for how many are sent to a worker.

Pure: as the scheduler, which has one.
"""

from typing import final

from collector import settings


@final
class Pace:
    """A moving average over the jobs that ended; at first none has."""

    def __init__(self, job_s: float = 1.0) -> None:
        self._job_s = job_s
        self.refill_at = 0
        """A worker with more jobs than this gets no further ones yet: they come in portions."""

    def took(self, job_s: float) -> None:
        """A job has taken so long."""
        self._job_s += (job_s - self._job_s) * settings.PACE_WEIGHT

    @property
    def brisk(self) -> bool:
        """Whether the way to a worker and back counts."""
        return self._job_s <= settings.BRISK_S

    @property
    def patience_s(self) -> float:
        """How long jobs wait behind a running one; once they are not brisk any more, not at all."""
        return settings.RECALL_AFTER_S if self.brisk else 0.0

    def ahead(self) -> int:
        """Return how many jobs may be at one worker now."""
        ahead = round(min(settings.JOBS_AHEAD, settings.AHEAD_S / max(self._job_s, 1e-9)))
        self.refill_at = ahead - ahead // settings.PORTIONS
        return ahead
