"""The memory that both ends of a chunk queue share: nameless, gone with the last who maps it.

Behind the slots the worker notes which job it has begun last: should the sink die, nobody else can
tell the parent which jobs of a worker had not started.

Runs in:    the parent makes it, the worker and the sink map it.
Owns:       nothing; its descriptors and mappings are the queue's.
"""

import mmap
import os
import struct
from collections.abc import Sequence
from typing import Final

from collector import settings

_BYTES: Final = settings.SLOT_BYTES * settings.SLOT_COUNT
_NOTE: Final = struct.Struct("=Q")
WITHOUT_SLOTS: Final = 2
"""Descriptors of an end of a queue that has no slots: of its frames and of its credits."""


def shared_memory() -> int | None:
    """Return a descriptor of nameless memory for the slots, or None where there is none."""
    create = getattr(os, "memfd_create", None)
    if create is None:
        return None
    try:
        fd: int = create("collector-slots", os.MFD_CLOEXEC)
    except OSError:
        return None
    try:
        os.ftruncate(fd, _BYTES + _NOTE.size)
    except OSError:
        os.close(fd)
        return None
    return fd


def map_slots(descriptors: Sequence[int]) -> memoryview | None:
    """Map the slots of a queue whose last descriptor they are, and close that; None without."""
    if len(descriptors) == WITHOUT_SLOTS:
        return None
    with_slots = mmap.mmap(descriptors[WITHOUT_SLOTS], _BYTES + _NOTE.size)
    os.close(descriptors[WITHOUT_SLOTS])
    return memoryview(with_slots)


def note_begun(slots: memoryview, ticket: int) -> None:
    """Note, in the worker, that it begins this job."""
    _NOTE.pack_into(slots, _BYTES, ticket)


def last_begun(fd: int) -> int:
    """Return the ticket of the job that a worker has begun last, from its memory; 0 for none."""
    ticket: int
    (ticket,) = _NOTE.unpack(os.pread(fd, _NOTE.size, _BYTES))
    return ticket
