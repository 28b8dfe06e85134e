"""What a report is made of: a batch, its jobs, and the attempts of each.

Runs in:    any process; pure.
Invariants: I1  the jobs of a report can be gone through again, and are the same then.
            I2  nothing of a job is held longer than it is looked at.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

DONE: Final = "done"
FAILED: Final = "failed"
RUNNING: Final = "running"
INTERRUPTED: Final = "interrupted"
WAITING: Final = "waiting"
STATUSES: Final = (DONE, FAILED, RUNNING, INTERRUPTED, WAITING)
"""What a job may be, in the order in which reports count them. A job that has started and not ended
is running while the process lives that writes the batch, and interrupted when it does not."""


class Worker(NamedTuple):
    """A worker of one of the processes that run a batch.

    Attributes:
        shard: Name of what that process adds; "" where it has everything.
        number: Among the workers of that process.
    """

    shard: str
    number: int

    def __str__(self) -> str:
        """Name it, as reports do."""
        return f"{self.shard}/{self.number}" if self.shard else str(self.number)


class Attempt(NamedTuple):
    """One attempt of a job, which has ended.

    Attributes:
        number: The first is 1.
        status: `done`, `error`, `crash`, `timeout`, `killed` or `oom`.
        start: Seconds since the epoch, as `end`.
        worker: Which worker ran it, if that is known.
        exitcode: Of the process, if one died; a negative one is a signal.
        size: Bytes of its output.
        kind: Type of the exception; "" if there is none.
        error: Text of the exception.
        traceback: Of the exception.
    """

    number: int
    status: str
    start: float
    end: float
    worker: Worker | None = None
    exitcode: int | None = None
    size: int = 0
    kind: str = ""
    error: str = ""
    traceback: str = ""

    @property
    def seconds(self) -> float:
        """How long it took; a clock that was set back makes no negative time."""
        return max(0.0, self.end - self.start)

    @property
    def why(self) -> str:
        """Why it failed: the exception, or how its process ended."""
        if self.kind or self.error:
            return (
                f"{self.kind}: {self.error}" if self.kind and self.error else self.kind + self.error
            )
        if self.exitcode is None:
            return self.status
        end = f"signal {-self.exitcode}" if self.exitcode < 0 else f"exit status {self.exitcode}"
        return f"{self.status}: {end}"


def _no_log() -> bytes:
    return b""


class ReportedJob(NamedTuple):
    """One job of a batch.

    Attributes:
        key: Its key in the batch.
        name: Its name.
        input: Its input, as text.
        status: One of `STATUSES`.
        attempts: Those that have ended, the last one last.
        meters: Sum over its attempts, also those of which nothing else is known.
        since: When the attempt began that has not ended, if one is known.
        log_tail: Reads the last bytes of its last attempt's log.
    """

    key: str
    name: str
    input: str
    status: str
    attempts: tuple[Attempt, ...] = ()
    meters: Mapping[str, float] = {}
    since: float | None = None
    log_tail: Callable[[], bytes] = _no_log

    @property
    def last(self) -> Attempt | None:
        """The last attempt that has ended."""
        return self.attempts[-1] if self.attempts else None

    @property
    def is_flaky(self) -> bool:
        """Whether it failed, and was done when it ran again."""
        return self.status == DONE and any(each.status != DONE for each in self.attempts)


class Session(NamedTuple):
    """One process that ran jobs of the batch.

    Attributes:
        time: When it began, in seconds since the epoch.
        host: Where.
        version: Of collector.
        python: Of Python.
    """

    time: float
    host: str
    version: str
    python: str


class ReportedBatch(NamedTuple):
    """A batch as it is when the report is made.

    Attributes:
        name: Of its directory, without where that lies.
        what: What is run: `module:function`, or the command's template.
        time: When the report is made, in seconds since the epoch.
        inputs: How many inputs there are, if that is known.
        is_running: Whether a process is writing to it.
        sessions: The processes that have run jobs, the first one first.
        meters: What its jobs have counted together, by name; also those that are not listed.
        unreadable: How many lines of the journal count as not there.
    """

    name: str
    what: str
    time: float
    inputs: int | None = None
    is_running: bool = False
    sessions: tuple[Session, ...] = ()
    meters: Mapping[str, float] = {}
    unreadable: int = 0


Jobs = Iterable[ReportedJob]
"""To be gone through more than once (I1): no iterator."""
