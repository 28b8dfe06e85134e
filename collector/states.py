"""How a state machine moves: by its table, and not otherwise.

A machine is an enum of states, an enum of events and `TABLE[state][event]`, in the module that owns
the thing; `docs/architecture.md` shows each table, made from the code.
"""

import enum
from collections.abc import Mapping
from typing import TypeVar

from collector.errors import ProtocolError


class TableEnum(enum.Enum):
    """An enum of states or of events: `TABLE` finds its members by what they are.

    Each is there once, so that this is the same as by their names, and takes a tenth of the time.
    """

    __hash__ = object.__hash__


S = TypeVar("S", bound=enum.Enum)
E = TypeVar("E", bound=enum.Enum)


def move(table: Mapping[S, Mapping[E, S]], state: S, event: E) -> S:
    """Return the state that follows.

    Raises:
        ProtocolError: The event cannot be in this state.
    """
    try:
        return table[state][event]
    except KeyError:
        raise ProtocolError(f"{event.value!r} cannot be in the state {state.name}") from None
