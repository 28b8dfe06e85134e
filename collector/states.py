"""How a state machine moves: by its table, and not otherwise.

A machine is an enum of states, an enum of events and `TABLE[state][event]`, in the module that owns
the thing; `docs/architecture.md` shows each table, made from the code.
"""

import enum
from collections.abc import Mapping
from typing import TypeVar

from collector.errors import ProtocolError

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
