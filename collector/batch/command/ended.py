"""How a command has ended.

Runs in:    the worker makes it, the parent reads it.
Invariants: I1  every error pickles: its constructor arguments are positional and equal to `args`.
"""

from typing import NamedTuple

from collector.errors import JobError, JobTimeoutError


class Ended(NamedTuple):
    """The facts of an attempt.

    Attributes:
        start: Seconds since 1970.
        seconds: How long it ran.
        log_bytes: What it wrote to stderr.
        exitcode: Its exit status, if it had one.
        signal: What killed it, if something did.
        slot: Where it ran.
    """

    start: float
    seconds: float
    log_bytes: int = 0
    exitcode: int | None = 0
    signal: int | None = None
    slot: int | None = None


class CommandError(JobError):
    """A command failed.

    Attributes:
        ended: How.
    """

    def __init__(
        self, message: str, job_id: int, name: str, attempt: int, facts: tuple[object, ...]
    ) -> None:
        super().__init__(message, job_id, name, attempt)
        self.args = (message, job_id, name, attempt, tuple(facts))
        self.ended = Ended(*facts)  # type: ignore[arg-type]


class CommandTimeoutError(CommandError, JobTimeoutError):
    """A command ran longer than its time limit, and was ended."""
