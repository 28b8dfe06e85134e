"""How an attempt ended: one word for it, from the worker's END to the `Future`."""

import enum
from typing import Final


class Outcome(enum.IntEnum):
    """How an attempt ended; each later group is the word of who alone can know it."""

    # The worker, as `detail` of its END frame.
    RETURNED = 0
    RAISED = 1
    # The sink, in `JobEnded`.
    CRASHED = 2
    """Its worker died, or had its queue given up."""
    SPILL_FAILED = 3
    LOST = 4
    # The parent, which alone says these, to itself.
    TIMED_OUT = 5
    KILLED = 6
    SINK_LOST = 7
    CANCELLED = 8
    """It was at a worker, had not started, and came back when nobody wanted it any more."""
    UNABLE = 9
    """The Collector broke before the job could run."""

    @property
    def words(self) -> str:
        """The same, to be read by a person."""
        return self.name.lower().replace("_", " ")


OUTCOMES: Final = tuple(Outcome)
"""By their numbers: a tenth of the time of a call."""

BY_ITS_FUNCTION: Final = (Outcome.RETURNED, Outcome.RAISED)
"""The function came to its end. (Such a name is read in a tenth of the time of the two.)"""
