"""The jobs of one task: what makes a parcel, and which jobs are given back. Without Ray."""

import gc
import json
import math
import os
import tracemalloc
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, final

import pytest

from collector import settings
from collector.integrations.ray.carrier import Carrier
from collector.integrations.ray.orders import DIED, Parcel, Piece, pieces_of
from collector.integrations.ray.turn import Turn
from collector.process.engine import Exit
from collector.wire.frames import Frame, Kind, PayloadPlace, Stream
from collector.wire.messages import RunJob

LIMIT: Final = 1000
Said = tuple[int, int, bytes]
"""Kind, ticket and payload of what a worker says."""


class Swallows:
    """As the writer of a queue."""

    def carry(self, _frame: Frame, _payload: bytes | memoryview) -> None:
        """Nobody reads it."""


def test_logs_that_were_carried_take_no_memory(tmp_path: Path) -> None:
    writer: Any = Swallows()
    carrier = Carrier(writer, os.fspath(tmp_path))

    def carries(number: int) -> None:
        name = f"log-{number:040}"
        for data in (b"", b"one ", b"two"):
            carrier.log(name, memoryview(data))
        path = os.path.join(tmp_path, name)  # pathlib of 3.12 keeps each name
        with open(path, "rb") as file:
            assert file.read() == b"one two"
        os.unlink(path)

    carries(1000)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(500):
            carries(number)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000


@final
class Worker:
    """A worker that says what a test has written down, and its queue; one list a read."""

    def __init__(self, *reads: list[Said], dies: bool = False) -> None:
        self.worker: Any = self
        self.reader: Any = self
        self.jobs = 0
        self.sent: list[int] = []
        self.recalls = 0
        self.closed = 0
        self._reads = deque(reads)
        self._dies = dies

    def send(self, job: RunJob, _parts: object) -> None:
        self.sent.append(job.ticket)

    def recall(self) -> None:
        """It gives back all but the first one that is left."""
        self.recalls += 1
        behind = [(Kind.HANDED_BACK, ticket, b"") for ticket in reversed(self.sent[1:])]
        self._reads.append([(int(kind), ticket, payload) for kind, ticket, payload in behind])
        del self.sent[1:]

    def wait(self, _pause_s: float) -> tuple[bool, bool]:
        return bool(self._reads), self._dies

    def read(self) -> Iterator[tuple[Frame, bytes]] | None:
        if not self._reads:
            return None
        said = self._reads.popleft()
        return iter([(_frame(kind, ticket, data), data) for kind, ticket, data in said])

    def close(self) -> Exit:
        self.closed += 1
        return Exit(-9, 2)


def _frame(kind: int, ticket: int, data: bytes) -> Frame:
    return Frame(kind, Stream.OUTPUT, PayloadPlace.INLINE, 0, len(data), 1, 0, ticket)


def one(ticket: int, value: bytes = b"") -> list[Said]:
    return [(Kind.START, ticket, b"threshold"), (Kind.END, ticket, value)]


def run(worker: Worker, *tickets: int) -> Iterator[list[Piece]]:
    """Yield the pieces of each parcel."""
    reader: Any = worker
    nobody: Any = SimpleNamespace(has_killed=lambda: False, look=lambda _: None)
    turn = Turn(reader, nobody, LIMIT, nobody, 0.0)
    jobs: list[Any] = [(SimpleNamespace(ticket=ticket, log_name=""), ()) for ticket in tickets]
    for parcel in turn.run(jobs):
        yield list(pieces_of(parcel))


