"""What a run is doing, and what changes that.

Runs in:    anywhere; pure.
States:     RUNNING -> DRAINING (a soft halt, or inputs that cannot be read: no job starts)
            RUNNING, DRAINING -> ENDING (a signal, a hard halt, nobody reads stdout: what runs gets
            SIGTERM, after the grace SIGKILL) -> KILLED (a second signal, or the grace is over)
"""

import enum
from collections.abc import Mapping
from typing import Final


class State(enum.Enum):
    """What is being done."""

    RUNNING = enum.auto()
    DRAINING = enum.auto()
    ENDING = enum.auto()
    KILLED = enum.auto()


class Event(enum.Enum):
    """What changes that."""

    SOFT_HALT = enum.auto()
    STOP = enum.auto()
    SIGNAL = enum.auto()
    GRACE_OVER = enum.auto()


TABLE: Final[Mapping[State, Mapping[Event, State]]] = {
    State.RUNNING: {
        Event.SOFT_HALT: State.DRAINING,
        Event.STOP: State.ENDING,
        Event.SIGNAL: State.ENDING,
    },
    State.DRAINING: {
        Event.SOFT_HALT: State.DRAINING,
        Event.STOP: State.ENDING,
        Event.SIGNAL: State.ENDING,
    },
    State.ENDING: {
        Event.SOFT_HALT: State.ENDING,
        Event.STOP: State.ENDING,
        Event.SIGNAL: State.KILLED,
        Event.GRACE_OVER: State.KILLED,
    },
    State.KILLED: {
        Event.SOFT_HALT: State.KILLED,
        Event.STOP: State.KILLED,
        Event.SIGNAL: State.KILLED,
        Event.GRACE_OVER: State.KILLED,
    },
}
"""A soft halt while jobs are ended changes nothing, and so on."""
