"""The sink, driven by hand: the test is its parent and its workers, honest ones and liars."""

import mmap
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from collector import settings
from collector.process.channel import Channel
from collector.process.queue import make_queue
from collector.process.sink import Sink, SinkArguments
from collector.store.rundir import RunDirectory
from collector.wire import messages
from collector.wire.frames import START, FrameEncoder, Kind, Outcome, Stream
from collector.wire.messages import Message
from tests.support.jobs import KIB, MIB
from tests.support.leaks import wait_until

M = TypeVar("M", bound=Message)
THRESHOLD = START.pack(5 * MIB)


class HandWorker:
    """A worker that says what the test wants it to say, byte by byte."""

    def __init__(self, number: int, *, slots: bool = True) -> None:
        writer, self.reader = make_queue(slots=slots)
        self.number = number
        self.frames, self.credits = writer[:2]
        self.slots = mmap.mmap(writer[2], 0) if slots else None
        for fd in writer[2:]:
            os.close(fd)
        self.life, self.death = os.pipe()
        self.encoder = FrameEncoder()
        self.dead = False

    def frame(self, kind: int, ticket: int = 0, payload: bytes = b"", **fields: Any) -> bytes:
        """The bytes of the next frame, its payload behind it."""
        fields.setdefault("length", len(payload))
        return self.encoder.encode(kind, ticket, **fields) + payload

    def raw(self, data: bytes) -> None:
        """Say these bytes."""
        while data:
            data = data[os.write(self.frames, data) :]

    def say(self, kind: int, ticket: int = 0, payload: bytes = b"", **fields: Any) -> None:
        """Say a frame."""
        self.raw(self.frame(kind, ticket, payload, **fields))

    def chunk(self, ticket: int, data: bytes, stream: Stream = Stream.OUTPUT) -> None:
        """Say a chunk, in a slot if it is large."""
        if len(data) <= settings.INLINE_BYTES or self.slots is None:
            self.say(Kind.DATA, ticket, data, detail=stream, chunks=1)
            return
        self.slots[: len(data)] = data
        self.say(Kind.DATA, ticket, detail=stream, chunks=1, slot=0, length=len(data))
        assert os.read(self.credits, 1) == b"\0"

    def die(self) -> None:
        """Be dead: first the process, then its descriptors."""
        if not self.dead:
            self.dead = True
            for fd in (self.death, self.frames, self.credits):
                os.close(fd)
            if self.slots is not None:
                self.slots.close()


class HandParent:
    """The parent of a sink that runs in a thread of the test."""

    def __init__(self, directory: RunDirectory, **told: Any) -> None:
        arguments = {
            "run_directory": str(directory.path),
            "temp_file_base_name": "out",
            "memory_budget": 256 * MIB,
            "elsewhere_bytes": 0,
            "farewell": b"",
        }
        self.directory = directory
        self._socket, theirs = socket.socketpair()
        self.life, self.death = os.pipe()
        self.channel = Channel(self._socket)
        self.control = Channel(theirs, takes_descriptors=True)
        self.sink = Sink(
            self.control,
            self.life,
            directory,
            SinkArguments(**arguments | told),  # type: ignore[arg-type]
        )
        self.thread = threading.Thread(target=self.sink.run)
        self.thread.start()
        self.workers: list[HandWorker] = []
        self.heard: list[Message] = []

    def worker(self, *, slots: bool = True, pid: int = 2**22 + 1) -> HandWorker:
        """Let a new worker join, whose number is that of no process."""
        worker = HandWorker(len(self.workers) + 1, slots=slots)
        self.workers.append(worker)
        joined = messages.WorkerJoined(worker=worker.number, pid=pid, slots=slots)
        self.channel.post_with(joined, [*worker.reader, worker.life])
        for fd in (*worker.reader, worker.life):
            os.close(fd)
        return worker

    def tell(self, message: Message) -> None:
        """Send a message to the sink."""
        self.channel.post(message)
        while not self.channel.flush():
            select.select([], [self.channel.fd], [])

    def hear(self, kind: type[M], timeout_s: float = 60) -> M:
        """Wait for the next message of this kind; those before it are kept in `heard`."""
        poll = select.poll()
        poll.register(self.channel.fd, select.POLLIN)
        while True:
            for at, message in enumerate(self.heard):
                if isinstance(message, kind):
                    del self.heard[at]
                    return message
            assert poll.poll(timeout_s * 1000), f"the sink says nothing of {kind.__name__}"
            came = self.channel.receive()
            assert came is not None, "the sink is gone"
            self.heard.extend(came)

    def close(self) -> None:
        """Stop the sink."""
        for worker in self.workers:
            worker.die()
        self.tell(messages.Stop())
        self.thread.join()
        self.let_go()

    def let_go(self) -> None:
        """Close what is left; the sink has stopped."""
        self.sink._watch.close()
        for source in self.sink._sources.values():
            source.queue.close()
            os.close(source.death_fd)
        self.control.close()
        self.channel.close()
        os.close(self.life)
        if self.death >= 0:
            os.close(self.death)


