"""Any order of writes, faults and ends, against a plain list of bytes."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from collector.errors import ClosedError, SpillError
from collector.store.output import spill_file
from collector.store.output.output import Output
from collector.store.output.progress import Mode, Progress
from collector.store.output.spill_file import temp_file_count
from collector.store.spill import SpillManager
from tests.support.processend import end_of_process

THRESHOLDS = st.sampled_from([0, 1, 7, 64, 1000])
KINDS: list[Callable[[bytes], Any]] = [bytes, bytearray, memoryview]
DATA = st.binary(max_size=40)


class Disk:
    """Takes `room` more bytes and so many at once, then is full."""

    def __init__(self) -> None:
        self.room: int | None = None
        self.at_once = 1 << 30

    def write(self, fd: int, data: Any) -> int:
        allowed = min(len(data), self.at_once)
        if self.room is not None:
            if allowed > self.room == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            allowed = min(allowed, self.room)
        written = os.write(fd, memoryview(data)[:allowed])
        if self.room is not None:
            self.room -= written
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


class SpillMachine(RuleBasedStateMachine):
    """One manager after the other; the model is what it took, chunk by chunk."""

    outputs: Bundle[tuple[Output, list[bytes], int]] = Bundle("outputs")

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(spill_file, "os", self.disk)
        self.place = tempfile.mkdtemp()
        self.saved = 0
        self.made: list[Output] = []

    @initialize(threshold=THRESHOLDS)
    def begin(self, threshold: int) -> None:
        self.threshold = threshold
        self.taken: list[bytes] = []
        self.chunks = 0
        self.streaming = False
        self.end = ""
        self.seen: list[Progress] = []
        self.writes = 0
        self.manager = SpillManager(threshold, on_progress=self.seen.append)

    @property
    def size(self) -> int:
        return sum(map(len, self.taken))

    def expects(self, more: int) -> bool:
        """Whether the disk has to do something for `more` bytes, and whether it can."""
        if self.disk.room is None:
            return True
        if self.streaming:
            return more <= self.disk.room
        reaches = self.size + more >= self.threshold
        return not reaches or self.size + more <= self.disk.room

    # -- writing

    @precondition(lambda self: not self.end)
    @rule(data=DATA, kind=st.sampled_from(KINDS))
    def write(self, data: bytes, kind: Callable[[bytes], Any]) -> None:
        self._write(lambda: self.manager.write(kind(data)), data)

    @precondition(lambda self: not self.end)
    @rule(text=st.text(max_size=20))
    def write_text(self, text: str) -> None:
        self._write(lambda: self.manager.write(text), text.encode())

    @precondition(lambda self: not self.end)
    @rule(data=DATA, chunks=st.integers(1, 5))
    def write_joined(self, data: bytes, chunks: int) -> None:
        self._take(lambda: self.manager.write_joined(memoryview(data), chunks), data, chunks)

    def _write(self, write: Callable[[], int], data: bytes) -> None:
        if self._take(write, data, 1):
            self.writes += 1
            assert self.seen[-1] == self.manager.progress
        assert len(self.seen) == self.writes

    def _take(self, write: Callable[[], int], data: bytes, chunks: int) -> bool:
        if not self.expects(len(data)):
            with pytest.raises(SpillError):
                write()
            return False
        assert write() == len(data)
        self.taken.append(data)
        self.chunks += chunks
        self.streaming = self.streaming or self.size >= self.threshold
        return True

    @precondition(lambda self: not self.end)
    @rule()
    def write_nonsense(self) -> None:
        with pytest.raises(TypeError):
            self.manager.write(7)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="contiguous"):
            self.manager.write(memoryview(b"abcd")[::2])

    @precondition(lambda self: not self.end)
    @rule()
    def spill(self) -> None:
        if self.streaming or self.disk.room is None or self.size <= self.disk.room:
            self.manager.spill()
            self.streaming = True
        else:
            with pytest.raises(SpillError):
                self.manager.spill()

    # -- the disk

    @rule(room=st.integers(0, 100))
    def fill_up(self, room: int) -> None:
        self.disk.room = room

    @rule()
    def make_room(self) -> None:
        self.disk.room = None

    @rule(at_once=st.sampled_from([1, 3, 1 << 30]))
    def shorten(self, at_once: int) -> None:
        self.disk.at_once = at_once

    # -- the end

    @precondition(lambda self: not self.end)
    @rule(target=outputs)
    def finalize(self) -> Any:
        output = self.manager.finalize()
        assert output.mode is (Mode.STREAMING if self.streaming else Mode.MEMORY)
        self.end = "finalized"
        self.made.append(output)
        return output, list(self.taken), self.chunks

    @precondition(lambda self: not self.end)
    @rule()
    def leave_block(self) -> None:
        with self.manager:
            pass
        self.end = "disposed"

    @precondition(lambda self: self.end)
    @rule(data=DATA)
    def use_after_the_end(self, data: bytes) -> None:
        for use in (lambda: self.manager.write(data), self.manager.finalize, self.manager.spill):
            with pytest.raises(ClosedError, match=self.end):
                use()
        self.manager.dispose()

    @precondition(lambda self: self.end)
    @rule(threshold=THRESHOLDS)
    def begin_another(self, threshold: int) -> None:
        self.begin(threshold)

    # -- outputs

    @rule(made=outputs)
    def read(self, made: tuple[Output, list[bytes], int]) -> None:
        output, taken, chunks = made
        expected = b"".join(taken)
        assert (output.size, output.chunks) == (len(expected), chunks)
        assert output.read() == expected == b"".join(iter(output))
        assert bytes(output.view()) == expected
        text = expected.decode(errors="replace")
        assert output.text(errors="replace") == text
        ends = [line.removesuffix("\r") for line in text.split("\n")]
        ends[-1] = text.split("\n")[-1]
        assert list(output.lines(errors="replace")) == (ends if ends[-1] else ends[:-1])

    @rule(made=outputs, place=st.integers(0, 100), size=st.integers(0, 100))
    def read_a_part(self, made: tuple[Output, list[bytes], int], place: int, size: int) -> None:
        expected = b"".join(made[1])
        with made[0].open() as reader:
            reader.seek(place)
            assert reader.read(size) == expected[place : place + size]

    @rule(made=outputs)
    def ask_for_the_path(self, made: tuple[Output, list[bytes], int]) -> None:
        output, taken, _ = made
        room = self.disk.room
        if output.path is None and room is not None and room < output.size:
            with pytest.raises(SpillError):
                os.fspath(output)
            assert output.path is None
        else:
            assert Path(output).read_bytes() == b"".join(taken)

    @rule(made=outputs)
    def save(self, made: tuple[Output, list[bytes], int]) -> None:
        output, taken, _ = made
        self.saved += 1
        before = output.path
        target = Path(self.place, str(self.saved))
        try:
            assert output.save(target) == target == output.path
            assert target.read_bytes() == b"".join(taken)
        except SpillError:
            assert self.disk.room is not None
            assert not target.exists()
            assert output.path == before

    @rule(made=consumes(outputs))
    def close(self, made: tuple[Output, list[bytes], int]) -> None:
        made[0].close()
        with pytest.raises(ClosedError):
            made[0].read()

    # -- at all times

    @invariant()
    def progress_is_that_of_the_model(self) -> None:
        progress = self.manager.progress
        assert progress.bytes_written == self.size
        assert progress.chunks_processed == self.chunks
        assert progress.mode is (Mode.STREAMING if self.streaming else Mode.MEMORY)
        assert progress.threshold_exceeded == (self.streaming and self.size >= self.threshold)
        assert (progress.temp_file_path is None) == (not self.streaming or self.end == "disposed")
        held = 0 if self.streaming or self.end else self.size
        assert self.manager.held_bytes == held

    @invariant()
    def the_file_holds_what_was_taken(self) -> None:
        path = self.manager.progress.temp_file_path
        if path is not None and not self.end:
            assert path.read_bytes() == b"".join(self.taken)

    @invariant()
    def no_file_is_there_that_is_not_counted(self) -> None:
        files = list(Path(os.environ["COLLECTOR_TMPDIR"]).glob("run-*/*.spill"))
        assert len(files) == temp_file_count()

    def teardown(self) -> None:
        if hasattr(self, "manager"):
            self.manager.dispose()
        for output in self.made:
            output.close()
        self.patch.undo()
        shutil.rmtree(self.place)


@pytest.mark.parametrize("part", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_any_order_of_events_keeps_every_byte(part: int) -> None:
    examples = settings().max_examples // part
    run_state_machine_as_test(
        SpillMachine, settings=settings(stateful_step_count=40, max_examples=examples)
    )
    end_of_process()
    assert temp_file_count() == 0
