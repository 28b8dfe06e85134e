"""The chunk queue: exact, bounded, and right whenever its writer dies."""

import contextlib
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from collector import settings
from collector.errors import EXIT_SINK_GONE, ClosedError, ProtocolError
from collector.process.queue.chunk_queue import QueueWriter, make_queue
from collector.process.queue.reader import QueueReader
from collector.process.queue.stream import JobStream
from collector.wire.frames import START, Frame, FrameEncoder, Kind, Stream
from collector.wire.outcome import Outcome
from tests.support.jobs import KIB, MIB, kill_self

with_and_without_slots = pytest.mark.parametrize("slots", [True, False], ids=["slots", "pipe"])
Act = Callable[[QueueWriter], None]


class Line:
    """A queue whose writer is a child process that does `act`; the reader is here."""

    def __init__(self, act: Act, *, slots: bool = True) -> None:
        writer, reader = make_queue(slots=slots)
        assert (len(writer), len(reader)) == ((3, 3) if slots else (2, 2))
        self.pid = os.fork()
        if not self.pid:
            for fd in reader:
                os.close(fd)
            try:
                act(QueueWriter(writer))
            except BaseException:  # noqa: BLE001 - told by the status
                os._exit(99)
            os._exit(0)
        for fd in writer:
            os.close(fd)
        self.reader = QueueReader(reader)
        self._poll = select.poll()
        self._poll.register(self.reader.fd, select.POLLIN)

    def frames(self) -> Iterator[tuple[Frame, bytes]]:
        """Each frame and a copy of its payload, until the queue is at its end."""
        while True:
            assert self._poll.poll(60_000), "the writer says nothing"
            came = self.reader.read()
            if came is None:
                return
            for frame, payload in came:
                yield frame, bytes(payload)

    def wait(self) -> int:
        """Close the reader; return the exit code of the writer."""
        self.reader.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def output(frames: Sequence[tuple[Frame, bytes]]) -> tuple[bytes, int]:
    """The bytes and the number of chunks of the output in these frames."""
    taken = [
        (frame, payload)
        for frame, payload in frames
        if frame.kind == Kind.DATA and frame.detail == Stream.OUTPUT
    ]
    return b"".join(payload for _, payload in taken), sum(frame.chunks for frame, _ in taken)


def write_all(chunks: Sequence[bytes], value: bytes = b"value") -> Act:
    """One job that writes these chunks."""

    def act(writer: QueueWriter) -> None:
        stream = writer.start(7, START.pack(5))
        for chunk in chunks:
            stream.write(chunk)
        writer.end(Outcome.RETURNED, value)

    return act


def numbered(sizes: Sequence[int]) -> list[bytes]:
    return [bytes((number % 251 + 1,)) * size for number, size in enumerate(sizes)]


EDGES = sorted(
    {
        edge + by
        for edge in (
            1,
            settings.INLINE_BYTES,
            settings.DIRECT_BYTES,
            settings.JOIN_BYTES,
            settings.PIPE_PAYLOAD_BYTES,
            settings.SLOT_BYTES,
            3 * settings.SLOT_BYTES,
        )
        for by in (-1, 0, 1)
    }
)


@with_and_without_slots
@hypothesis_settings(max_examples=20)
@given(sizes=st.lists(st.sampled_from(EDGES) | st.integers(0, 700_000), max_size=12))
def test_whatever_is_written_arrives_in_order(slots: bool, sizes: list[int]) -> None:
    chunks = numbered(sizes)
    line = Line(write_all(chunks), slots=slots)
    frames = list(line.frames())
    assert line.wait() == 0
    assert output(frames) == (b"".join(chunks), len(chunks))
    assert frames[0][0].kind == Kind.START
    assert frames[0][1] == START.pack(5)
    assert frames[-1][0][:2] == (Kind.END, Outcome.RETURNED)
    assert frames[-1][1] == b"value"
    assert {frame.ticket for frame, _ in frames} == {7}


