"""The memory that both ends of a chunk queue share: nameless, gone with the last who maps it.

Behind the slots the worker notes

- which job it has begun last: if the sink dies, only this tells the parent which jobs of the worker
  had not started;
- which call it has loaded last, and when: the parent looks there when the time of a job seems to be
  used up;
- which process group the running job has begun, or is about to begin: whoever ends the worker ends
  that too.

Runs in:    the parent makes it, the worker and the sink map it.
Owns:       nothing; its descriptors and mappings are the queue's.
"""

import mmap
import os
import struct
import time
from collections.abc import Sequence
from typing import Final

from collector import settings

_BYTES: Final = settings.SLOT_BYTES * settings.SLOT_COUNT
_BEGUN: Final = struct.Struct("@Q")
_LOADED: Final = struct.Struct("@dQ")
"""When and which: written in this order, and the parent reads the second first."""
_LOADED_AT: Final = _BYTES + _BEGUN.size
_GROUP: Final = struct.Struct("@qq")
_GROUP_AT: Final = _LOADED_AT + _LOADED.size
_ALL_BYTES: Final = _GROUP_AT + _GROUP.size
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
        os.ftruncate(fd, _ALL_BYTES)
    except OSError:
        os.close(fd)
        return None
    return fd


def map_slots(descriptors: Sequence[int]) -> memoryview | None:
    """Map the slots of a queue whose last descriptor they are, and close that; None without."""
    if len(descriptors) == WITHOUT_SLOTS:
        return None
    with_slots = mmap.mmap(descriptors[WITHOUT_SLOTS], _ALL_BYTES)
    os.close(descriptors[WITHOUT_SLOTS])
    return memoryview(with_slots)


def note_begun(slots: memoryview, ticket: int) -> None:
    """Note, in the worker, that it begins this job."""
    _BEGUN.pack_into(slots, _BYTES, ticket)


def last_begun(fd: int) -> int:
    """Return the ticket of the job that a worker has begun last, from its memory; 0 for none."""
    ticket: int
    (ticket,) = _BEGUN.unpack(os.pread(fd, _BEGUN.size, _BYTES))
    return ticket


def note_loaded(slots: memoryview, ticket: int) -> None:
    """Note, in the worker, that the call of this job is loaded, now."""
    _LOADED.pack_into(slots, _LOADED_AT, time.monotonic(), ticket)


def loaded_s(fd: int, ticket: int) -> float | None:
    """Return when a worker has loaded the call of this job, from its memory; None if it has not.

    The clock is `time.monotonic`, which all processes of a machine share.
    """
    last: int
    when: float
    _, last = _LOADED.unpack(os.pread(fd, _LOADED.size, _LOADED_AT))
    if last != ticket:
        return None
    when, _ = _LOADED.unpack(os.pread(fd, _LOADED.size, _LOADED_AT))
    return when


def note_group(slots: memoryview, group: int) -> None:
    """Note, in the worker, which process group its job has begun; 0 once that is not its own.

    It may be negative: see `process_group.end_further`.
    """
    _GROUP.pack_into(slots, _GROUP_AT, group, ~group)


def group_of(memory: memoryview | int) -> int:
    """Return the process group that a worker's job has begun, from its memory; 0 for none.

    A job can write there by mistake, and a signal is sent to what stands there: it must be noted
    together with its complement.
    """
    at: int | memoryview
    if isinstance(memory, int):
        at = memoryview(os.pread(memory, _GROUP.size, _GROUP_AT))
    else:
        at = memory[_GROUP_AT:_ALL_BYTES]
    group: int
    group, complement = _GROUP.unpack(at)
    return group if group not in {0, 1} and complement == ~group else 0