@pytest.fixture
def directory() -> Iterator[RunDirectory]:
    made = RunDirectory.create(None)
    yield made
    made.release()


@pytest.fixture
def parent(directory: RunDirectory) -> Iterator[HandParent]:
    with closing(HandParent(directory)) as made:
        yield made


def data_of(parent: HandParent, ended: messages.JobEnded) -> bytes:
    """The bytes of a sealed output."""
    if not ended.name:
        return ended.data
    data = (parent.directory.path / ended.name).read_bytes()
    parent.directory.remove_file(ended.name)
    return data


# -- honest workers --------------------------------------------------------------------------------


def test_a_worker_says_that_it_is_ready_or_why_it_is_not(parent: HandParent) -> None:
    parent.worker().say(Kind.READY)
    assert parent.hear(messages.WorkerReady) == messages.WorkerReady(worker=1, refusal="")
    parent.worker().say(Kind.REFUSED, payload="no \u00e9".encode())
    assert parent.hear(messages.WorkerReady).refusal == "no \u00e9"


@pytest.mark.parametrize("slots", [True, False], ids=["slots", "pipe"])
def test_a_job_is_sealed_as_it_was_written(parent: HandParent, slots: bool) -> None:
    worker = parent.worker(slots=slots)
    for ticket, size in enumerate((0, 10, 5000, 60_000), start=5):
        data = os.urandom(size)
        worker.say(Kind.START, ticket, THRESHOLD)
        worker.chunk(ticket, data)
        worker.say(Kind.END, ticket, b"value", detail=Outcome.RETURNED)
        ended = parent.hear(messages.JobEnded)
        assert (ended.worker, ended.ticket, ended.outcome) == (1, ticket, Outcome.RETURNED)
        assert (ended.size, ended.chunks, ended.value) == (size, 1, b"value")
        assert data_of(parent, ended) == data


def test_a_value_may_come_in_pieces(parent: HandParent) -> None:
    worker = parent.worker()
    worker.say(Kind.START, 5, THRESHOLD)
    value = os.urandom(600_000)
    for start in range(0, len(value), settings.SLOT_BYTES):
        worker.chunk(5, value[start : start + settings.SLOT_BYTES], Stream.VALUE)
    worker.say(Kind.END, 5, detail=Outcome.RAISED)
    ended = parent.hear(messages.JobEnded)
    assert (ended.outcome, ended.value, ended.data) == (Outcome.RAISED, value, b"")


def test_a_large_output_lies_in_a_file_of_the_run_directory(parent: HandParent) -> None:
    worker = parent.worker()
    worker.say(Kind.START, 5, START.pack(100 * KIB))
    for number in range(10):
        worker.chunk(5, bytes((number,)) * 50_000)
    worker.say(Kind.END, 5, detail=Outcome.RETURNED)
    ended = parent.hear(messages.JobEnded)
    assert ended.data == b""
    assert ended.name.startswith("out-")
    assert data_of(parent, ended) == b"".join(bytes((n,)) * 50_000 for n in range(10))


