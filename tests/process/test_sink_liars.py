"""The sink, driven by hand: a worker that lies loses what it has, and no other does."""

import os
from contextlib import suppress
from typing import Any

import pytest

from collector import settings
from collector.wire import messages
from collector.wire.frames import Kind
from collector.wire.outcome import Outcome
from tests.support.handsink import THRESHOLD, HandParent, HandWorker


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
    worker.say(Kind.END, 1, detail=Outcome.CRASHED)


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


def ticket_that_no_message_can_say(worker: HandWorker) -> None:
    worker.say(Kind.START, 2**63, THRESHOLD)


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
    ticket_that_no_message_can_say,
    gap_in_the_sequence,
    flood_of_slots,
]


def test_a_worker_whose_descriptors_did_not_all_come_is_refused_and_no_other_one(
    parent: HandParent,
) -> None:
    """The sink may have no more; it died of that, and all jobs with it."""
    for came in range(3):
        pipes = [os.pipe() for _ in range(max(came, 1))]
        joined = messages.WorkerJoined(worker=77, pid=2**22 + 1, slots=1)
        parent.channel.post_with(joined, [read for read, _ in pipes][:came] or [pipes[0][0]])
        for fd in (fd for pipe in pipes for fd in pipe):
            os.close(fd)
        drained = parent.hear(messages.WorkerDrained)
        assert drained.worker == 77
        assert "refused by the collector process: [Errno 24]" in drained.broken
        honest = parent.worker()
        honest.say(Kind.START, came + 1, THRESHOLD)
        honest.chunk(came + 1, b"a")
        honest.say(Kind.END, came + 1, detail=Outcome.RETURNED)
        assert parent.hear(messages.JobEnded).data == b"a"


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
    if ended.outcome != Outcome.CRASHED:  # the lie came after an honest end
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
