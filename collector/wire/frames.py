"""The frames that a worker says to the sink through its chunk queue, and their decoder.

A frame is a header of 32 bytes and, if its place is INLINE, a payload of `length` bytes behind it.
A payload in a SLOT lies in memory that both ends share, one in an EXTENT in the job's file, behind
what that had before. `docs/reference/wire-format.md` has the bytes.

Invariants: I1  a frame that is not whole is not delivered.
            I2  every length is checked before anything is allocated for it.
            I3  the decoder delivers the same frames however the bytes were split.
"""

import enum
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from collector.errors import ProtocolError
from collector.wire.outcome import Outcome

MAGIC: Final = 0xC07C
VERSION: Final = 1
_HEADER: Final = struct.Struct("<HBBBBHIIQQ")
HEADER_BYTES: Final = _HEADER.size
START: Final = struct.Struct("<Q")
"""Payload of a START frame: the memory threshold of the job's output, in bytes."""
START_OF: Final = struct.Struct("<QQ")
"""The same where a pump carries it: then the number of the worker that has started the job."""
HANDED_BACK_BY: Final = struct.Struct("<Q")
"""Payload of a HANDED_BACK frame where a pump carries it: the number of the worker."""


class Kind(enum.IntEnum):
    """What a frame says."""

    READY = 1
    START = 2
    DATA = 3
    END = 4
    HANDED_BACK = 5
    REFUSED = 6
    WHERE = 7


class Stream(enum.IntEnum):
    """Which of a job's streams a DATA frame belongs to."""

    OUTPUT = 0
    VALUE = 1
    RECORD = 2
    REMARK = 3
    """What is said of the job beside its output (`collector.wire.remarks`)."""


class PayloadPlace(enum.IntEnum):
    """Where the payload of a frame lies."""

    INLINE = 0
    SLOT = 1
    EXTENT = 2


ASTRAY: Final = 1
"""As the slot of an EXTENT: the file had not the size that its worker had given it."""


_INLINE: Final = PayloadPlace.INLINE
_SLOT: Final = PayloadPlace.SLOT
_EXTENT: Final = PayloadPlace.EXTENT
_MOST_DETAIL: Final = {
    Kind.READY: 255,
    Kind.START: 255,
    Kind.DATA: Stream.REMARK,
    Kind.END: Outcome.RAISED,
    Kind.HANDED_BACK: 255,
    Kind.REFUSED: 255,
    Kind.WHERE: 255,
}
"""What a worker may say: each kind, and the highest detail of it."""
_MOST_TICKET: Final = 2**63 - 1
"""Numbers of a message have a sign."""


class Frame(NamedTuple):
    """The header of one frame. `detail` is a Stream for DATA, an Outcome for END, else 0."""

    kind: int
    detail: int
    place: int
    slot: int
    length: int
    chunks: int
    sequence: int
    ticket: int


class FrameEncoder:
    """Numbers the frames of one queue."""

    def __init__(self) -> None:
        self._sequence = 0

    def encode(
        self,
        kind: int,
        ticket: int,
        *,
        detail: int = 0,
        chunks: int = 0,
        slot: int | None = None,
        length: int = 0,
    ) -> bytes:
        """Return a header; an INLINE payload of `length` bytes is to follow it."""
        place = _INLINE if slot is None else _SLOT
        number = self._sequence
        self._sequence = number + 1
        return _HEADER.pack(
            MAGIC, VERSION, kind, detail, place, slot or 0, length, chunks, number, ticket
        )

    def encode_extent(self, ticket: int, length: int, chunks: int, *, astray: bool) -> bytes:
        """Return a header that publishes what was appended to the job's file."""
        number = self._sequence
        self._sequence = number + 1
        return _HEADER.pack(
            MAGIC,
            VERSION,
            Kind.DATA,
            Stream.OUTPUT,
            _EXTENT,
            ASTRAY if astray else 0,
            length,
            chunks,
            number,
            ticket,
        )


class FrameDecoder:
    """Turns the bytes of one queue back into frames; anything that cannot be is a ProtocolError."""

    def __init__(
        self, *, slot_bytes: int, slot_count: int, inline_bytes: int, extent_bytes: int = 0
    ) -> None:
        self._extent_bytes = extent_bytes
        self._slot_bytes = slot_bytes
        self._slot_count = slot_count
        self._inline_bytes = inline_bytes
        self._rest = b""
        self._sequence = 0

    def feed(self, data: bytes) -> Iterator[tuple[Frame, bytes]]:
        """Yield each frame that is now whole, with its INLINE payload (else no bytes).

        Raises:
            ProtocolError: The bytes are no frames of ours; the queue cannot be read any further.
        """
        if self._rest:
            data = self._rest + data
        start, end = 0, len(data)
        try:
            while end - start >= HEADER_BYTES:
                frame = self._header(data, start)
                after = start + HEADER_BYTES
                if frame.length and frame.place == _INLINE:
                    if end - after < frame.length:
                        break
                    payload = data[after : after + frame.length]
                    after += frame.length
                else:
                    payload = b""
                self._sequence += 1
                start = after
                yield frame, payload
        finally:
            self._rest = data[start:]

    def _header(self, data: bytes, start: int) -> Frame:
        fields = _HEADER.unpack_from(data, start)
        magic, version, kind, detail, place, slot, length, _, sequence, ticket = fields
        if magic != MAGIC or version != VERSION:
            raise ProtocolError(f"a frame begins with {magic:#x} version {version}")
        if sequence != self._sequence:
            raise ProtocolError(f"frame {sequence} came where {self._sequence} was due")
        if detail > _MOST_DETAIL.get(kind, -1):
            raise ProtocolError(_unknown(kind, detail))
        if ticket > _MOST_TICKET:
            raise ProtocolError(f"a frame claims ticket {ticket}")
        if place == _SLOT:
            if slot >= self._slot_count or length > self._slot_bytes:
                raise ProtocolError(f"a frame claims {length} bytes in slot {slot}")
        elif length > (self._inline_bytes if place == _INLINE else self._most_in_extents(fields)):
            raise ProtocolError(f"a frame claims {length} bytes in place {place}")
        return Frame._make(fields[2:])

    def _most_in_extents(self, fields: tuple[int, ...]) -> int:
        _, _, kind, detail, place, slot, *_ = fields
        known = place == _EXTENT and kind == Kind.DATA and detail == Stream.OUTPUT
        return self._extent_bytes if known and slot <= ASTRAY and self._extent_bytes else -1


def _unknown(kind: int, detail: int) -> str:
    if kind == Kind.DATA:
        return f"unknown stream: {detail}"
    if kind == Kind.END:
        return f"unknown outcome: {detail}"
    return f"unknown kind of frame: {kind}"
