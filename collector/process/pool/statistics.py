"""What a Collector is doing: a value that anybody may ask for, in any thread, without waiting.

Runs in:    the parent. Nothing is counted for it that is not counted anyway.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from collector.store.output.progress import Mode


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJob:
    """A job that runs, as of a moment.

    Attributes:
        id: Its number in its Collector.
        name: Its name.
        attempt: Which attempt runs; the first is 1.
        seconds: For how long it has been running.
        bytes: How much it has written, up to 0.1 s ago.
        mode: Where that is.
    """

    id: int
    name: str
    attempt: int
    seconds: float
    bytes: int
    mode: Mode


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What a Collector is doing, as of a moment.

    Attributes:
        waiting: Jobs that were submitted and are not known to run. A job that runs is known to
            after some milliseconds.
        running: The jobs that run, the one that has run for longest first.
        done: Jobs that are over, failed ones too, without cancelled ones.
        failed: Those of them that have failed.
        total: Jobs that there will be, without cancelled ones: those that were submitted, and what
            each running `collect` has still to submit; None while that is not known.
        bytes: What all of them have written: those that are over, and those that run.
        memory_bytes: What their outputs hold in memory: running ones, and those that you have.
    """

    waiting: int
    running: tuple[RunningJob, ...]
    done: int
    failed: int
    total: int | None
    bytes: int
    memory_bytes: int


@final
@dataclass(slots=True, eq=False)
class Coming:
    """What one `collect` has still to submit.

    Attributes:
        label: The batch directory, or the text that `collect` was given, or "".
        total: How many inputs there are; None if nobody knows.
        taken: How many of them were taken.
    """

    label: str
    total: int | None
    taken: int = 0


def still_to_come(coming: Iterable[Coming]) -> int | None:
    """Return how many inputs are still to be taken; None while that is not known."""
    left = 0
    for one in coming:
        if one.total is None:
            return None
        left += max(0, one.total - one.taken)
    return left
