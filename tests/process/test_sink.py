"""The sink, driven by hand: workers that are honest or dead, a parent that is slow or gone."""

import os
import signal
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest

from collector import settings
from collector.store.rundir.directory import RunDirectory
from collector.wire import messages
from collector.wire.frames import START, Kind, Stream
from collector.wire.outcome import Outcome
from tests.support.handsink import THRESHOLD, HandParent, HandWorker, data_of
from tests.support.jobs import KIB, MIB
from tests.support.leaks import wait_until

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
            assert said.outcome == (outcome if arrived >= end else Outcome.CRASHED)
            assert said.data == b"".join(WRITTEN[ticket][: arrived - start])


def test_a_death_is_noticed_while_a_grandchild_holds_the_pipe_open(parent: HandParent) -> None:
    worker = parent.worker()
    kept = os.dup(worker.frames)
    worker.say(Kind.START, 1, THRESHOLD)
    worker.chunk(1, b"kept")
    worker.die()
    assert parent.hear(messages.WorkerDrained) == messages.WorkerDrained(worker=1, broken="")
    assert (ended := parent.hear(messages.JobEnded)).outcome == Outcome.CRASHED
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
    assert (ended.outcome, ended.chunks) == (Outcome.CRASHED, 50)
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
        directory.release()  # as the kernel does with the locks of a dead process
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
    directory.release()  # as the kernel does with the locks of a dead process
    os.close(parent.death)
    parent.death = -1
    parent.thread.join(60)
    assert not parent.thread.is_alive()
    assert not directory.path.exists()
    parent.let_go()


def test_a_sink_that_leaves_last_removes_the_run_directory(directory: RunDirectory) -> None:
    parent = HandParent(directory)
    directory.release()  # as a parent does that ends without waiting for the sink
    assert directory.path.exists()
    parent.close()
    assert not directory.path.exists()


def test_a_sink_that_leaves_first_removes_nothing(directory: RunDirectory) -> None:
    HandParent(directory).close()
    assert directory.path.exists()


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


@pytest.mark.parametrize("followed", [False, True])
def test_a_start_is_told_before_any_progress(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, *, followed: bool
) -> None:
    monkeypatch.setattr(settings, "PROGRESS_INTERVAL_S", 0.001)  # due long before the start is
    with closing(HandParent(directory)) as parent:
        worker = parent.worker()
        for ticket in range(1, 6):
            worker.say(Kind.START, ticket, THRESHOLD)
            worker.chunk(ticket, b"abc")
            if followed:
                parent.tell(messages.FollowJob(ticket=ticket))
            assert parent.hear(messages.JobProgressed).bytes_written == 3
            assert messages.JobStarted(worker=1, ticket=ticket) in parent.heard
            worker.say(Kind.END, ticket, detail=Outcome.RETURNED)
            parent.hear(messages.JobEnded)


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
