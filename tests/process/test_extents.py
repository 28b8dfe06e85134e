"""Extents of a job's file: granted by the sink, filled by a worker, by hand here on either side."""

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from collector import settings
from collector.process.queue.chunk_queue import QueueWriter, make_queue
from collector.process.queue.reader import QueueReader
from collector.wire import messages
from collector.wire.credits import CreditDecoder, Grant
from collector.wire.frames import START, Kind, PayloadPlace, Stream
from collector.wire.outcome import Outcome
from tests.support.extents import BLOCK, block, same
from tests.support.handsink import HandParent, HandWorker, data_of
from tests.support.jobs import MIB
from tests.support.leaks import is_running

AT_ONCE = START.pack(0)
"""Of a job whose output lies in a file from its first byte on."""

SLOT = settings.SLOT_BYTES
GRANTED = settings.EXTENT_BYTES * settings.EXTENT_COUNT


class Credits:
    """What a sink says back to a worker."""

    def __init__(self, worker: HandWorker) -> None:
        self._worker = worker
        self._decoder = CreditDecoder()
        self.slots = b""

    def grants(self, count: int) -> list[Grant]:
        """Wait for so many."""
        came = list[Grant]()
        while len(came) < count:
            assert select.select([self._worker.credits], [], [], 60)[0], "nothing is granted"
            slots, grants = self._decoder.feed(os.read(self._worker.credits, 4096))
            self.slots += slots
            came += grants
        return came


def full_slot(worker: HandWorker, ticket: int) -> bytes:
    """Publish a slot that is full."""
    assert worker.slots is not None
    worker.slots[:SLOT] = data = os.urandom(SLOT)
    worker.say(Kind.DATA, ticket, detail=Stream.OUTPUT, chunks=1, slot=0, length=SLOT)
    return data


def say_extent(
    worker: HandWorker, ticket: int, length: int, *, astray: bool = False, chunks: int = 1
) -> None:
    """Say that so much was appended to the file."""
    worker.raw(worker.encoder.encode_extent(ticket, length, chunks, astray=astray))


class Granted(NamedTuple):
    """A worker that has been granted a file."""

    worker: HandWorker
    grant: Grant
    credits: Credits
    data: bytes

    def append(self, size: int) -> bytes:
        """Append to the file, and publish that."""
        data = os.urandom(size)
        with open(self.grant.path, "ab") as file:
            file.write(data)
        say_extent(self.worker, 5, size)
        return data


def granted(parent: HandParent, worker: HandWorker) -> Granted:
    """Let a worker's job be granted its file."""
    worker.say(Kind.START, 5, AT_ONCE)
    data = full_slot(worker, 5)
    back = Credits(worker)
    (grant,) = back.grants(1)
    return Granted(worker, grant, back, data)


# -- what the sink grants --------------------------------------------------------------------------


def test_a_full_slot_in_a_file_is_answered_with_a_grant_of_what_follows(parent: HandParent) -> None:
    worker, grant, _, data = granted(parent, parent.worker())
    status = os.stat(grant.path)
    assert grant == Grant(5, SLOT + GRANTED, status.st_dev, status.st_ino, grant.path)
    assert Path(os.fsdecode(grant.path)).parent == parent.directory.path
    worker.say(Kind.END, 5, detail=Outcome.RETURNED)
    assert data_of(parent, parent.hear(messages.JobEnded)) == data


@pytest.mark.parametrize("threshold", [0, 5 * MIB], ids=["slow", "in memory"])
def test_nothing_is_granted_to_a_slow_job_or_of_an_output_in_memory(
    parent: HandParent, threshold: int
) -> None:
    worker = parent.worker()
    worker.say(Kind.START, 5, START.pack(threshold))
    if threshold:
        full_slot(worker, 5)
    for _ in range(10):
        worker.say(Kind.DATA, 5, chunks=1, slot=0, length=SLOT - 1)
    worker.say(Kind.END, 5, detail=Outcome.RETURNED)
    data_of(parent, parent.hear(messages.JobEnded))
    assert set(os.read(worker.credits, 4096)) == {0}


def test_what_was_published_counts_and_more_is_granted_for_it(parent: HandParent) -> None:
    it = granted(parent, parent.worker())
    data, end = it.data, it.grant.end
    for size in (settings.EXTENT_BYTES, 10, settings.EXTENT_BYTES):
        data += it.append(size)
        if size > 10:
            (more,) = it.credits.grants(1)
            assert (more.ticket, more.path) == (5, b"")
            assert end < more.end == len(data) + GRANTED
            end = more.end
    it.worker.say(Kind.END, 5, detail=Outcome.RETURNED)
    ended = parent.hear(messages.JobEnded)
    assert (ended.size, ended.chunks) == (len(data), 4)
    assert data_of(parent, ended) == data


