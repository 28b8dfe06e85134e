"""Faults 33, 35, 36 against a real sink: a worker that lies loses its job, and no other."""

import itertools
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import pytest

from collector import Collector, Job, JobError, WorkerCrashError, current_job
from collector.process.queue.chunk_queue import QueueWriter
from collector.wire.frames import HEADER_BYTES, MAGIC, VERSION, Kind, Stream
from collector.wire.outcome import Outcome
from tests.support.inside import (
    count_a_frame,
    next_sequence,
    pipe_of,
    set_pace,
    sink_pid,
    slots_of,
    supervisor_held_up,
    ticket_of,
    worker_pids,
    writer_of_this_worker,
)
from tests.support.jobs import MIB, numbered, sha256, square, wait_for, write_in_halves
from tests.support.leaks import is_running, wait_until
from tests.support.tiers import each_method, each_method_but
from tests.support.tree import stopped

pytestmark = pytest.mark.usefixtures("one_server")

Lie = Callable[[QueueWriter, int], None]
_HEADER: Final = struct.Struct("<HBBBBHIIQQ")


def say(writer: QueueWriter, *data: bytes) -> None:
    os.write(pipe_of(writer), b"".join(data))


def head(writer: QueueWriter, ticket: int, **changes: int) -> bytes:
    """A header as it is due now, but for the changes."""
    fields = {
        "magic": MAGIC,
        "version": VERSION,
        "kind": Kind.DATA,
        "detail": Stream.OUTPUT,
        "place": 0,
        "slot": 0,
        "length": 0,
        "chunks": 1,
        "sequence": next_sequence(writer),
        "ticket": ticket,
    }
    count_a_frame(writer)
    assert _HEADER.size == HEADER_BYTES
    return _HEADER.pack(*(fields | changes).values())


def _publish_too_many(writer: QueueWriter, ticket: int) -> None:
    """Publish one slot again and again, and read no credit."""
    for _ in range(100_000):
        say(writer, head(writer, ticket, place=1, slot=1, length=1))


LIES: Final[dict[str, Lie]] = {
    "2 GiB in the pipe": lambda w, t: say(w, head(w, t, length=2**31)),
    "4 GiB less one in a slot": lambda w, t: say(w, head(w, t, place=1, length=2**32 - 1)),
    "a slot that is not there": lambda w, t: say(w, head(w, t, place=1, slot=9, length=10)),
    "a place that is not there": lambda w, t: say(w, head(w, t, place=7)),
    "a bad magic": lambda w, t: say(w, head(w, t, magic=0xDEAD)),
    "another version": lambda w, t: say(w, head(w, t, version=9)),
    "an unknown kind": lambda w, t: say(w, head(w, t, kind=99)),
    "an unknown stream": lambda w, t: say(w, head(w, t, detail=9)),
    "an outcome that only the sink may say": lambda w, t: say(
        w, head(w, t, kind=Kind.END, detail=Outcome.LOST)
    ),
    "a chunk of an unknown job": lambda w, t: say(w, head(w, t + 1000, length=3), b"abc"),
    "a gap in the sequence": lambda w, t: say(
        w, head(w, t, sequence=next_sequence(w) + 1, length=3), b"abc"
    ),
    "a frame twice": lambda w, t: say(w, *[head(w, t, sequence=next_sequence(w))] * 2),
    "a second start": lambda w, t: say(w, head(w, t, kind=Kind.START, length=8), bytes(8)),
    "a start that is too short": lambda w, t: say(w, head(w, t, kind=Kind.START, length=3), b"abc"),
    "garbage": lambda w, _: say(w, os.urandom(100).replace(b"\x7c", b"\x00")),
    "an end of an unknown job": lambda w, t: say(w, head(w, t + 1000, kind=Kind.END)),
    "slots that it does not have": _publish_too_many,
}


def writer_and_ticket() -> tuple[QueueWriter, int]:
    writer = writer_of_this_worker()
    return writer, ticket_of(writer)


def lie(which: str) -> NoReturn:
    """Write something true, then the lie, and wait to be ended for it."""
    for chunk in numbered(6 * MIB):
        current_job().write(chunk)
    current_job().flush()
    LIES[which](*writer_and_ticket())
    while True:
        wait_for("/nowhere")


@pytest.fixture
def marks(tmp_path: Path) -> tuple[str, str]:
    return os.fspath(tmp_path / "begun"), os.fspath(tmp_path / "until")


@each_method_but("spawn")
def test_a_worker_that_lies_loses_its_job_and_no_other(method: str, marks: tuple[str, str]) -> None:
    with Collector(2, method) as collector:
        honest = collector.submit(write_in_halves, 12 * MIB, *marks)
        wait_for(marks[0])
        sink, workers = sink_pid(collector), worker_pids(collector)
        for which in LIES:
            job: Job[None] = collector.submit(lie, which)
            error = job.exception(60)
            assert isinstance(error, WorkerCrashError), (which, error)
            assert "was given up by the collector process" in str(error), which
            assert not job.output().complete, which
            kept = job.output().read()
            if which not in ("slots that it does not have", "a frame twice"):
                assert kept == b"".join(numbered(6 * MIB)), which
            job.output().close()
            assert sink_pid(collector) == sink, which
        Path(marks[1]).touch()
        assert honest.result(60) == 12 * MIB
        assert sha256(honest.output()) == sha256(numbered(12 * MIB))
        assert any(is_running(worker) for worker in workers)  # the honest one's
        assert collector.submit(square, 3).result() == 9
        honest.output().close()


