"""What the parent says to the pump, and what an agent on the cluster says to it in parcels.

Runs in:    the parent, the pump and the agents; pure.
Invariants: I1  a parcel is whole or absent: it is one object of Ray's.
"""

import enum
import struct
from collections.abc import Iterator
from pickle import PickleBuffer
from typing import Any, Final, NamedTuple

from collector import settings
from collector.process.pickling.script import Part
from collector.wire.frames import Kind, Stream

LOG: Final = 100
"""As the kind of an piece: bytes of what the job has printed."""
DIED: Final = 101
"""The worker of the jobs is dead; the payload is a JSON list: its exit code or null, whether the
kernel has counted that it was killed for its memory, and the ticket of the last job that it had
begun, 0 for none, or null."""
LACKS: Final = 102
"""The agent cannot run the jobs without references to what it does not know yet."""

BEGINNING: Final = -1
"""Among the numbers of parts, that of the `Beginning`."""

WHOLE: Final = (Stream.RECORD, Stream.REMARK)
"""Streams of which each piece is read by itself: none is joined with the next one, or cut."""

_HEAD: Final = struct.Struct("<BBIQQ")


class Order(enum.IntEnum):
    """What is to be done with a worker."""

    JOIN = 1
    """It is there from now on; the descriptor that comes along tells of its death."""
    PART = 2
    """Keep this part of the script."""
    RUN = 3
    STOP = 4
    TERMINATE = 5
    KILL = 6
    RECALL = 7
    FORGET = 8
    """No job will need this part of the script any more."""


class Said(NamedTuple):
    """An order, and whom it is for: the number of a worker, or of a part."""

    order: Order
    number: int
    data: Any = None


class Job(NamedTuple):
    """A job as the pump has it, which looks into no more of it than it needs."""

    ticket: int
    log_name: str
    run: bytes
    """The pickled fields of its `RunJob`."""
    parts: tuple[int, ...]
    """The numbers of the parts of the script that it needs."""


class Beginning(NamedTuple):
    """What an agent is told before its first job, and what it must be itself."""

    collector: str
    """Names the Collector: an agent serves one."""
    version: str
    python: tuple[int, int]
    base_name: str
    initializer: bytes
    parts: tuple[Any, ...]
    log_levels: dict[str, int]
    most_tasks: int | None
    parcel_bytes: int
    argv: tuple[str, ...]
    """The arguments of the program, which its jobs see as `sys.argv`."""


class PumpArguments(NamedTuple):
    """What the pump is told when it starts."""

    address: str | None
    options: dict[str, Any]
    workers: int
    """The most at a time; 0 for as many as there is room for."""
    temp_directory: str
    """Of a Ray that it starts, in a run directory that the parent holds; empty if there is none."""
    run_directory: str
    store_bytes: int
    memory_budget: int
    token: str
    beginning: Beginning


class Hello(NamedTuple):
    """What a pump says once: that it is connected, or why not."""

    room: int
    """For so many jobs."""
    refusal: str = ""
    warning: str = ""


class Piece(NamedTuple):
    """One thing that a worker has said: as a frame, or LOG or DIED."""

    kind: int
    detail: int
    chunks: int
    ticket: int
    payload: memoryview


class End(NamedTuple):
    """How a worker ended, as the parent is told."""

    code: int | None = None
    out_of_memory: bool = False
    why: str = ""
    begun: int | None = None
    """The ticket of the last job that may have begun, 0 for none; None where that is not known."""


def parcel_bytes(memory_budget: int, workers: int) -> int:
    """Return how large parcels may be: all that there are of all jobs stay within the budget.

    Where that would make them smaller than `RAY_PARCEL_LEAST_BYTES`, they are of that size.
    """
    parcels = settings.RAY_WINDOW + settings.RAY_PARCELS_AT_ENDS
    share = memory_budget // (workers * parcels)
    return max(settings.RAY_PARCEL_LEAST_BYTES, min(settings.RAY_PARCEL_BYTES, share))


class Parcel:
    """Collects pieces until they are sent; output that follows output becomes one piece."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._last: tuple[int, int, int, int, int] | None = None
        """Of the last piece, if it is output: where its head is, its detail, ticket, chunks and
        length."""

    @property
    def size(self) -> int:
        """How large it is."""
        return len(self._buffer)

    def add(
        self,
        kind: int,
        payload: bytes | memoryview = b"",
        *,
        ticket: int = 0,
        detail: int = 0,
        chunks: int = 0,
    ) -> None:
        """Add what was said, of which a copy is made."""
        last, length = self._last, len(payload)
        if kind == Kind.DATA and last is not None and last[1:3] == (detail, ticket):
            at, chunks, length = last[0], chunks + last[3], length + last[4]
            _HEAD.pack_into(self._buffer, at, kind, detail, chunks, ticket, length)
        else:
            at = len(self._buffer)
            self._buffer += _HEAD.pack(kind, detail, chunks, ticket, length)
        self._buffer += payload
        merges = kind == Kind.DATA and detail not in WHOLE
        self._last = (at, detail, ticket, chunks, length) if merges else None

    def take(self) -> PickleBuffer:
        """Return all as an object of Ray's that is read where it lies, and begin anew."""
        taken, self._buffer, self._last = self._buffer, bytearray(), None
        return PickleBuffer(taken)


def pieces_of(parcel: bytes | memoryview | PickleBuffer) -> Iterator[Piece]:
    """Yield what a parcel holds, as views of it."""
    view, at = memoryview(parcel), 0
    while at < len(view):
        kind, detail, chunks, ticket, length = _HEAD.unpack_from(view, at)
        at += _HEAD.size
        yield Piece(kind, detail, chunks, ticket, view[at : at + length])
        at += length


def packed(part: Part) -> tuple[Any, ...]:
    """Return a part of the script as plain values: a part itself cannot be pickled."""
    return part.number, part.keys, part.starts, part.blob


def unpacked(values: tuple[Any, ...]) -> Part:
    """Return the part again."""
    return Part(*values)