def test_slots_may_follow_for_good(parent: HandParent) -> None:
    it = granted(parent, parent.worker())
    data = it.data + it.append(1000)
    data += full_slot(it.worker, 5)
    it.worker.say(Kind.END, 5, detail=Outcome.RETURNED)
    assert data_of(parent, parent.hear(messages.JobEnded)) == data


def test_what_a_dead_worker_had_not_published_is_cut_off(parent: HandParent) -> None:
    it = granted(parent, parent.worker())
    data = it.data + it.append(1000)
    with open(it.grant.path, "ab") as file:
        file.write(b"half a write")
    it.worker.die()
    ended = parent.hear(messages.JobEnded)
    assert (ended.outcome, ended.size) == (Outcome.CRASHED, len(data))
    assert data_of(parent, ended) == data


def test_also_before_it_had_published_anything(parent: HandParent) -> None:
    it = granted(parent, parent.worker())
    with open(it.grant.path, "ab") as file:
        file.write(b"half a write")
    it.worker.die()
    assert data_of(parent, parent.hear(messages.JobEnded)) == it.data


def test_what_a_worker_at_its_end_had_not_published_is_no_part_of_an_output(
    parent: HandParent,
) -> None:
    """A worker publishes all that it has written before it says END: this file is others' doing."""
    it = granted(parent, parent.worker())
    with open(it.grant.path, "ab") as file:
        file.write(b"x")
    it.worker.say(Kind.END, 5, detail=Outcome.RETURNED)
    assert parent.hear(messages.JobEnded).outcome == Outcome.LOST


# -- workers that lie ------------------------------------------------------------------------------


def without_a_grant(it: Granted) -> None:
    it.worker.say(Kind.END, 5, detail=Outcome.RETURNED)
    it.worker.say(Kind.START, 6, AT_ONCE)
    it.worker.say(Kind.DATA, 6, b"x", chunks=1)
    say_extent(it.worker, 6, 1)


def without_a_file(it: Granted) -> None:
    it.worker.say(Kind.END, 5, detail=Outcome.RETURNED)
    it.worker.say(Kind.START, 6, AT_ONCE)
    say_extent(it.worker, 6, 0)


def more_than_was_granted(it: Granted) -> None:
    say_extent(it.worker, 5, 10)
    say_extent(it.worker, 5, GRANTED)


def more_than_is_ever_granted(it: Granted) -> None:
    say_extent(it.worker, 5, GRANTED + 1)


def after_a_slot(it: Granted) -> None:
    it.append(10)
    full_slot(it.worker, 5)
    say_extent(it.worker, 5, 10)


def of_the_value(it: Granted) -> None:
    it.worker.raw(_header(it.worker, detail=Stream.VALUE))


def of_a_log_record(it: Granted) -> None:
    it.worker.raw(_header(it.worker, detail=Stream.RECORD))


def of_an_unknown_kind(it: Granted) -> None:
    it.worker.raw(_header(it.worker, slot=2))


def for_another_job(it: Granted) -> None:
    say_extent(it.worker, 1000, 10)


def _header(worker: HandWorker, *, detail: int = Stream.OUTPUT, slot: int = 0) -> bytes:
    head = bytearray(worker.encoder.encode(Kind.DATA, 5, detail=detail, slot=slot, length=1))
    head[5] = PayloadPlace.EXTENT
    return bytes(head)


LIES = [
    without_a_grant,
    without_a_file,
    more_than_was_granted,
    more_than_is_ever_granted,
    after_a_slot,
    of_the_value,
    of_a_log_record,
    of_an_unknown_kind,
    for_another_job,
]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_worker_that_lies_about_extents_is_given_up_and_no_other_one(
    parent: HandParent, lie: Callable[[Granted], None]
) -> None:
    liar, honest = parent.worker(), parent.worker()
    honest.say(Kind.START, 1000, AT_ONCE)
    data = full_slot(honest, 1000)
    liar_has = granted(parent, liar)
    lie(liar_has)
    liar.die()
    drained = parent.hear(messages.WorkerDrained)
    assert drained.worker == liar.number
    assert "ProtocolError" in drained.broken
    honest.say(Kind.END, 1000, detail=Outcome.RETURNED)
    ends = [parent.hear(messages.JobEnded)]
    while ends[-1].ticket != 1000:
        ends.append(parent.hear(messages.JobEnded))
    assert data_of(parent, ends[-1]) == data
    for ended in ends[:-1]:
        if ended.name:
            parent.directory.remove_file(ended.name)