def test_streams_of_several_workers_never_meet(parent: HandParent) -> None:
    workers = [parent.worker() for _ in range(5)]
    for worker in workers:
        worker.say(Kind.START, worker.number, THRESHOLD)
    for number in range(50):
        for worker in workers:
            worker.chunk(worker.number, bytes((worker.number,)) * (number * 100))
    for worker in workers:
        worker.say(Kind.END, worker.number, detail=Outcome.RETURNED)
        ended = parent.hear(messages.JobEnded)
        assert data_of(parent, ended) == bytes((ended.ticket,)) * (100 * sum(range(50)))


# -- deaths ----------------------------------------------------------------------------------------


def session(worker: HandWorker) -> list[bytes]:
    """What a worker says that runs two jobs, one frame each."""
    assert worker.slots is not None
    for slot in range(3):
        base = slot * settings.SLOT_BYTES
        worker.slots[base : base + 20] = bytes((slot + 65,)) * 20
    return [
        worker.frame(Kind.READY),
        worker.frame(Kind.START, 1, THRESHOLD),
        worker.frame(Kind.DATA, 1, b"hello", chunks=1),
        worker.frame(Kind.DATA, 1, chunks=1, slot=0, length=20),
        worker.frame(Kind.DATA, 1, b"more", chunks=3),
        worker.frame(Kind.DATA, 1, b"v", detail=Stream.VALUE, chunks=1),
        worker.frame(Kind.END, 1, b"", detail=Outcome.RETURNED),
        worker.frame(Kind.START, 2, THRESHOLD),
        worker.frame(Kind.DATA, 2, chunks=1, slot=1, length=20),
        worker.frame(Kind.END, 2, b"value", detail=Outcome.RAISED),
    ]


WRITTEN = {1: [b"hello", b"A" * 20, b"more"], 2: [b"B" * 20]}


def test_a_session_cut_at_any_byte_is_never_a_short_success(parent: HandParent) -> None:
    length, at_end = -1, False
    while not at_end:
        length += 1
        worker = parent.worker()
        frames = session(worker)
        at_end = length == sum(map(len, frames))
        worker.raw(b"".join(frames)[:length])
        worker.die()
        parent.hear(messages.WorkerDrained)
        arrived = sum(len(b"".join(frames[: n + 1])) <= length for n in range(len(frames)))
        ended = {m.ticket: m for m in parent.heard if isinstance(m, messages.JobEnded)}
        parent.heard.clear()
        # A job that had not started is no job of this worker; one that had ended is whole.
        assert set(ended) == {ticket for ticket, start in ((1, 2), (2, 8)) if arrived >= start}
        for ticket, said in ended.items():
            start, end = {1: (2, 7), 2: (8, 10)}[ticket]
            outcome = {1: Outcome.RETURNED, 2: Outcome.RAISED}[ticket]
            assert said.outcome == (outcome if arrived >= end else Outcome.DIED)
            assert said.data == b"".join(WRITTEN[ticket][: arrived - start])


def test_a_death_is_noticed_while_a_grandchild_holds_the_pipe_open(parent: HandParent) -> None:
    worker = parent.worker()
    kept = os.dup(worker.frames)
    worker.say(Kind.START, 1, THRESHOLD)
    worker.chunk(1, b"kept")
    worker.die()
    assert parent.hear(messages.WorkerDrained) == messages.WorkerDrained(worker=1, broken="")
    assert (ended := parent.hear(messages.JobEnded)).outcome == Outcome.DIED
    assert ended.data == b"kept"
    # What it writes later goes nowhere: nobody reads that pipe any more.
    with pytest.raises(BrokenPipeError):
        os.write(kept, b"garbage")
    os.close(kept)