def told(parcel: list[Piece]) -> list[tuple[int, int]]:
    return [(piece.kind, piece.ticket) for piece in parcel]


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is due, but what a test says."""
    for name in ("RAY_PARCEL_DEADLINE_S", "RAY_RESULT_DEADLINE_S", "RAY_RECALL_AFTER_S"):
        monkeypatch.setattr(settings, name, math.inf)
    monkeypatch.setattr(settings, "RAY_TURN_S", math.inf)


def test_what_several_jobs_say_is_one_parcel() -> None:
    worker = Worker(one(1), one(2), one(3))
    (parcel,) = run(worker, 1, 2, 3)
    assert told(parcel) == [(kind, t) for t in (1, 2, 3) for kind in (Kind.START, Kind.END)]
    assert (worker.jobs, worker.closed) == (3, 0)


def test_an_end_does_not_wait_for_that_of_the_next_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "RAY_RESULT_DEADLINE_S", 0)
    parcels = run(Worker([*one(1), (Kind.START, 2, b"threshold")]), 1, 2)
    assert told(next(parcels)) == [(Kind.START, 1), (Kind.END, 1), (Kind.START, 2)]
    parcels.close()  # type: ignore[attr-defined]  # a generator


def test_a_start_does_not_wait_for_what_the_job_says_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "RAY_RESULT_DEADLINE_S", 0)
    start, end = one(1)
    assert [told(parcel) for parcel in run(Worker([start], [end]), 1)] == [
        [(Kind.START, 1)],
        [(Kind.END, 1)],
    ]


def test_a_parcel_is_no_larger_than_it_may_be() -> None:
    chunk = b"c" * (LIMIT * 5 // 2)
    reads: list[list[Said]] = [
        [(Kind.START, 1, b"t"), (Kind.DATA, 1, chunk), (Kind.END, 1, b"v" * 300)],
        *(one(ticket, b"v" * 300) for ticket in (2, 3, 4)),
    ]
    parcels = list(run(Worker(*reads), 1, 2, 3, 4))
    pieces = [piece for parcel in parcels for piece in parcel]
    assert b"".join(p.payload for p in pieces if p.kind == Kind.DATA) == chunk
    assert sum(piece.chunks for piece in pieces if piece.kind == Kind.DATA) == 1
    assert [p.ticket for p in pieces if p.kind == Kind.END] == [1, 2, 3, 4]
    heads = 22
    for parcel in parcels:
        assert sum(len(piece.payload) for piece in parcel) <= LIMIT
        assert sum(len(piece.payload) + heads for piece in parcel) <= LIMIT + 3 * heads


@pytest.mark.parametrize("late", ["RAY_RECALL_AFTER_S", "RAY_TURN_S"])
def test_jobs_behind_a_long_one_are_given_back(late: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where none is long, and all together are."""
    monkeypatch.setattr(settings, late, 0)
    monkeypatch.setattr(settings, "RAY_RESULT_DEADLINE_S", 0)
    worker = Worker([(Kind.START, 1, b"threshold")])
    parcels = run(worker, 1, 2, 3)
    pieces = told(next(parcels))
    while (Kind.HANDED_BACK, 2) not in pieces:
        pieces += told(next(parcels))
    assert pieces == [(Kind.START, 1), (Kind.HANDED_BACK, 3), (Kind.HANDED_BACK, 2)]
    assert worker.recalls == 1
    parcels.close()  # type: ignore[attr-defined]  # a generator
    assert worker.closed == 1  # with the job that it runs


def test_a_death_is_said_after_all_that_was_before_it() -> None:
    rest: list[Said] = [(Kind.START, 2, b"threshold"), (Kind.DATA, 2, b"data")]
    worker = Worker(one(1), rest, dies=True)
    pieces = [piece for parcel in run(worker, 1, 2, 3) for piece in parcel]
    assert told(pieces[2:-1]) == [(Kind.START, 2), (Kind.DATA, 2)]
    assert pieces[-1].kind == DIED
    assert json.loads(bytes(pieces[-1].payload)) == [-9, False, 2]
    assert worker.closed == 1


def test_a_parcel_joins_the_output_of_one_job_only() -> None:
    parcel = Parcel()
    for ticket, chunk in ((1, b"a"), (1, b"b"), (2, b"c")):
        parcel.add(Kind.DATA, chunk, ticket=ticket, detail=Stream.OUTPUT, chunks=1)
    assert [(p.ticket, p.chunks, bytes(p.payload)) for p in pieces_of(parcel.take())] == [
        (1, 2, b"ab"),
        (2, 1, b"c"),
    ]
    assert parcel.size == 0
