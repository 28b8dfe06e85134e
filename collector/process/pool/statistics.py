"""What a Collector is doing: a value that anybody may ask for, in any thread, without waiting.

Runs in:    the parent. Nothing is counted for it that is not counted anyway.
"""

import itertools
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, final

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
class Coming:
    """What one `collect` has still to submit.

    Args:
        label: The batch directory, or the text that `collect` was given, or "".
        total: How many inputs there are; None if nobody knows.
        numbers: Gives each job of the pool its number.

    Attributes:
        label: As given.
        total: As given, until its last input is known.
        numbers: Gives each job of this `collect` its number, and counts it. Both are one call of C
            code, so that whoever asks in another thread finds both or neither.
    """

    def __init__(self, label: str, total: int | None, numbers: Iterator[int]) -> None:
        self.label = label
        self.total = total
        self._given = itertools.count()
        self.numbers: Final = map(operator.itemgetter(0), zip(numbers, self._given, strict=False))

    @property
    def given(self) -> int:
        """How many jobs have a number."""
        return next_of(self._given)


def next_of(numbers: "itertools.count[int]") -> int:
    """Return what a counter will give next; only its text tells, in every version of Python."""
    return int(repr(numbers).strip("count()"))


def still_to_come(coming: Iterable[Coming]) -> int | None:
    """Return how many inputs have no job yet; None while that is not known."""
    left = 0
    for one in coming:
        if one.total is None:
            return None
        left += max(0, one.total - one.given)
    return left
