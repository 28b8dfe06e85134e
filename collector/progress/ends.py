"""What is said of the end of an attempt, and at which level.

Runs in:    anywhere: values.
"""

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, final

from collector import settings


@final
class Level(enum.StrEnum):
    """How much is said: each level says what those before it say, and more."""

    NONE = "none"
    FAIL = "fail"
    """Jobs that failed, or were ended before their time."""
    RETRY = "retry"
    """Attempts that failed and are followed by another; jobs that ended well after such."""
    SLOW = "slow"
    """Jobs that have run for long."""
    PASS = "pass"  # noqa: S105 - not a password
    """Jobs that ended well."""
    ALL = "all"
    """Starts; jobs from which no byte has come for long; those that were finished before."""

    def has(self, level: "Level") -> bool:
        """Tell whether what belongs to that level is said at this one."""
        return _RANK[level] <= _RANK[self]


_RANK: Final = {level: rank for rank, level in enumerate(Level)}


@final
class How(enum.StrEnum):
    """How a job, or one attempt of it, has ended."""

    PASSED = "passed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """It was begun, and ended for the batch was stopped: it neither passed nor failed."""


@final
class Ended(NamedTuple):
    """The end of one attempt.

    Attributes:
        job: Number of the job: any number that is its own within the batch.
        name: For people; what could steer a terminal is escaped when it is shown.
        how: How it ended.
        attempt: Which attempt it was; the first is 1.
        attempts: The most that the job could have had; None if nobody has said.
        again: Whether another attempt follows. Then the job is not over.
        resumed: Whether it was not run at all: an earlier run had finished it.
        seconds: How long the attempt ran.
        size_bytes: What it wrote.
        why: Why it failed or was ended, in a few words: "exit status 3", "killed by SIGKILL".
        tail: The end of what it printed on stderr.
        meters: What it has counted.
    """

    job: int
    name: str
    how: How = How.PASSED
    attempt: int = 1
    attempts: int | None = None
    again: bool = False
    resumed: bool = False
    seconds: float = 0.0
    size_bytes: int = 0
    why: str = ""
    tail: bytes = b""
    meters: Mapping[str, float] = MappingProxyType({})


def why(error: BaseException) -> str:
    """Return in a few words why a job failed: the type of its error and the first line of it."""
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - code of the user's, which may raise or exit: the job is over all the same
        text = ""
    first = next(iter(text[: settings.NAME_CHARS].splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def level_of(ended: Ended) -> Level:
    """Return the level to which an end belongs."""
    if ended.how is not How.PASSED:
        return Level.RETRY if ended.again else Level.FAIL
    if ended.resumed:
        return Level.ALL
    return Level.RETRY if ended.attempt > 1 else Level.PASS