def test_everything_that_a_dead_worker_had_published_counts(parent: HandParent) -> None:
    worker = parent.worker()
    pieces = [bytes((number,)) * 1000 for number in range(50)]
    frames = [worker.frame(Kind.START, 1, THRESHOLD)]
    frames += [worker.frame(Kind.DATA, 1, piece, chunks=1) for piece in pieces]
    worker.raw(b"".join(frames))
    worker.die()
    ended = parent.hear(messages.JobEnded)
    assert (ended.outcome, ended.chunks) == (Outcome.DIED, 50)
    assert ended.data == b"".join(pieces)


def test_the_word_of_the_parent_that_a_worker_is_dead_is_enough(parent: HandParent) -> None:
    worker = parent.worker()
    worker.say(Kind.START, 1, THRESHOLD)
    parent.tell(messages.WorkerLeft(worker=1))
    assert parent.hear(messages.WorkerDrained).worker == 1
    parent.tell(messages.WorkerLeft(worker=1))  # once more, and of one that never was
    parent.tell(messages.WorkerLeft(worker=99))
    other = parent.worker()
    other.say(Kind.READY)
    assert parent.hear(messages.WorkerReady).worker == 2


@pytest.mark.parametrize("lately", [True, False])
def test_the_number_of_a_worker_that_died_long_ago_is_not_taken_for_its_group(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, lately: bool
) -> None:
    monkeypatch.setattr(settings, "JUST_DIED_S", 1000.0 if lately else -1000.0)
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as group:
        parent = HandParent(directory)
        worker = parent.worker(pid=group.pid)
        worker.die()
        parent.hear(messages.WorkerDrained)
        os.close(parent.death)
        parent.death = -1
        parent.thread.join()
        parent.let_go()
        group.terminate()
        assert group.wait() == -(signal.SIGKILL if lately else signal.SIGTERM)


def test_when_the_parent_is_gone_the_sink_removes_the_run_directory_and_leaves(
    directory: RunDirectory,
) -> None:
    parent = HandParent(directory)
    worker = parent.worker()
    worker.say(Kind.START, 1, START.pack(0))
    worker.chunk(1, b"in a file")
    assert wait_until(lambda: list(directory.path.glob("out-*")))
    worker.die()
    parent.hear(messages.WorkerDrained)
    os.close(parent.death)
    parent.death = -1
    parent.thread.join(60)
    assert not parent.thread.is_alive()
    assert not directory.path.exists()
    parent.let_go()


# -- liars -----------------------------------------------------------------------------------------


def bad_header(worker: HandWorker) -> None:
    worker.raw(b"\xff" * 32)


def two_gib(worker: HandWorker) -> None:
    worker.say(Kind.DATA, 1, length=2**31)


def unknown_kind(worker: HandWorker) -> None:
    worker.say(99, 1)


def unknown_slot(worker: HandWorker) -> None:
    worker.say(Kind.DATA, 1, slot=settings.SLOT_COUNT, length=1)


def unknown_stream(worker: HandWorker) -> None:
    worker.say(Kind.DATA, 1, detail=9)


def unknown_outcome(worker: HandWorker) -> None:
    worker.say(Kind.END, 1, detail=Outcome.DIED)


def chunk_for_an_unknown_job(worker: HandWorker) -> None:
    worker.say(Kind.DATA, 77, b"x", chunks=1)


def chunk_for_the_job_of_another_worker(worker: HandWorker) -> None:
    worker.say(Kind.DATA, 1000, b"x", chunks=1)


def chunk_for_a_job_that_is_over(worker: HandWorker) -> None:
    worker.say(Kind.END, 1, detail=Outcome.RETURNED)
    worker.say(Kind.DATA, 1, b"x", chunks=1)


def chunk_in_a_slot_for_a_job_that_is_over(worker: HandWorker) -> None:
    worker.say(Kind.END, 1, detail=Outcome.RETURNED)
    worker.say(Kind.DATA, 1, chunks=1, slot=0, length=100)


