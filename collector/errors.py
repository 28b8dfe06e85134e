"""The exceptions of collector: what happened, to which job or path, and what to do about it.

Those of a dead process are in `broken`.

Invariants: I1  every error pickles: its constructor arguments are positional and equal to `args`.
            I2  every error is also the built-in that a caller would already catch.
"""

import errno
import os
import signal as signals
from typing import Final


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


class ProtocolError(CollectorError):
    """Two processes of a Collector disagree about what was said: a bug, never the user's fault."""


EXIT_BROKEN_OFF: Final = 113
"""Status of a worker that leaves because an exception broke off a write to the output."""


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
