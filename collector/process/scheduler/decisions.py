"""What the scheduler decides about a job, and where that is: values, and nothing else.

Nobody changes an action; frozen ones take three times as long to make.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from collector.process.scheduler.retries import NO_REMARK, Cause, Remark, Retry
from collector.states import TableEnum, move
from collector.wire.messages import JobEnded
from collector.wire.outcome import Outcome

NOT_AGAIN: Final = "was not run again: nobody waits for it any more"
"""Why a job ends so that had failed before."""


class End(NamedTuple):
    """All that is known of how an attempt ended: made once, and handed on."""

    outcome: Outcome
    said: JobEnded | None = None
    """What the sink sealed; None when nothing ran, or the sink was lost."""
    exitcode: int | None = None
    """Of the worker that died, if one did."""
    reason: str = ""
    """Why the worker died or was given up, or why the Collector broke, if that is known."""
    out_of_memory: bool = False
    """Its control group has counted a process that was killed for its memory."""

    def called(self, outcome: Outcome) -> "End":
        """Return the same end by another name: the attempt had been condemned before."""
        return self if outcome is self.outcome else self._replace(outcome=outcome)


class State(TableEnum):
    """Where a job is that was submitted and not cancelled by its owner."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    """It is at a worker and may have begun: the START of a short job is not told to the parent."""
    RUNNING = "running"
    SETTLED = "settled"


class Event(TableEnum):
    """What moves a job to another state."""

    SENT = "sent"
    STARTED = "started"
    LEFT = "left"
    """It left the worker, for another attempt or because it had not started."""
    ENDED = "ended"


TABLE: Final = {
    State.QUEUED: {Event.SENT: State.DISPATCHED, Event.ENDED: State.SETTLED},
    State.DISPATCHED: {
        Event.STARTED: State.RUNNING,
        Event.LEFT: State.QUEUED,
        Event.ENDED: State.SETTLED,
    },
    State.RUNNING: {
        Event.STARTED: State.RUNNING,  # a worker that is not to be trusted may say it twice
        Event.LEFT: State.QUEUED,
        Event.ENDED: State.SETTLED,
    },
    State.SETTLED: {},
}
_SENT, _LEFT, _ENDED = (
    Event.SENT,
    Event.LEFT,
    Event.ENDED,
)  # read in a tenth of the time


@dataclass(slots=True, eq=False)
class Entry:
    """A job that is not settled, as the scheduler sees it."""

    job_id: int
    retries: int = 0
    timeout: float | None = None
    attempt: int = 1
    ticket: int = 0
    worker: int | None = None
    started_s: float = math.inf
    """Since when its time runs, at the earliest; if `loaded`, exactly."""
    loaded: bool = False
    sentence: Outcome | None = None
    """Why its worker is being killed, if the job is the reason."""
    state: State = State.QUEUED
    retry: Retry | None = None
    """How often it is run again by cause; None if `retries` counts all causes together."""
    used: dict[Cause, int] | None = None
    """How often it was run again, by cause."""
    resource: str = ""
    """What it shares with others, at whose gate it waits; empty for nothing."""
    alone: bool = False
    """Whether no other job may run beside it."""
    remark: Remark = NO_REMARK
    """What its worker has said of the attempt that runs."""

    @property
    def deadline_s(self) -> float:
        """When its time is used up; never while it does not run, or is being ended."""
        if self.timeout is None or self.sentence is not None:
            return math.inf
        return self.started_s + self.timeout

    def seen(self, loaded_s: float | None, now_s: float, pause_s: float = 0.0) -> None:
        """Set since when its time runs.

        Args:
            loaded_s: When its worker had loaded the call; None if it has not yet.
            now_s: The time.
            pause_s: A pause since then that does not count.
        """
        self.started_s = now_s if loaded_s is None else min(loaded_s + pause_s, now_s)
        self.loaded = loaded_s is not None

    def go_to(self, worker: int, ticket: int) -> None:
        """It is sent to this worker, as the attempt of this number."""
        self.state = move(TABLE, self.state, _SENT)
        self.worker, self.ticket = worker, ticket

    def begin(self, now_s: float) -> None:
        """It runs, since now at the latest."""
        self.state = move(TABLE, self.state, Event.STARTED)
        self.started_s = now_s

    def leave_worker(self) -> None:
        """It waits again, for a worker and a ticket of its own."""
        self.state = move(TABLE, self.state, _LEFT)
        self.worker = self.sentence = None
        self.ticket, self.started_s, self.loaded = 0, math.inf, False
        self.remark = NO_REMARK

    def count(self, cause: Cause) -> int:
        """Count one more run for this cause; returns the runs for all causes but `RetryLater`."""
        used = self.used = self.used or {}
        used[cause] = used.get(cause, 0) + 1
        return sum(count for other, count in used.items() if other is not Cause.LATER)


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
class TerminateWorker:
    """Ask this worker to end, by SIGTERM."""

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
class LookIfLoaded:
    """See when its worker has loaded the call of the job; a pause since then does not count."""

    entry: Entry
    pause_s: float = 0.0


@dataclass(slots=True)
class Unclaim:
    """The job came back from a worker and waits: its owner may cancel it again."""

    entry: Entry


@dataclass(slots=True)
class RunAgain:
    """The attempt failed and another one will follow: drop what it had written."""

    entry: Entry
    end: End


@dataclass(slots=True)
class RunLater:
    """The attempt asked to be made later, which is no failure: drop what it had written."""

    entry: Entry
    end: End


@dataclass(slots=True)
class Settle:
    """The job is over."""

    entry: Entry
    end: End


def settle(entry: Entry, end: End) -> Settle:
    """Decide that the job is over; a second time is an error."""
    entry.state = move(TABLE, entry.state, _ENDED)
    return Settle(entry, end)


Action = (
    StartWorker
    | StopWorker
    | KillWorker
    | TerminateWorker
    | Dispatch
    | Recall
    | LookIfLoaded
    | Unclaim
    | RunAgain
    | RunLater
    | Settle
)