def end_said_twice(worker: HandWorker) -> None:
    worker.say(Kind.END, 1, detail=Outcome.RETURNED)
    worker.say(Kind.END, 1, detail=Outcome.RETURNED)


def end_of_an_unknown_job(worker: HandWorker) -> None:
    worker.say(Kind.END, 77, detail=Outcome.RETURNED)


def start_said_twice(worker: HandWorker) -> None:
    worker.say(Kind.START, 1, THRESHOLD)


def start_of_another_job_within_one(worker: HandWorker) -> None:
    worker.say(Kind.START, 2, THRESHOLD)


def start_without_a_threshold(worker: HandWorker) -> None:
    worker.say(Kind.END, 1, detail=Outcome.RETURNED)
    worker.say(Kind.START, 2, b"abc")


def gap_in_the_sequence(worker: HandWorker) -> None:
    worker.frame(Kind.DATA, 1)
    worker.say(Kind.DATA, 1, b"x", chunks=1)


def flood_of_slots(worker: HandWorker) -> None:
    frames = b"".join(
        worker.frame(Kind.DATA, 1, chunks=1, slot=0, length=1) for _ in range(100_000)
    )
    with suppress(BrokenPipeError):  # it is given up in the midst of it
        worker.raw(frames)


LIES = [
    bad_header,
    two_gib,
    unknown_kind,
    unknown_slot,
    unknown_stream,
    unknown_outcome,
    chunk_for_an_unknown_job,
    chunk_for_the_job_of_another_worker,
    chunk_for_a_job_that_is_over,
    chunk_in_a_slot_for_a_job_that_is_over,
    end_said_twice,
    end_of_an_unknown_job,
    start_said_twice,
    start_of_another_job_within_one,
    start_without_a_threshold,
    gap_in_the_sequence,
    flood_of_slots,
]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_worker_that_lies_is_given_up_and_no_other_one(parent: HandParent, lie: Any) -> None:
    liar, honest = parent.worker(), parent.worker()
    honest.say(Kind.START, 1000, THRESHOLD)
    honest.chunk(1000, b"a" * 10_000)
    liar.say(Kind.START, 1, THRESHOLD)
    liar.chunk(1, b"some")
    lie(liar)
    drained = parent.hear(messages.WorkerDrained)
    assert drained.worker == liar.number
    assert "ProtocolError" in drained.broken
    ended = parent.hear(messages.JobEnded)
    assert (ended.worker, ended.ticket) == (liar.number, 1)
    assert ended.data.startswith(b"some")
    if ended.outcome != Outcome.DIED:  # the lie came after an honest end
        assert lie in {
            chunk_for_a_job_that_is_over,
            chunk_in_a_slot_for_a_job_that_is_over,
            end_said_twice,
            start_without_a_threshold,
        }
    with pytest.raises(BrokenPipeError):  # its queue is closed
        os.write(liar.frames, b"x")
    # What the parent says of it later is no news.
    parent.tell(messages.WorkerLeft(worker=liar.number))
    honest.chunk(1000, b"b" * 10_000)
    honest.say(Kind.END, 1000, detail=Outcome.RETURNED)
    ended = parent.hear(messages.JobEnded)
    assert (ended.ticket, ended.outcome) == (1000, Outcome.RETURNED)
    assert ended.data == b"a" * 10_000 + b"b" * 10_000


