"""The exceptions of collector: what happened, to which job or path, and what to do about it.

Those of a dead process are in `crash_errors`.

Invariants: I1  every error pickles: its constructor arguments are positional and equal to `args`.
            I2  every error is also the built-in that a caller would already catch.
"""

import errno
import os
import signal as signals
from typing import Final

from collector.checks import number

_NAME_CHARS: Final = 1000
"""Longest name of a resource: no more is believed of what a worker says."""


class CollectorError(Exception):
    """Base of every error that collector raises on its own account."""


class JobError(CollectorError):
    """One job failed; the others go on.

    Attributes:
        job_id: Number of the job in its Collector.
        name: Name of the job.
        attempt: Which attempt failed; the first is 1.
    """

    def __init__(self, message: str, job_id: int = 0, name: str = "", attempt: int = 1) -> None:
        super().__init__(message, job_id, name, attempt)
        self.message = message
        self.job_id = job_id
        self.name = name
        self.attempt = attempt

    def __str__(self) -> str:
        return self.message


class JobTimeoutError(JobError, TimeoutError):
    """The job ran longer than its time-out and was killed with all processes of its group."""

    def __init__(self, message: str, job_id: int = 0, name: str = "", attempt: int = 1) -> None:
        super().__init__(message, job_id, name, attempt)
        # An OSError takes several arguments for its number, its text and a path.
        self.errno = self.strerror = self.filename = None
        self.args = (message, job_id, name, attempt)


class JobKilledError(JobError):
    """The job was ended by `job.kill()`; it is never run again."""


class RetryLater(CollectorError):  # noqa: N818 - raised by a job to ask for something
    """A job raises it to be run later: no failure, and none of its retries is used up.

    The gate of the resource is closed for so long for every job of it, and opens for one job first;
    if that one asks again, another one is next.

    Args:
        after: Seconds.
        resource: Whose gate; by default that of the job's own resource (`with_options(resource=)`),
            and where it has none, only this job waits.
        message: Why, for people.

    Raises:
        TypeError: An argument of a wrong type.
        ValueError: A time that is below 0, or not finite; a name of more than 1,000 characters.
    """

    # Also of a subclass that does not call `__init__`.
    after: float = 60.0
    resource: str | None = None
    message: str = ""

    def __init__(self, after: float = 60.0, resource: str | None = None, message: str = "") -> None:
        self.after = number("after", after, kind="a number of seconds")
        self.resource = _resource(resource)
        self.message = message
        super().__init__(self.after, resource, message)

    def __str__(self) -> str:
        of = f" (resource {self.resource})" if self.resource else ""
        why = f": {self.message}" if self.message else ""
        return f"asks to be run again in {self.after:g} s{of}{why}"


def _resource(resource: object) -> str | None:
    if resource is not None and not isinstance(resource, str):
        raise TypeError(f"resource must be a str, not {resource!r}")
    if resource is not None and len(resource) > _NAME_CHARS:
        raise ValueError("the name of a resource is longer than 1,000 characters")
    return resource


def asked_by(error: RetryLater) -> tuple[float, str]:
    """Return how long a job asks to wait, and at whose gate; a subclass may have set anything.

    Raises:
        TypeError: As `RetryLater`.
        ValueError: As `RetryLater`.
    """
    after = number("after", error.after, kind="a number of seconds")
    return after, _resource(error.resource) or ""


class BatchHaltedError(CollectorError):
    """`collect` has stopped before its last input: at `halt=` or `budget=`.

    Attributes:
        reason: Why, in a sentence.
        done: Jobs that have ended and were yielded.
        left: Jobs that were submitted and have not ended: their inputs are to be run again.
    """

    def __init__(self, message: str, reason: str = "", done: int = 0, left: int = 0) -> None:
        super().__init__(message, reason, done, left)
        self.message = message
        self.reason = reason
        self.done = done
        self.left = left

    def __str__(self) -> str:
        return self.message


class ClosedError(CollectorError, ValueError):
    """You used something after you had finalized, disposed or closed it."""


class _PathError(CollectorError, OSError):
    """An OSError of ours: errno, what failed, and the path."""

    def __init__(self, number: int, message: str, path: str | os.PathLike[str] = "") -> None:
        OSError.__init__(self, number, message, os.fspath(path) or None)

    def __reduce__(self) -> tuple[type, tuple[int | None, str | None, str]]:
        return type(self), (self.errno, self.strerror, self.filename or "")


class SpillError(_PathError):
    """The bytes of an output could not be written: disk full, permission, too many files."""


class OutputLostError(_PathError):
    """Somebody else removed, truncated or replaced the file of an output."""


class RunDirectoryError(_PathError):
    """The temp root cannot be created, trusted or locked."""


class BatchError(_PathError):
    """A batch directory cannot be used: it is none, or another's, or in use, or cannot be read."""


SPARE_IT: Final = (
    "have whatever cleans up temporary files spare that place, or give another temp_root"
)
"""What to do about a file or directory that something else than collector has removed."""


class ProtocolError(CollectorError):
    """Two processes of a Collector disagree about what was said: a bug, never the user's fault."""


EXIT_SINK_GONE: Final = 70
"""Status of a worker that leaves because nobody reads its queue any more."""

EXIT_BROKEN_OFF: Final = 113
"""Status of a worker that leaves because an exception broke off a write to the output."""

EXIT_DESCRIPTOR_LOST: Final = 114
"""Status of a worker that leaves because its job has closed or replaced a descriptor of ours."""


def describe_exit(exitcode: int | None) -> str:
    """Say in words how a process ended, for messages.

    Args:
        exitcode: As `multiprocessing.Process.exitcode`; None if unknown.
    """
    if exitcode is None:
        return "died (its exit status could not be learned)"
    if exitcode == EXIT_BROKEN_OFF:
        return (
            f"exited with status {exitcode}: as a worker does when an exception, of a signal "
            "handler for example, breaks off a write to the output, which is not exact any more"
        )
    if exitcode == EXIT_DESCRIPTOR_LOST:
        return (
            f"exited with status {exitcode}: as a worker does when its job has closed or replaced "
            "the worker's own descriptors (os.closerange, os.dup2, a library that makes a daemon "
            "of its process): close only what the job has opened, or do it in a subprocess"
        )
    if exitcode >= 0:
        return f"exited with status {exitcode}"
    try:
        name = signals.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    hint = ", possibly out of memory" if -exitcode == signals.SIGKILL else ""
    return f"was killed by {name} (signal {-exitcode}{hint})"


def spill_error(error: OSError, path: str | os.PathLike[str]) -> SpillError:
    """Turn an OSError met while writing an output into a SpillError that names the path."""
    number = error.errno or errno.EIO
    return SpillError(number, f"cannot write the output: {error.strerror or error}", path)
