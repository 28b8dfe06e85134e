"""What the scheduler decides, and how an attempt can have ended: values, and nothing else.

Nobody changes an action; frozen ones take three times as long to make.
"""

import enum
import math
from dataclasses import dataclass
from typing import Final


class Verdict(enum.Enum):
    """How an attempt ended."""

    RETURNED = "returned"
    RAISED = "raised"
    CRASHED = "crashed"
    TIMED_OUT = "timed out"
    KILLED = "killed"
    SPILL_FAILED = "spill failed"
    LOST = "lost"
    SINK_LOST = "sink lost"
    CANCELLED = "cancelled"
    """It was at a worker, had not started, and came back when nobody wanted it any more."""
    UNABLE = "unable"
    """The Collector broke before the job could run."""


BY_ITS_FUNCTION: Final = (Verdict.RETURNED, Verdict.RAISED)
"""The function came to its end. (Such a name is read in a tenth of the time of the two.)"""


@dataclass(slots=True, eq=False)
class Entry:
    """A job that is not settled, as the scheduler sees it."""

    job_id: int
    retries: int = 0
    timeout: float | None = None
    attempt: int = 1
    ticket: int = 0
    worker: int | None = None
    started_s: float | None = None
    sentence: Verdict | None = None
    """Why its worker is being killed, if the job is the reason."""

    @property
    def deadline_s(self) -> float:
        """When its time is used up; never while it does not run, or is being ended."""
        if self.timeout is None or self.started_s is None or self.sentence is not None:
            return math.inf
        return self.started_s + self.timeout

    def leave_worker(self) -> None:
        """It waits again, for a worker and a ticket of its own."""
        self.worker = self.started_s = self.sentence = None
        self.ticket = 0


@dataclass(slots=True)
class StartWorker:
    """Start a process for this worker."""

    worker: int


@dataclass(slots=True)
class StopWorker:
    """Let this worker leave: it has nothing to do."""

    worker: int


@dataclass(slots=True)
class KillWorker:
    """End this worker and its group at once."""

    worker: int


@dataclass(slots=True)
class Dispatch:
    """Send the job to the worker."""

    worker: int
    entry: Entry


@dataclass(slots=True)
class Recall:
    """Ask the worker for the jobs that it has not started."""

    worker: int


@dataclass(slots=True)
class Unclaim:
    """The job came back from a worker and waits: its owner may cancel it again."""

    entry: Entry


@dataclass(slots=True)
class RunAgain:
    """The attempt failed and another one will follow: drop what it had written."""

    entry: Entry
    verdict: Verdict


@dataclass(slots=True)
class Settle:
    """The job is over."""

    entry: Entry
    verdict: Verdict


Action = StartWorker | StopWorker | KillWorker | Dispatch | Recall | Unclaim | RunAgain | Settle