def test_a_worker_that_scribbles_over_its_slots_spoils_its_own_job_only(
    parent: HandParent,
) -> None:
    liar, honest = parent.worker(), parent.worker()
    assert liar.slots is not None
    for worker in (liar, honest):
        worker.say(Kind.START, worker.number, THRESHOLD)
    for number in range(50):
        liar.slots[:] = os.urandom(1000) * (len(liar.slots) // 1000) + bytes(len(liar.slots) % 1000)
        liar.say(Kind.DATA, 1, chunks=1, slot=number % 4, length=5000)
        honest.chunk(2, bytes((number,)) * 5000)
    for worker in (liar, honest):
        worker.say(Kind.END, worker.number, detail=Outcome.RETURNED)
    ended = {m.ticket: m for m in (parent.hear(messages.JobEnded) for _ in range(2))}
    assert ended[1].size == 250_000
    assert ended[2].data == b"".join(bytes((n,)) * 5000 for n in range(50))


# -- a parent that does not keep up ----------------------------------------------------------------


def test_a_parent_that_does_not_read_holds_the_workers_back_and_gets_all(
    parent: HandParent,
) -> None:
    workers = [parent.worker() for _ in range(2)]
    each, jobs = MIB, 30
    piece = bytes(settings.SLOT_BYTES)
    said = [0, 0]

    def work(worker: HandWorker) -> None:
        for ticket in range(worker.number * 100, worker.number * 100 + jobs):
            worker.say(Kind.START, ticket, THRESHOLD)
            for _ in range(each // len(piece)):
                worker.chunk(ticket, piece)
            worker.say(Kind.END, ticket, detail=Outcome.RETURNED)
            said[worker.number - 1] += 1

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    # They stop when what waits for the parent is more than the sink wants to hold.
    limit = settings.REPORT_BACKLOG_BYTES // each + 10
    assert wait_until(lambda: parent.control.backlog_bytes > settings.REPORT_BACKLOG_BYTES, 60)
    assert sum(said) < limit
    assert parent.control.backlog_bytes < settings.REPORT_BACKLOG_BYTES + 4 * each
    ended = [parent.hear(messages.JobEnded) for _ in range(2 * jobs)]
    assert {message.size for message in ended} == {each}
    assert len({message.ticket for message in ended}) == 2 * jobs
    for thread in threads:
        thread.join()


# -- following and progress ------------------------------------------------------------------------


def test_progress_is_told_now_and_then_with_the_file_once_there_is_one(
    parent: HandParent, directory: RunDirectory
) -> None:
    worker = parent.worker()
    worker.say(Kind.START, 1, THRESHOLD)
    assert parent.hear(messages.JobStarted) == messages.JobStarted(worker=1, ticket=1)
    worker.chunk(1, b"abc")
    told = parent.hear(messages.JobProgressed)
    assert (told.ticket, told.bytes_written, told.chunks, told.name) == (1, 3, 1, "")
    parent.tell(messages.FollowJob(ticket=1))
    told = parent.hear(messages.JobProgressed)
    assert Path(directory.path, told.name).read_bytes() == b"abc"
    worker.chunk(1, b"def")
    assert parent.hear(messages.JobProgressed).bytes_written == 6
    assert Path(directory.path, told.name).read_bytes() == b"abcdef"
    worker.say(Kind.END, 1, detail=Outcome.RETURNED)
    assert data_of(parent, parent.hear(messages.JobEnded)) == b"abcdef"
    parent.tell(messages.FollowJob(ticket=1))  # too late: no news


def test_what_the_parent_holds_counts_against_the_budget(directory: RunDirectory) -> None:
    with closing(HandParent(directory, memory_budget=10_000, elsewhere_bytes=6_000)) as parent:
        worker = parent.worker()

        def run(ticket: int, size: int) -> messages.JobEnded:
            worker.say(Kind.START, ticket, THRESHOLD)
            worker.chunk(ticket, bytes(size))
            worker.say(Kind.END, ticket, detail=Outcome.RETURNED)
            return parent.hear(messages.JobEnded)

        assert run(1, 3_000).data == bytes(3_000)  # 9,000 of 10,000
        spilled = run(2, 2_000)
        assert (spilled.data, spilled.size) == (b"", 2_000)
        assert data_of(parent, spilled) == bytes(2_000)
        parent.tell(messages.MemoryHeld(change=-5_000))
        worker.say(Kind.READY)  # heard after it, or in the same round
        parent.hear(messages.WorkerReady)
        assert run(3, 2_000).data == bytes(2_000)
