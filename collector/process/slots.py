"""The memory that both ends of a chunk queue share: nameless, gone with the last who maps it.

Runs in:    the parent makes it, the worker and the sink map it.
Owns:       nothing; its descriptors and mappings are the queue's.
"""

import mmap
import os
from collections.abc import Sequence
from typing import Final

from collector import settings

_BYTES: Final = settings.SLOT_BYTES * settings.SLOT_COUNT


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
        os.ftruncate(fd, _BYTES)
    except OSError:
        os.close(fd)
        return None
    return fd


def map_slots(descriptors: Sequence[int]) -> memoryview | None:
    """Map the slots of a queue whose third descriptor they are, and close that; None without."""
    if len(descriptors) < 3:  # noqa: PLR2004 - no slots
        return None
    with_slots = mmap.mmap(descriptors[2], _BYTES)
    os.close(descriptors[2])
    return memoryview(with_slots)
