"""What an attempt of a command, or of a function, came to.

Runs in:    the parent; pure.
"""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from collector.batch.command.ended import CommandError, CommandTimeoutError, Ended
from collector.batch.command.exit_status import Died
from collector.batch.command.function import Returned
from collector.crash_errors import BrokenCollectorError, WorkerCrashError
from collector.errors import JobKilledError, JobTimeoutError, SpillError
from collector.executor.job import Job
from collector.process.pickling import calls

if TYPE_CHECKING:
    from collector.batch.record import AttemptRecord


class Outcome(NamedTuple):
    """What there is to say of an attempt that is over.

    Attributes:
        status: As in a journal; "" if the batch was stopped before it ran.
        start: Seconds since 1970.
        seconds: How long it ran.
        died: How, if it failed.
        why: The same in a few words.
        error: Its type and its text, for the journal.
        value: What a function returned, or raised, pickled.
        log_bytes: What a command wrote to stderr, if it said so.
        storable: Whether what it wrote is kept: not where the disk refused some of it.
        meters: What it has counted.
        slot: Where it ran, if that is known.
    """

    status: str
    start: float
    seconds: float
    died: Died | None = None
    why: str = ""
    error: tuple[str, str] | None = None
    value: bytes = b""
    log_bytes: int | None = None
    storable: bool = True
    meters: Mapping[str, float] = MappingProxyType({})
    slot: int | None = None

    @property
    def exitcode(self) -> int | None:
        """As a journal has it: a negative one is a signal."""
        if self.died is None:
            return 0 if self.log_bytes is not None else None
        return -self.died.signal if self.died.signal else self.died.exitcode


def outcome_of(job: Job[Any], since: float) -> Outcome:
    """Return the outcome of a job that is over; if it was cancelled, somebody has killed it."""
    if job.cancelled():
        return killed()
    error = job.exception()
    return succeeded(job.result(), since) if error is None else failed(error, since)


def killed() -> Outcome:
    """Return the outcome of a job that somebody has killed while it waited."""
    why = "killed while it waited"
    told = JobKilledError.__name__, why
    return Outcome("killed", time.time(), 0.0, Died(None, None), why, told)


def succeeded(value: object, since: float) -> Outcome:
    """Return the outcome of a job that returned this."""
    if isinstance(value, Ended):
        return Outcome(
            "done", value.start, value.seconds, log_bytes=value.log_bytes, slot=value.slot
        )
    if isinstance(value, Returned):
        ended = value.ended
        return Outcome("done", ended.start, ended.seconds, value=value.value, slot=ended.slot)
    return Outcome("done", since, max(0.0, time.time() - since))


def failed(error: BaseException, since: float) -> Outcome:
    """Return the outcome of a job that failed with this."""
    kind = type(error).__name__
    seconds = max(0.0, time.time() - since)
    match error:
        case CommandError():
            ended = error.ended
            died = Died(ended.exitcode, ended.signal)
            status = "timeout" if isinstance(error, CommandTimeoutError) else "error"
            facts = (kind, str(error))
            came = Outcome(status, ended.start, ended.seconds, died, str(error), facts)
            return came._replace(log_bytes=ended.log_bytes, slot=ended.slot)
        case WorkerCrashError():
            status, died = "crash", Died(error.exitcode, error.signal)
        case JobTimeoutError():
            status, died = "timeout", Died(None, None)
        case JobKilledError():
            status, died = "killed", Died(None, None)
        case _:
            status, died = "error", Died(1, None)
    text = calls.text_of(error)
    first = text.partition("\n")[0]
    why = f"{kind}: {first}" if first else kind
    told = (kind, text)
    storable = not isinstance(error, SpillError | BrokenCollectorError)
    pickled = calls.dump_exception(error) if status == "error" and storable else b""
    return Outcome(status, since, seconds, died, why, told, pickled, storable=storable)


def outcome_of_record(record: "AttemptRecord") -> Outcome:
    """Return the outcome of a job that an earlier run has finished, as it was said then."""
    died = None if record.status == "done" else Died.of(record.exitcode or 1)
    outcome = Outcome(record.status, record.start, record.seconds, died, record.error or "")
    return outcome._replace(meters=record.meters)


def not_kept(error: Exception, since: float) -> Outcome:
    """Return the outcome of a job whose output cannot be kept, or cannot get its name."""
    outcome = failed(error, since)
    why = calls.text_of(error)
    if isinstance(error, OSError) and error.strerror:
        why = f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return outcome._replace(why=why, error=(type(error).__name__, why))


def ended_with_batch(outcome: Outcome) -> Outcome:
    """Say of what was ended with the batch that it was, not how: it has no result."""
    return outcome._replace(why="killed with its worker") if outcome.status == "crash" else outcome