def note_down(number: int, path: str, *, garbage: bool = False) -> None:
    with open(path, "a", encoding="ascii") as file:
        file.write(f"{number} ")
    if garbage:
        LIES["garbage"](*writer_and_ticket())


@each_method
def test_what_a_worker_runs_after_its_lie_is_lost_and_not_run_again(
    method: str, tmp_path: Path
) -> None:
    """Jobs were sent ahead, and it has them before the sink has read the lie."""
    path = tmp_path / "ran"
    with Collector(1, method) as collector:
        assert collector.submit(square, 2).result() == 4
        sink = sink_pid(collector)
        with stopped(sink):
            with supervisor_held_up(collector):
                set_pace(collector, 0.0)
                jobs = [
                    collector.submit(note_down, number, os.fspath(path), garbage=not number)
                    for number in range(20)
                ]
            assert wait_until(lambda: path.exists() and len(path.read_text().split()) == 20)
        for job in jobs:
            assert isinstance(job.exception(60), WorkerCrashError)
            assert "was given up by the collector process" in str(job.exception())
        assert collector.submit(square, 3).result() == 9
        assert sink_pid(collector) == sink
    assert path.read_text().split() == [str(number) for number in range(20)]


def end_twice() -> NoReturn:
    """Say that this job has ended, and once more; then wait to be ended."""
    current_job().write(b"all of it")
    writer, ticket = writer_and_ticket()
    writer.flush()
    end = {"kind": Kind.END, "detail": Outcome.RETURNED, "chunks": 0}
    say(writer, head(writer, ticket, **end), head(writer, ticket, **end))
    while True:
        wait_for("/nowhere")


@each_method
def test_an_end_that_comes_twice_is_one_end_of_one_job(method: str) -> None:
    with Collector(1, method) as collector:
        assert collector.submit(square, 2).result() == 4
        sink = sink_pid(collector)
        job: Job[None] = collector.submit(end_twice)
        assert isinstance(job.exception(60), JobError)  # an empty value is none
        assert job.output().read() == b"all of it"
        assert sha256(collector.submit(numbered, MIB).output()) == sha256(numbered(MIB))
        assert sink_pid(collector) == sink


def claim_the_jobs_of_others(kind: Kind) -> None:
    """Say of every ticket around one's own that it was handed back, or has ended."""
    writer, ticket = writer_and_ticket()
    for other in range(max(0, ticket - 20), ticket + 20):
        if other != ticket:
            say(writer, head(writer, other, kind=kind, chunks=0, detail=0))


@each_method
@pytest.mark.parametrize("kind", [Kind.HANDED_BACK, Kind.END])
def test_no_worker_can_end_or_hand_back_the_job_of_another(
    method: str, kind: Kind, marks: tuple[str, str], tmp_path: Path
) -> None:
    with Collector(2, method) as collector:
        honest = collector.submit(write_in_halves, 12 * MIB, *marks)
        wait_for(marks[0])
        sink = sink_pid(collector)
        liar = collector.submit(claim_the_jobs_of_others, kind)
        error = liar.exception(60)
        assert error is None or isinstance(error, WorkerCrashError)
        assert collector.submit(square, 3).result() == 9
        Path(marks[1]).touch()
        assert honest.result(60) == 12 * MIB
        assert honest.attempt == 1
        assert sha256(honest.output()) == sha256(numbered(12 * MIB))
        assert sink_pid(collector) == sink
        honest.output().close()


def scribble() -> None:
    """Write, and change every slot at once over and over while it is read."""
    slots = slots_of(writer_of_this_worker())
    for chunk in itertools.islice(itertools.cycle([b"a" * MIB, b"b" * MIB]), 20):
        current_job().write(chunk)
        slots[:] = os.urandom(1) * len(slots)


@each_method
def test_a_worker_that_scribbles_over_its_slots_harms_its_own_output_only(
    method: str, marks: tuple[str, str]
) -> None:
    with Collector(2, method) as collector:
        honest = collector.submit(write_in_halves, 12 * MIB, *marks)
        wait_for(marks[0])
        sink = sink_pid(collector)
        Path(marks[1]).touch()
        scribbler = collector.submit(scribble)
        assert scribbler.exception(60) is None
        assert scribbler.output().size == 20 * MIB
        assert sha256(honest.output(60)) == sha256(numbered(12 * MIB))
        assert collector.submit(square, 3).result() == 9
        assert sink_pid(collector) == sink
        for output in (scribbler.output(), honest.output()):
            output.close()
