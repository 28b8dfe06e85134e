"""How a job that failed has ended, and what the exit status of a batch of commands says.

Runs in:    any process; pure.
Source:     the exit statuses are those of GNU parallel, where 101 means more than 100 failures.
"""

import math
from typing import Final, NamedTuple, Self

from collector.executor.halting import Halt, Halting

MANY_FAILED: Final = 101
OTHER_ERROR: Final = 255
_MOST_COUNTED: Final = 100
_SIGNALLED: Final = 128


class Died(NamedTuple):
    """How a job that failed has ended: with an exit status, by a signal, or neither."""

    exitcode: int | None = None
    signal: int | None = None

    @classmethod
    def of(cls, code: int) -> Self:
        """Return what a journal says with one number, of which a negative one is a signal."""
        return cls(None, -code) if code < 0 else cls(code, None)

    @property
    def status(self) -> int:
        """What a shell would say of it."""
        if self.signal:
            return _SIGNALLED + self.signal
        return self.exitcode or 1


def exit_status(halting: Halting, halt: Halt | None, last: Died | None) -> int:
    """Return what the program ends with.

    Args:
        halting: Of the jobs that have ended.
        halt: When it was to stop.
        last: How the job has ended at which it stopped, if it failed.
    """
    if halt is not None and halting.reason and halt.what == "success":
        return 0
    if halt is not None and halt.percent and halting.total:  # also where it was never reached
        return min(_MOST_COUNTED, math.ceil(halting.failed * _MOST_COUNTED / halting.total))
    if halt is not None and halting.reason and halt.number == 1 and not halt.percent:
        return last.status if last else 0
    return halting.failed if halting.failed <= _MOST_COUNTED else MANY_FAILED
