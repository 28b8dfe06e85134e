"""Jobs whose worker writes to the end of their file itself, and what their outputs must be."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from collector import current_job
from collector.process.queue.file_end import FileEnd
from tests.support.inside import descriptor_of, file_of, nothing_is_published, writer_of_this_worker
from tests.support.jobs import KIB

BLOCK: Final = 64 * KIB
_MOST_BLOCKS: Final = 10_000


def block(number: int) -> bytes:
    """One block of an output; each has other bytes."""
    return (number + 1).to_bytes(8, "little") * (BLOCK // 8)


def is_prefix(kept: bytes) -> bool:
    """Whether these bytes are the first ones of the output."""
    blocks = b"".join(map(block, range(len(kept) // BLOCK + 1)))
    return blocks.startswith(kept)


def same(kept: bytes, blocks: int) -> bool:
    """Whether these bytes are the output of so many blocks."""
    return len(kept) == blocks * BLOCK and is_prefix(kept)


def put(numbers: Iterable[int]) -> None:
    """Write these blocks."""
    for number in numbers:
        current_job().write(block(number))


def begin() -> tuple[int, FileEnd]:
    """Write blocks until the worker writes to the file itself; how many, and the file."""
    writer = writer_of_this_worker()
    for number in range(_MOST_BLOCKS):
        if (file := file_of(writer)) is not None:
            return number, file
        put([number])
    raise AssertionError("nothing was granted")


def path_of(file: FileEnd) -> str:
    """Where the file is."""
    return os.readlink(f"/proc/self/fd/{descriptor_of(file)}")


def write_unpublished(number: int) -> tuple[int, int]:
    """Write until something is not published, and see to it that it stays so.

    Returns:
        The number of the next block, and how many bytes are published.
    """
    writer = writer_of_this_worker()
    file = file_of(writer)
    assert file is not None
    while True:
        put([number])
        number += 1
        held = nothing_is_published(writer)
        held.__enter__()
        if file.at > file.published:
            return number, file.published
        held.__exit__(None, None, None)


def files_of_jobs() -> list[str]:
    """The files of outputs that this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            leads_to = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one that listed them
            continue
        if ".spill" in Path(leads_to).name:
            found.append(leads_to)
    return found