@pytest.fixture
def living() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    ) as process:
        yield process
        process.kill()


def test_a_worker_that_is_given_up_is_dead_before_its_file_is_sealed(
    parent: HandParent, living: subprocess.Popen[bytes]
) -> None:
    worker = parent.worker(pid=living.pid, life=os.pidfd_open(living.pid))
    it = granted(parent, worker)
    it.worker.raw(b"\xff" * 32)
    ended = parent.hear(messages.JobEnded)
    assert not is_running(living.pid)
    assert (ended.outcome, data_of(parent, ended)) == (Outcome.CRASHED, it.data)


def test_what_a_worker_writes_to_that_cannot_be_killed_is_lost(
    parent: HandParent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "WORKERS_GONE_S", 0.1)
    it = granted(parent, parent.worker())  # its process number is nobody's, and it seems to live
    it.worker.raw(b"\xff" * 32)
    ended = parent.hear(messages.JobEnded)
    assert (ended.outcome, ended.name) == (Outcome.LOST, "")
    assert "could not be killed" in ended.error


# -- what the worker does --------------------------------------------------------------------------


class Hand:
    """A worker's queue that is read here, slot by slot into a file; the worker is a child."""

    def __init__(self, path: Path, blocks: int) -> None:
        writer, reader = make_queue()
        self.pid = os.fork()
        if not self.pid:
            for fd in reader:
                os.close(fd)
            try:
                queue = QueueWriter(writer)
                stream = queue.start(7, AT_ONCE)
                for number in range(blocks):
                    stream.write(block(number))
                queue.end(Outcome.RETURNED, b"")
            except BaseException:  # noqa: BLE001 - told by the status
                os._exit(99)
            os._exit(0)
        for fd in writer:
            os.close(fd)
        self.reader = QueueReader(reader)
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by `wait`
        self.published = self.extents = 0
        self.ended = False

    def read(self) -> None:
        """Take what is published."""
        for frame, payload in self.reader.read() or ():
            if frame.kind == Kind.DATA:
                self.published += frame.length
                self.extents += frame.place == PayloadPlace.EXTENT
                if frame.place == PayloadPlace.SLOT:
                    self.file.write(payload)
            self.ended = self.ended or frame.kind == Kind.END

    def read_up_to(self, size: int) -> None:
        """Take what is published until it is so much, or all."""
        while not self.ended and self.published < size:
            self.read()

    def grant(self, end: int, inode: int = 0) -> Grant:
        """What lets the worker write up to there."""
        status = os.fstat(self.file.fileno())
        path = os.fsencode(self.file.name)
        return Grant(7, end, status.st_dev, inode or status.st_ino, path)

    def wait(self) -> int:
        """The exit code of the worker."""
        self.reader.close()
        self.file.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_worker_writes_no_further_than_was_granted(tmp_path: Path) -> None:
    hand = Hand(tmp_path / "file", 64)
    end = 2 * MIB + 1000
    hand.reader.grant(hand.grant(end))
    hand.read_up_to(end)
    assert hand.extents
    while not hand.ended:
        assert hand.published == os.fstat(hand.file.fileno()).st_size == end
        end += 700_000
        hand.reader.grant(Grant(7, end))
        hand.read_up_to(end)
    assert same((tmp_path / "file").read_bytes(), 64)
    assert hand.wait() == 0


def test_a_worker_that_is_granted_another_file_goes_on_by_slots(tmp_path: Path) -> None:
    hand = Hand(tmp_path / "file", 64)
    hand.reader.grant(hand.grant(64 * BLOCK, inode=1))
    while not hand.ended:
        hand.read()
    assert not hand.extents
    assert same((tmp_path / "file").read_bytes(), 64)
    assert hand.wait() == 0


def test_a_grant_of_a_job_that_is_over_is_nothing_to_the_next(tmp_path: Path) -> None:
    hand = Hand(tmp_path / "file", 64)
    hand.reader.grant(hand.grant(64 * BLOCK)._replace(ticket=6))
    while not hand.ended:
        hand.read()
    assert not hand.extents
    assert hand.wait() == 0
