"""Why an attempt failed, whether another one follows, and when.

Pure: the random number of a jitter is given.
"""

import enum
import math
from typing import Final, NamedTuple, final

from collector.checks import number, whole
from collector.wire.outcome import Outcome


class Cause(enum.Enum):
    """Why an attempt did not succeed; each has a count of its own in a `Retry`."""

    CRASH = "crash"
    """Its worker died, or the sink did."""
    TIMEOUT = "timeout"
    OOM = "oom"
    """It ran out of memory: killed for it by the kernel, or with a `MemoryError`."""
    ERROR = "error"
    """It raised, or its output could not be kept."""
    LATER = "later"
    """It asked to be run later."""


class Later(NamedTuple):
    """What a job asks for that raises `RetryLater`."""

    after_s: float
    resource: str
    """Whose gate is to close; empty for that of the job's own resource."""


class Remark(NamedTuple):
    """What a worker has said of an attempt beside its output."""

    kinds: frozenset[str] = frozenset()
    """Names of the class of what it raised, and of the bases."""
    later: Later | None = None


NO_REMARK: Final = Remark()
_ERRORS_OF_OURS: Final = frozenset(
    {
        "collector.errors.CollectorError",
        "builtins.OSError",
        "builtins.Exception",
        "builtins.BaseException",
    }
)
_BY_THE_DISK: Final = {
    Outcome.SPILL_FAILED: _ERRORS_OF_OURS | {"collector.errors.SpillError"},
    Outcome.LOST: _ERRORS_OF_OURS | {"collector.errors.OutputLostError"},
}
"""The names of what a job fails with, and of the bases, where its function has raised nothing."""
_OUT_OF_MEMORY: Final = "builtins.MemoryError"


@final
class Retry:
    """How often a job is run again after each cause of a failure, and how long it waits before.

    Args:
        crash: So often after the death of its worker.
        timeout: So often after it had run longer than its time-out.
        oom: So often after it ran out of memory: killed for it by the kernel (the job's control
            group has counted that), or with a `MemoryError`. It then runs alone.
        error: So often after an exception of one of the types in `on`.
        later: So often after it raised `RetryLater`; None for as often as it does.
        delay: Seconds before it runs again for the first time.
        factor: Each further wait is so many times as long as the last one.
        max_delay: The longest wait, in seconds, before its jitter.
        jitter: Each wait is up to this part of it shorter or longer, at random; from 0 to 1.
        on: Types of exceptions, as `except` has them; others are not retried. Without `error`
            none is.

    Raises:
        ValueError: A number that makes no sense.
        TypeError: An argument of a wrong type.
    """

    __slots__ = (
        "crash",
        "delay",
        "error",
        "factor",
        "jitter",
        "kinds",
        "later",
        "max_delay",
        "on",
        "oom",
        "timeout",
    )

    def __init__(  # noqa: PLR0913 - one for each cause, and what a wait is made of
        self,
        *,
        crash: int = 2,
        timeout: int = 1,
        oom: int = 3,
        error: int = 0,
        later: int | None = None,
        delay: float = 1.0,
        factor: float = 2.0,
        max_delay: float = 300.0,
        jitter: float = 0.1,
        on: type[BaseException] | tuple[type[BaseException], ...] = (Exception,),
    ) -> None:
        self.crash = whole("crash", crash, least=0)
        self.timeout = whole("timeout", timeout, least=0)
        self.oom = whole("oom", oom, least=0)
        self.error = whole("error", error, least=0)
        self.later = None if later is None else whole("later", later, least=0)
        self.delay = number("delay", delay, least=0.0)
        self.factor = number("factor", factor, least=1.0)
        self.max_delay = number("max_delay", max_delay, least=0.0)
        self.jitter = number("jitter", jitter, least=0.0)
        if self.jitter > 1.0:
            raise ValueError(f"jitter must be from 0 to 1; it is {jitter}")
        self.on = on if isinstance(on, tuple) else (on,)
        self.kinds: Final = frozenset(map(_exception_name, self.on))

    def __repr__(self) -> str:
        given = ((name, getattr(self, name)) for name in self._names())
        return f"Retry({', '.join(f'{name}={value!r}' for name, value in given)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Retry):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._names())

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self._names()))

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in cls.__slots__ if name != "kinds"]

    def most(self, cause: Cause) -> float:
        """Return how often a job is run again after this cause."""
        if cause is Cause.LATER:
            return math.inf if self.later is None else self.later
        count: int = getattr(self, cause.value)
        return count

    def wait_s(self, count: int, chance: float) -> float:
        """Return how long to wait before a job is run again for the so many-th time.

        Args:
            count: From 1.
            chance: A random number from 0 to 1, for the jitter.
        """
        try:
            wait_s = min(self.delay * self.factor ** (count - 1), self.max_delay)
        except OverflowError:
            wait_s = self.max_delay if self.delay else 0.0
        return wait_s * (1.0 + self.jitter * (2.0 * chance - 1.0))


def cause_of(outcome: Outcome, remark: Remark, *, out_of_memory: bool) -> Cause:
    """Return why an attempt has failed."""
    if outcome is Outcome.TIMED_OUT:
        return Cause.TIMEOUT
    if out_of_memory:
        return Cause.OOM
    if outcome in _BY_THE_DISK:
        return Cause.ERROR
    if outcome is not Outcome.RAISED:
        return Cause.CRASH
    if remark.later is not None:
        return Cause.LATER
    return Cause.OOM if _OUT_OF_MEMORY in remark.kinds else Cause.ERROR


def is_retried(retry: Retry, outcome: Outcome, remark: Remark, cause: Cause, used: int) -> bool:
    """Whether another attempt follows, after so many for this cause."""
    if used >= retry.most(cause):
        return False
    if cause is not Cause.ERROR:
        return True
    kinds = _BY_THE_DISK.get(outcome, remark.kinds)
    return not kinds.isdisjoint(retry.kinds)


def kind_name(kind: type) -> str:
    """Return what a class of exceptions is called in parent and worker alike."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _exception_name(kind: object) -> str:
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise TypeError(f"on must be types of exceptions, not {kind!r}")
    return kind_name(kind)