@with_and_without_slots
@pytest.mark.parametrize("size", EDGES)
def test_a_value_of_any_size_arrives_before_the_end(slots: bool, size: int) -> None:
    value = os.urandom(1000) * (size // 1000) + bytes(size % 1000)
    line = Line(write_all([b"x"], value), slots=slots)
    frames = list(line.frames())
    assert line.wait() == 0
    parts = [payload for frame, payload in frames if frame.detail == Stream.VALUE]
    assert b"".join(parts) + frames[-1][1] == value or b"".join(parts) == value
    assert output(frames) == (b"x", 1)
    assert frames[-1][0].kind == Kind.END


@with_and_without_slots
def test_what_is_written_while_a_job_ends_is_refused_or_there(
    slots: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread of the job may write on while its function returns."""
    take = JobStream.take

    def take_while_another_thread_writes(stream: JobStream) -> list[bytes]:
        chunks = take(stream)
        with contextlib.suppress(ClosedError):
            stream.append(b"late")
            os.environ["LATE"] = "taken"
        return chunks

    def act(writer: QueueWriter) -> None:
        stream = writer.start(7, START.pack(5))
        stream.write(b"early")
        monkeypatch.setattr(JobStream, "take", take_while_another_thread_writes)
        writer.end(Outcome.RETURNED, b"")
        os._exit(3 if "LATE" in os.environ else 0)

    line = Line(act, slots=slots)
    frames = list(line.frames())
    assert output(frames) == (b"early", 1)
    assert line.wait() == 0


@with_and_without_slots
def test_a_reader_with_nothing_to_read_does_not_wait(slots: bool) -> None:
    held, let_go = os.pipe()

    def act(writer: QueueWriter) -> None:
        os.close(let_go)
        os.read(held, 1)
        writer.say(Kind.READY)

    line = Line(act, slots=slots)
    came = line.reader.read()
    assert came is not None
    assert list(came) == []
    os.close(let_go)
    os.close(held)
    assert [frame.kind for frame, _ in line.frames()] == [Kind.READY]
    assert line.wait() == 0


@with_and_without_slots
def test_what_was_flushed_is_there_at_once_and_the_rest_soon(slots: bool) -> None:
    held, let_go = os.pipe()

    def act(writer: QueueWriter) -> None:
        os.close(let_go)
        stream = writer.start(7, START.pack(5))
        stream.write(b"flushed")
        writer.flush()
        os.read(held, 1)
        stream.write(b"left alone")
        stream.write(b"y" * 20_000)
        while True:  # computes for ever; the thread that flushes must get its turn
            pass

    line = Line(act, slots=slots)
    frames = line.frames()
    assert next(frames)[0].kind == Kind.START
    assert next(frames)[1] == b"flushed"
    os.close(let_go)
    os.close(held)
    late = b""
    while len(late) < 20_010:
        late += next(frames)[1]
    assert late == b"left alone" + b"y" * 20_000
    os.kill(line.pid, signal.SIGKILL)
    assert line.wait() == -signal.SIGKILL


def die_at(write: int, *, made: bool, act: Act) -> Act:
    """Do `act`, but die by SIGKILL at the so-many-th write, before or after it is made."""

    def dying_act(writer: QueueWriter) -> None:
        real, count = os.write, 0

        def dying(fd: int, data: Any) -> int:
            nonlocal count
            count += 1
            if count == write and not made:
                kill_self()
            written = real(fd, data)
            if count == write:
                kill_self()
            return written

        os.write = dying
        act(writer)
        os._exit(50)  # it made fewer writes

    return dying_act


@pytest.mark.slow
@with_and_without_slots
@pytest.mark.parametrize("made", [False, True], ids=["before", "after"])
def test_a_writer_that_dies_at_any_write_has_published_a_prefix(slots: bool, made: bool) -> None:
    chunks = numbered([10, 20_000, 300_000, 5, 70_000, 1_000_000])
    whole = b"".join(chunks)
    sizes = set()
    for write in range(1, 1000):
        line = Line(die_at(write, made=made, act=write_all(chunks)), slots=slots)
        frames = list(line.frames())
        code = line.wait()
        data, _ = output(frames)
        assert whole.startswith(data)
        ended = any(frame.kind == Kind.END for frame, _ in frames)
        assert not ended or data == whole
        sizes.add(len(data))
        if code == 50:
            assert ended
            break
        assert code == -signal.SIGKILL
        assert not ended or made
    else:
        pytest.fail("it never came to its end")
    assert len(sizes) > 5


def test_a_writer_waits_while_its_slots_are_not_given_back() -> None:
    line = Line(write_all([bytes(MIB)] * 3))
    poll = select.poll()
    poll.register(line.reader.fd, select.POLLIN)
    assert poll.poll(60_000)
    # What is published beyond START is at most what lies in the slots.
    deadline = time.monotonic() + 60
    while unread(line.reader.fd) < (1 + settings.SLOT_COUNT) * 32 + START.size:
        assert time.monotonic() < deadline
    assert unread(line.reader.fd) == (1 + settings.SLOT_COUNT) * 32 + START.size
    assert output(list(line.frames())) == (bytes(3 * MIB), 3)
    assert line.wait() == 0


def unread(fd: int) -> int:
    """Bytes that lie in a pipe."""
    import array
    import fcntl
    import termios

    size = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, size)
    return size[0]


@with_and_without_slots
@pytest.mark.parametrize("size", [10, 50 * MIB], ids=["at a header", "at a credit"])
def test_a_writer_whose_reader_is_gone_leaves(slots: bool, size: int) -> None:
    def act(writer: QueueWriter) -> None:
        stream = writer.start(7, START.pack(5))
        while True:
            stream.write(bytes(size))
            writer.flush()

    line = Line(act, slots=slots)
    assert next(line.frames())[0].kind == Kind.START
    assert line.wait() == EXIT_SINK_GONE


def test_a_flood_of_slots_that_were_not_given_is_refused_and_blocks_nobody() -> None:
    writer, reader_ends = make_queue()
    reader = QueueReader(reader_ends)
    encoder = FrameEncoder()
    os.set_blocking(writer[0], False)
    refused = None
    frames = 0
    while refused is None:
        # As fast as the reader reads, never taking a credit back.
        os.write(writer[0], b"".join(encoder.encode(Kind.DATA, 7, slot=1) for _ in range(1000)))
        frames += 1000
        try:
            while came := reader.read():
                if not list(came):
                    break
        except ProtocolError as error:
            refused = error
        assert frames < 1_000_000
    assert "slots that it does not have" in str(refused)
    reader.close()
    for fd in writer:
        os.close(fd)


def test_threads_of_one_job_write_whole_chunks_in_their_own_order() -> None:
    def act(writer: QueueWriter) -> None:
        stream = writer.start(7, START.pack(5))

        def work(name: int) -> None:
            for number in range(200):
                size = (3, 30_000)[number % 10 == 0]
                stream.write(bytes((name, number)) + bytes((name,)) * size)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.end(Outcome.RETURNED, b"")

    line = Line(act)
    data, count = output(list(line.frames()))
    assert line.wait() == 0
    assert count == 800
    seen: dict[int, list[int]] = {1: [], 2: [], 3: [], 4: []}
    at = 0
    while at < len(data):
        name, number = data[at], data[at + 1]
        size = (3, 30_000)[number % 10 == 0]
        assert data[at + 2 : at + 2 + size] == bytes((name,)) * size
        seen[name].append(number)
        at += 2 + size
    assert seen == {name: list(range(200)) for name in range(1, 5)}


def test_a_job_that_is_over_takes_no_chunk() -> None:
    def act(writer: QueueWriter) -> None:
        first = writer.start(1, START.pack(5))
        first.write(b"first")
        writer.end(Outcome.RETURNED, b"")
        second = writer.start(2, START.pack(5))
        for late in (b"late", b"l" * 20_000):
            with pytest.raises(ClosedError, match="over"):
                first.write(late)
        second.write(b"second")
        writer.end(Outcome.RETURNED, b"")

    line = Line(act)
    frames = list(line.frames())
    assert line.wait() == 0
    of = {ticket: [f for f in frames if f[0].ticket == ticket] for ticket in (1, 2)}
    assert output(of[1])[0] == b"first"
    assert output(of[2])[0] == b"second"


def test_an_end_that_is_held_goes_with_the_next_frame_or_with_a_flush() -> None:
    held, let_go = os.pipe()

    def act(writer: QueueWriter) -> None:
        os.close(let_go)
        writer.start(1, START.pack(5))
        writer.end(Outcome.RETURNED, b"", hold=True)
        writer.start(2, START.pack(5))
        writer.end(Outcome.RETURNED, b"")
        os.read(held, 1)

    line = Line(act)
    frames = line.frames()
    kinds = [next(frames)[0].kind for _ in range(4)]
    assert kinds == [Kind.START, Kind.END, Kind.START, Kind.END]
    os.close(let_go)
    os.close(held)
    assert list(frames) == []
    assert line.wait() == 0


def test_a_queue_that_cannot_be_made_leaves_no_descriptor() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    outcomes = []
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 32, hard))
    try:
        while True:
            try:
                taken.append(os.dup(2))
            except OSError:
                break
        for _ in range(8):  # with room for none, one, two, ... descriptors
            try:
                ends = [fd for side in make_queue() for fd in side]
            except OSError:
                outcomes.append("refused")
            else:
                outcomes.append("made")
                for fd in ends:
                    os.close(fd)
            os.close(taken.pop())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)
    # It takes six with slots, and is content with four where no more are to be had.
    assert outcomes[:4] == ["refused"] * 4
    assert outcomes[6:] == ["made"] * 2


def test_joined_chunks_are_what_the_settings_say() -> None:
    """Small chunks travel together: far fewer frames than chunks."""
    line = Line(write_all([b"x" * 100] * 10_000))
    frames = list(line.frames())
    assert line.wait() == 0
    assert output(frames) == (b"x" * 1_000_000, 10_000)
    assert len(frames) < 1_000_000 / (16 * KIB) + 10
