"""What the worker of one job may write to the end of the job's file itself, as the sink knows it.

Runs in:    the sink.
Owns:       nothing; the file is the SpillManager's.
States:     as `TABLE` says. A grant is made when a full slot was stored in a file: the output lies
            there, and the worker is quick. Once the worker publishes a slot after an extent, it
            writes no more to the file.
Invariants: I1  what is granted and not yet published is at most EXTENT_COUNT extents.
            I2  nothing counts that was not granted.
"""

from typing import Final, final

from collector import settings
from collector.errors import ProtocolError
from collector.states import TableEnum, move
from collector.store.spill import SpillManager
from collector.wire.credits import MOST_PATH_BYTES, Grant
from collector.wire.frames import Frame, PayloadPlace

_GRANTED_BYTES: Final = settings.EXTENT_BYTES * settings.EXTENT_COUNT


class State(TableEnum):
    """Who writes to the end of the file."""

    SLOTS = "slots"
    GRANTED = "granted"
    FILLING = "filling"
    SLOTS_AGAIN = "slots again"


class Event(TableEnum):
    """What was said: by the sink a grant, by the worker an extent or a slot that it publishes."""

    OFFER = "a grant"
    EXTENT = "an extent"
    SLOT = "a slot"


TABLE: Final = {
    State.SLOTS: {Event.OFFER: State.GRANTED, Event.SLOT: State.SLOTS},
    # What was in slots when the grant was made comes behind it.
    State.GRANTED: {Event.EXTENT: State.FILLING, Event.SLOT: State.GRANTED},
    State.FILLING: {Event.EXTENT: State.FILLING, Event.SLOT: State.SLOTS_AGAIN},
    State.SLOTS_AGAIN: {Event.SLOT: State.SLOTS_AGAIN},
}


@final
class FileGrant:
    """What one job has been granted.

    Args:
        ticket: Number of the attempt.
    """

    __slots__ = ("_end", "_state", "_ticket")

    def __init__(self, ticket: int) -> None:
        self._ticket = ticket
        self._state = State.SLOTS
        self._end = 0

    @property
    def is_out(self) -> bool:
        """Whether the worker may have written more to the file than it has published."""
        return self._state in (State.GRANTED, State.FILLING)

    def offer(self, frame: Frame, output: SpillManager) -> Grant | None:
        """Return the first grant, when a full slot was stored in a file: this worker is quick."""
        self._state = move(TABLE, self._state, Event.SLOT)
        full = frame.place == PayloadPlace.SLOT and frame.length == settings.SLOT_BYTES
        if self._state is not State.SLOTS or not full or output.in_memory:
            return None
        found = output.identify_file()
        if found is None or len(found[0]) > MOST_PATH_BYTES:
            return None
        self._state = move(TABLE, self._state, Event.OFFER)
        path, device, inode = found
        self._end = output.tell() + _GRANTED_BYTES
        return Grant(self._ticket, self._end, device, inode, path)

    def publish(self, frame: Frame, output: SpillManager) -> Grant | None:
        """Count an extent; returns the next grant when an extent of the last one is used up.

        Raises:
            ProtocolError: It was not granted.
        """
        self._state = move(TABLE, self._state, Event.EXTENT)
        size = output.tell() + frame.length
        if size > self._end:
            raise ProtocolError(f"{size} bytes of a file are published, {self._end} were granted")
        output.grown(frame.length, frame.chunks)
        if self._end - size > settings.EXTENT_BYTES * (settings.EXTENT_COUNT - 1):
            return None
        self._end = size + _GRANTED_BYTES
        return Grant(self._ticket, self._end)
