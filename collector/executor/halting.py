"""When a batch stops before its last input: at a condition on ended jobs, or on what was spent.

Runs in:    any process; pure.
"""

import enum
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, Self, final

from collector.checks import number

_TEXT: Final = re.compile(
    r"(now|soon),(?:(fail|success|done)=([1-9][0-9]{0,9})(%?)|(same)=([1-9][0-9]{0,9}))", re.ASCII
)
_SHOWN_CHARS: Final = 500
_LEAST_QUOTED: Final = 4
"""A shorter input may be any part of a message."""


class Urgency(enum.Enum):
    """What becomes of running jobs."""

    SOON = "soon"
    """They run to their end."""
    NOW = "now"
    """They are ended."""


class Halt(NamedTuple):
    """A condition on which no further job starts.

    Attributes:
        urgency: What becomes of those that run.
        what: Which ends count: "fail", "success", "done", or "same" (equal failures in a row).
        number: So many of them.
        percent: Whether the number is one of a hundred jobs.
    """

    urgency: Urgency
    what: str
    number: int
    percent: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the condition that a text states.

        Raises:
            ValueError: It states none.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError(
                f"{text!r} is no condition: write now or soon, a comma, and fail=N, success=N or "
                "done=N, where N may be a percentage, or same=N for equal failures in a row: "
                "soon,fail=10%"
            )
        what, number = found[2] or found[5], int(found[3] or found[6])
        return cls(Urgency(found[1]), what, number, bool(found[4]))


def checked_budget(budget: object) -> dict[str, float]:
    """Return a budget: bounds by the names of meters.

    Raises:
        TypeError: It is none.
        ValueError: A bound that makes no sense.
    """
    if not isinstance(budget, Mapping):
        raise TypeError(f"budget must be a mapping of meters to bounds, not {budget!r}")
    for name, bound in budget.items():
        if not isinstance(name, str):
            raise TypeError(f"the name of a meter must be a str, not {name!r}")
        if not number(f"the budget of {name!r}", bound) > 0:
            raise ValueError(f"the budget of {name!r} must be more than 0; it is {bound}")
    return {name: float(bound) for name, bound in budget.items()}


@final
class Halting:
    """Counts what ends and what is spent, and decides when to stop.

    Args:
        halt: The condition on ends, if there is one.
        budget: Bounds of meters, by name.
        spent: What earlier runs of the batch have spent already.
    """

    def __init__(
        self,
        halt: Halt | None = None,
        budget: Mapping[str, float] | None = None,
        spent: Mapping[str, float] | None = None,
    ) -> None:
        self.done = self.failed = 0
        self.total: int | None = None
        """How many jobs there are; None while that is not known: then no percentage is reached."""
        self.reason = ""
        """Why the batch stops; empty as long as it goes on."""
        self.urgency = Urgency.SOON
        self._halt = halt
        self._budget = dict(budget or {})
        self._spent: Counter[str] = Counter()
        self._last = ""
        self._in_a_row = 0
        self.spend(spent or {})

    @property
    def may_halt(self) -> bool:
        """Whether there is a condition on ends."""
        return self._halt is not None

    def spend(self, meters: Mapping[str, float]) -> bool:
        """A job has counted so much more; returns whether the batch is to stop."""
        for name, value in meters.items():
            if name in self._budget:
                self._spent[name] += value  # type: ignore[assignment]
                if not self.reason and self._spent[name] >= self._budget[name]:
                    self.reason = (
                        f"the budget of {name} is used up: {self._spent[name]:.15g} of "
                        f"{self._budget[name]:.15g} (raise it to go on)"
                    )
        return bool(self.reason)

    def ended(self, failure: str | None) -> bool:
        """A job has ended, with this failure if it has failed; returns whether to stop.

        Failures are equal if their texts are.
        """
        self.done += 1
        if failure is not None:
            self.failed += 1
            self._in_a_row = self._in_a_row + 1 if failure == self._last else 1
            self._last = failure
        else:
            self._in_a_row = 0
        return self._look()

    def expect(self, total: int) -> bool:
        """There are so many jobs, as is known only now; returns whether to stop."""
        self.total = total
        return self._look()

    def _look(self) -> bool:
        halt = self._halt
        if halt is not None and not self.reason and self._is_reached(halt):
            self.reason, self.urgency = self._sentence(halt), halt.urgency
        return bool(self.reason)

    def _count(self, halt: Halt) -> int:
        counts = {
            "fail": self.failed,
            "success": self.done - self.failed,
            "done": self.done,
            "same": self._in_a_row,
        }
        return counts[halt.what]

    def _is_reached(self, halt: Halt) -> bool:
        count = self._count(halt)
        if not halt.percent:
            return count >= halt.number
        return self.total is not None and 0 < halt.number * self.total <= count * 100

    def _sentence(self, halt: Halt) -> str:
        if halt.what == "same":
            count = self._in_a_row
            alike = f"{count} jobs in a row failed alike" if count > 1 else "1 job has failed"
            return f"{alike}: {self._last[:_SHOWN_CHARS]}"
        words = {"fail": "failed", "success": "succeeded", "done": "ended"}[halt.what]
        share = f" (of {self.total})" if halt.percent else ""
        count = self._count(halt)
        return f"{f'{count} jobs have' if count != 1 else '1 job has'} {words}{share}"


def failure_text(error: BaseException, names: Iterable[str] = ()) -> str:
    """Return what makes failures equal: the type and the text, without what is the job's own.

    Args:
        error: What the job has failed with.
        names: Its name and its input, which many messages quote.
    """
    from collector.process.pickling.calls import text_of  # noqa: PLC0415 - is loaded by now

    kind, text = type(error).__qualname__, without(text_of(error), names)
    return f"{kind}: {text}" if text else kind


def quotable(inputs: Iterable[object]) -> list[str]:
    """Return those inputs that are told from other words where a message quotes them."""
    return [item for item in inputs if isinstance(item, str) and len(item) >= _LEAST_QUOTED]


def without(text: str, names: Iterable[str]) -> str:
    """Return a text with dots for each of the names."""
    for name in sorted(filter(None, names), key=len, reverse=True):
        text = text.replace(name, "...")
    return text
