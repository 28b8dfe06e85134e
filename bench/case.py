"""What a case is: one question, who answers it, and which ratios are to be reached.

A contender is a generator function that measures once for each `next`: it prepares, starts its
clock, works, stops it, cleans up, and yields seconds (or whatever the case makes its figure of;
several figures of one run as a dict). It runs in a process of its own (`bench/host.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

OURS: Final = "collector"
"""Name of the contender that is measured against the others."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Where a generator function is, and what it is called with."""

    function: str
    arguments: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio to be reached: of `collector`'s figure to the one of `against`.

    Attributes:
        against: Name of a contender; "" where `ratio` is not one, but the most that the figure
            may be, which then stands for the limit.
        ratio: At least that much, or at most where less is better.
        part: Which of several figures.
        what: Words behind the name of the case.
    """

    against: str
    ratio: float
    part: str = ""
    what: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One question.

    Attributes:
        name: Its name.
        unit: Of its figures.
        contenders: By name; one is `OURS`.
        figure: Makes the figure of what a contender yields.
        limit: Name of the contender that nothing can beat; "" if there is none.
        goals: Each makes a row; without any there is one row that has no goal.
        less_is_better: For times and memory.
        repetitions: How many, if not the usual number.
        warm_up: Whether the first repetition does not count.
    """

    name: str
    unit: str
    contenders: Mapping[str, Contender]
    figure: Callable[[float], float] = lambda seconds: seconds
    limit: str = ""
    goals: tuple[Goal, ...] = field(default=())
    less_is_better: bool = False
    repetitions: int | None = None
    warm_up: bool = True


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        quick: Two minutes for all, rather than half an hour.
        repetitions: Of each contender of each case, after one that does not count.
    """

    quick: bool
    repetitions: int

    def pick(self, full: int, quick: int) -> int:
        """Return an amount of work."""
        return quick if self.quick else full


def per_second(amount: float) -> Callable[[float], float]:
    """Return what makes a rate of the seconds that `amount` took."""
    return lambda seconds: amount / seconds


def times(factor: float) -> Callable[[float], float]:
    """Return what changes a unit."""
    return lambda figure: figure * factor
