"""A seat of the pump: what goes into one task, what is handed back, who is blamed. Without Ray."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, final

import pytest

from collector import settings
from collector.integrations.ray.carrier import Carrier
from collector.integrations.ray.orders import DIED, Job, Parcel
from collector.integrations.ray.seats import Seat
from collector.wire.frames import HANDED_BACK_BY, START, START_OF, Frame, Kind

NUMBER: Final = 5
THRESHOLD: Final = 1000


@final
class Desk:
    """One seat, the tasks that it starts, and what it has carried."""

    def __init__(self) -> None:
        self.tasks: list[list[int]] = []
        """The tickets of each task."""
        self.carried: list[tuple[int, int, bytes]] = []
        self.cancelled = 0
        self._parcels: asyncio.Queue[Parcel | Exception | None] = asyncio.Queue()
        self._death, self._writing = os.pipe()
        os.set_blocking(self._death, False)
        writer: Any = self
        tasks: Any = self
        self.gone = 0
        self.seat = Seat(NUMBER, self._writing, tasks, Carrier(writer, "/nowhere"), self._go)

    def _go(self) -> None:
        self.gone += 1

    def carry(self, frame: Frame, payload: bytes | memoryview) -> None:
        """As of the writer of a queue."""
        self.carried.append((frame.kind, frame.ticket, bytes(payload)))

    def start(self, jobs: Sequence[Job], *, spare: bool) -> AsyncIterator[Awaitable[Any]]:
        """As of `Tasks`."""
        assert spare
        self.tasks.append([job.ticket for job in jobs])
        return self._stream()

    def cancel(self, _stream: object, *, force: bool) -> None:
        """As of `Tasks`."""
        self.cancelled += 1

    async def _stream(self) -> AsyncIterator[Awaitable[Any]]:
        while (parcel := await self._parcels.get()) is not None:
            if isinstance(parcel, Exception):
                raise parcel
            ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            ready.set_result(parcel.take())
            yield ready

    def send(self, *tickets: int) -> None:
        """Send it jobs."""
        for ticket in tickets:
            self.seat.take(Job(ticket, "", b"run", ()))

    async def hears(self, *said: tuple[Any, ...] | Exception | None) -> None:
        """Have its task say something: pieces; that it has failed; or that it is over, by None."""
        for one in said:
            if isinstance(one, tuple):
                kind, ticket, *payload = one
                parcel = Parcel()
                parcel.add(kind, *payload, ticket=ticket)
                self._parcels.put_nowait(parcel)
            else:
                self._parcels.put_nowait(one)
        for _ in range(50):  # until nothing in this loop has anything to do
            await asyncio.sleep(0)

    def end(self) -> list[Any] | None:
        """What the parent was told of its death: code, whether for memory, why, and what begun."""
        try:
            said = os.read(self._death, 10_000)
        except BlockingIOError:
            return None
        end: list[Any] = json.loads(said)
        return end

    def close(self) -> None:
        """Close both ends, of which a dead seat has closed its own."""
        os.close(self._death)
        if not self.gone:
            os.close(self._writing)


def begins(ticket: int) -> tuple[Any, ...]:
    return Kind.START, ticket, START.pack(THRESHOLD)


def ends(ticket: int) -> tuple[Any, ...]:
    return Kind.END, ticket, b"value"


def back(*tickets: int) -> list[tuple[int, int, bytes]]:
    by = HANDED_BACK_BY.pack(NUMBER)
    return [(Kind.HANDED_BACK, ticket, by) for ticket in tickets]


@pytest.fixture(name="at_a_desk")
def _at_a_desk() -> Iterator[Callable[[Callable[[Desk], Awaitable[None]]], None]]:
    desks: list[Desk] = []

    def run(test: Callable[[Desk], Awaitable[None]]) -> None:
        async def here() -> None:
            desks.append(Desk())
            await test(desks[-1])
            desks[-1].seat.leave()

        asyncio.run(here())

    yield run
    for desk in desks:
        desk.close()


Run = Callable[[Callable[[Desk], Awaitable[None]]], None]


def test_jobs_at_hand_are_one_task_and_later_ones_the_next(at_a_desk: Run) -> None:
    async def test(desk: Desk) -> None:
        desk.send(1, 2, 3)
        await desk.hears(begins(1))
        desk.send(4, 5)
        await desk.hears(ends(1), begins(2), ends(2), begins(3), ends(3))
        assert desk.tasks == [[1, 2, 3]]
        await desk.hears(None)
        assert desk.tasks == [[1, 2, 3], [4, 5]]
        started = START_OF.pack(THRESHOLD, NUMBER)
        assert [one for one in desk.carried if one[0] == Kind.START] == [
            (Kind.START, ticket, started) for ticket in (1, 2, 3)
        ]
        assert [ticket for kind, ticket, _ in desk.carried if kind == Kind.END] == [1, 2, 3]

    at_a_desk(test)


def test_large_jobs_do_not_go_into_one_task(at_a_desk: Run) -> None:
    async def test(desk: Desk) -> None:
        for ticket in range(1, 5):
            desk.seat.take(Job(ticket, "", bytes(settings.RAY_PARCEL_BYTES * 3 // 5), ()))
        await desk.hears()
        assert desk.tasks == [[1, 2]]

    at_a_desk(test)


def test_a_worker_that_gives_back_a_job_is_sent_none_behind_the_running_one(
    at_a_desk: Run,
) -> None:
    async def test(desk: Desk) -> None:
        desk.send(1, 2)
        await desk.hears(begins(1))
        desk.send(3, 4)
        await desk.hears((Kind.HANDED_BACK, 2))
        assert desk.carried[1:] == back(4, 3, 2)  # each goes to the head of the line
        desk.send(5)
        assert desk.carried[4:] == back(5)
        await desk.hears(ends(1), None)
        desk.send(6)
        await desk.hears()
        assert desk.tasks == [[1, 2], [6]]

    at_a_desk(test)


def test_a_recall_brings_back_what_is_in_no_task(at_a_desk: Run) -> None:
    async def test(desk: Desk) -> None:
        desk.send(1, 2)
        await desk.hears()
        desk.send(3, 4)
        desk.seat.recall()
        assert desk.carried == back(4, 3)

    at_a_desk(test)


@pytest.mark.parametrize(
    ("heard", "begun"),
    [
        ([], 1),
        ([begins(1)], 1),
        ([begins(1), ends(1)], 2),
        ([begins(1), ends(1), begins(2)], 2),
        ([begins(1), (Kind.HANDED_BACK, 3), (Kind.HANDED_BACK, 2)], 1),
    ],
)
def test_an_agent_that_dies_without_a_word_costs_one_job(
    at_a_desk: Run, heard: list[tuple[Any, ...]], begun: int
) -> None:
    async def test(desk: Desk) -> None:
        pytest.importorskip("ray")
        desk.send(1, 2, 3)
        await desk.hears(*heard, RuntimeError("the node is gone"))
        told = desk.end()
        assert told is not None
        assert "the node is gone" in told[2]
        assert told[3] == begun
        assert desk.gone == 1

    at_a_desk(test)


@pytest.mark.parametrize(("last", "begun"), [(2, 2), (0, 2), (None, 2), (1, 1)])
def test_a_worker_that_died_costs_the_job_that_it_had_begun(
    at_a_desk: Run, last: int | None, begun: int
) -> None:
    """Where that is not known, the first: else a worker that dies at once is tried for ever."""

    async def test(desk: Desk) -> None:
        desk.send(1, 2, 3)
        died = json.dumps([-9, True, last]).encode()
        await desk.hears(begins(1), ends(1), (DIED, 0, died), None)
        assert desk.end() == [-9, True, "", begun]
        assert desk.tasks == [[1, 2, 3]]

    at_a_desk(test)


def test_what_a_job_may_not_say_is_not_carried(at_a_desk: Run) -> None:
    """It can write what it wants to the queue of its worker, and the pump's is that of all."""

    async def test(desk: Desk) -> None:
        desk.send(1, 2)
        await desk.hears(ends(1), begins(9), begins(1), begins(2), ends(2), ends(9))
        await desk.hears(
            (Kind.HANDED_BACK, 1), (Kind.HANDED_BACK, 9), (Kind.DATA, 9, b"data"), (99, 1)
        )
        assert [one[:2] for one in desk.carried] == [(Kind.START, 1)]
        await desk.hears((Kind.DATA, 1, b"data"))
        assert desk.carried[1:] == [(Kind.DATA, 1, b"data")]

    at_a_desk(test)


def test_a_worker_that_is_ended_between_two_tasks_begins_none(at_a_desk: Run) -> None:
    async def test(desk: Desk) -> None:
        desk.send(1)
        await desk.hears(begins(1))
        desk.send(2)
        desk.seat.end(-signal.SIGKILL)
        assert desk.cancelled == 1
        await desk.hears(ends(1), None)
        assert desk.tasks == [[1]]
        assert desk.end() == [-signal.SIGKILL, False, "", 1]

    at_a_desk(test)


def test_a_worker_that_is_to_leave_does_so_when_its_task_is_over(at_a_desk: Run) -> None:
    async def test(desk: Desk) -> None:
        desk.send(1)
        await desk.hears(begins(1), ends(1))
        desk.seat.stop()
        assert desk.end() is None
        await desk.hears(None)
        assert desk.end() == [0, False, "", 1]
        assert not desk.cancelled

    at_a_desk(test)
