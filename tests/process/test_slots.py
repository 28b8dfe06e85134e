"""What a worker notes in the memory of its queue, and its parent reads."""

import contextlib
import os
import time
from collections.abc import Iterator

import pytest

from collector.process.queue import shared_slots
from collector.process.queue.chunk_queue import make_queue


@pytest.fixture
def memory() -> Iterator[tuple[memoryview, int]]:
    """The notes as a worker has them, and the descriptor that the parent keeps."""
    writer, reader = make_queue()
    with contextlib.ExitStack() as done:
        for fd in (*writer[:2], *reader):
            done.callback(os.close, fd)
        kept = os.dup(writer[shared_slots.WITHOUT_SLOTS])
        done.callback(os.close, kept)
        mapped = shared_slots.map_slots(writer)
        assert mapped is not None
        yield mapped, kept
        mapped.release()


def test_a_fresh_memory_says_that_nothing_was_begun_or_loaded(
    memory: tuple[memoryview, int],
) -> None:
    _, fd = memory
    assert shared_slots.last_begun(fd) == 0
    assert shared_slots.loaded_s(fd, 1) is None


def test_what_was_loaded_last_is_known_with_its_time(memory: tuple[memoryview, int]) -> None:
    mapped, fd = memory
    before_s = time.monotonic()
    shared_slots.note_begun(mapped, 2**40)
    assert shared_slots.loaded_s(fd, 2**40) is None
    shared_slots.note_loaded(mapped, 2**40)
    loaded_s = shared_slots.loaded_s(fd, 2**40)
    assert loaded_s is not None
    assert before_s <= loaded_s <= time.monotonic()
    shared_slots.note_begun(mapped, 2**40 + 1)
    assert shared_slots.last_begun(fd) == 2**40 + 1
    assert shared_slots.loaded_s(fd, 2**40) == loaded_s
    assert shared_slots.loaded_s(fd, 2**40 + 1) is None


@pytest.mark.parametrize("scribbled", [bytes(16), b"\1" * 16, b"\xff" * 16, bytes(range(100, 116))])
def test_a_process_group_that_nobody_has_noted_is_none(
    memory: tuple[memoryview, int], scribbled: bytes
) -> None:
    mapped, fd = memory
    assert shared_slots.group_of(fd) == 0
    shared_slots.note_group(mapped, 4321)
    assert shared_slots.group_of(fd) == shared_slots.group_of(mapped) == 4321
    shared_slots.note_group(mapped, -4321)  # one that is about to begin
    assert shared_slots.group_of(fd) == shared_slots.group_of(mapped) == -4321
    mapped[-len(scribbled) :] = scribbled
    assert shared_slots.group_of(fd) == 0
