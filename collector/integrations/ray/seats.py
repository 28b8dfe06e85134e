"""A worker on the cluster, as the pump has it: jobs that wait, and a task that runs some of them.

The jobs that are at hand when a seat has no task go into one task, which runs them one after the
other; those that come meanwhile wait here for the next one.

Runs in:    the pump, in its loop.
Owns:       the jobs that were sent to this worker and are not settled; a descriptor whose end tells
            the parent of its death.
States:     as `TABLE` says.
Invariants: I1  what a worker had said is in the queue before its death is told.
            I2  no task outlives its worker here: it is cancelled.
            I3  a worker has one task at a time, and a task no job of another worker.
            I4  of the jobs of a dead worker that had not ended one counts as begun: the running
                one, or else the first of its task. The others did not as far as it was heard.
"""

import asyncio
import contextlib
import json
import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final, final

from collector import settings
from collector.integrations.ray import cluster
from collector.integrations.ray.carrier import Carrier
from collector.integrations.ray.orders import DIED, LACKS, LOG, End, Job, Piece, pieces_of
from collector.integrations.ray.tasks import Tasks
from collector.states import TableEnum, move
from collector.wire.frames import HANDED_BACK_BY, START, START_OF, Kind, Stream


class State(TableEnum):
    """What a worker does."""

    IDLE = "idle"
    WORKING = "working"
    """It has a task."""
    DEAD = "dead"


class Event(TableEnum):
    """What changes that."""

    BEGAN = "began"
    ENDED = "ended"
    """Its task, and no job waits."""
    DIED = "died"


TABLE: Final = {
    State.IDLE: {Event.BEGAN: State.WORKING, Event.DIED: State.DEAD},
    State.WORKING: {Event.ENDED: State.IDLE, Event.DIED: State.DEAD},
    State.DEAD: {},
}


@final
class Seat:
    """One worker.

    Args:
        number: Of the worker.
        death_fd: The write end of a pipe; its end tells of the death, which is closed then.
        tasks: Starts a task.
        carrier: Carries what it says.
        gone: Called when it is dead.
    """

    def __init__(
        self,
        number: int,
        death_fd: int,
        tasks: Tasks,
        carrier: Carrier,
        gone: Callable[[], object],
    ) -> None:
        self._number = number
        self._death_fd = death_fd
        self._tasks = tasks
        self._carrier = carrier
        self._gone = gone
        self._state = State.IDLE
        self._waiting: deque[Job] = deque()
        self._sent: dict[int, Job] = {}
        """The jobs of the task that have neither ended nor were handed back, in their order."""
        self._running = 0
        """The ticket of the one that has started; 0 for none."""
        self._begun = 0
        """That of the last one that has started."""
        self._lacks = False
        """The agent cannot run them without references."""
        self._streams: set[Any] = set()
        """Of tasks of Ray's that have not ended."""
        self._work: asyncio.Task[None] | None = None
        self._code: int | None = None
        """How it is to have ended, once somebody has ended it."""
        self._recalled = self._leaving = False

    def take(self, job: Job) -> None:
        """Have it run a job, after those that it has."""
        if self._recalled:
            self._hand_back(job.ticket)
            return
        self._waiting.append(job)
        if self._state is State.IDLE:
            self._state = move(TABLE, self._state, Event.BEGAN)
            self._work = asyncio.get_running_loop().create_task(self._work_off())

    def recall(self) -> None:
        """Hand back the jobs that are in no task, and what comes until another job begins.

        The first one last, for each goes to the head of the line.
        """
        self._recalled = self._state is State.WORKING
        while self._waiting:
            self._hand_back(self._waiting.pop().ticket)

    def stop(self) -> None:
        """Let it leave, once it has done what it was sent."""
        self._leaving = True
        if self._state is State.IDLE:
            self._bury(End(0))

    def end(self, code: int) -> None:
        """End it, with what it runs, so that it has ended with this exit code."""
        self._code = code
        if self._state is not State.WORKING:
            self._bury(End(code))
            return
        self._cancel(force=False)
        loop = asyncio.get_running_loop()
        loop.call_later(settings.RAY_CANCEL_S, lambda: self._cancel(force=True))
        loop.call_later(2 * settings.RAY_CANCEL_S, lambda: self._bury(End(code)))

    def leave(self) -> None:
        """Nobody asks for it any more."""
        self._cancel(force=True)
        if self._work is not None:
            self._work.cancel()

    def _cancel(self, *, force: bool) -> None:
        for stream in list(self._streams):
            with contextlib.suppress(Exception):  # it has ended
                self._tasks.cancel(stream, force=force)

    async def _work_off(self) -> None:
        """Have tasks run what waits, until nothing does, or a job did not end."""
        end = End()
        try:
            while self._waiting and not self._sent and self._code is None:
                end = await self._run_some()
        except Exception as error:  # noqa: BLE001 - of Ray's: this worker is gone, and why
            end = cluster.explained(error)
        if self._state is State.DEAD:
            return
        if self._sent or self._code is not None:
            self._bury(end if self._code is None else End(self._code, begun=end.begun))
        elif self._leaving:
            self._bury(End(0))
        else:
            self._state, self._recalled = move(TABLE, self._state, Event.ENDED), False

    async def _run_some(self) -> End:
        jobs, size = list[Job](), 0
        while self._waiting and size < settings.RAY_PARCEL_BYTES:
            jobs.append(self._waiting.popleft())
            size += len(jobs[-1].run)
        self._sent = {job.ticket: job for job in jobs}
        end = await self._listen(self._tasks.start(jobs, spare=True))
        if self._lacks and self._code is None:
            end = await self._listen(self._tasks.start(jobs, spare=False))
        return end

    async def _listen(self, stream: Any) -> End:
        """Carry what a task says until it has ended; returns how its worker has, if it has."""
        end = End()
        self._streams.add(stream)
        try:
            async for reference in stream:
                parcel = await reference
                del reference
                for piece in pieces_of(parcel):
                    self._lacks = piece.kind == LACKS
                    end = self._hear(piece) or end
                del parcel
        finally:
            self._streams.discard(stream)
        return end

    def _hear(self, piece: Piece) -> End | None:  # noqa: C901, PLR0912 - one case a piece
        """Carry one thing that was said; returns how the worker has ended, if it has.

        What a worker may not say is dropped: the queue to the sink is that of all workers.
        """
        if self._state is State.DEAD:
            return None
        kind, ticket, payload = piece.kind, piece.ticket, piece.payload
        match kind:
            case Kind.START if ticket in self._sent and not self._running:
                self._running = self._begun = ticket
                self._recalled = False
                (threshold,) = START.unpack(payload)
                self._carrier.carry(kind, ticket, START_OF.pack(threshold, self._number))
            case Kind.END if ticket == self._running:
                self._running = 0
                del self._sent[ticket]
                self._carrier.carry(kind, ticket, payload, detail=piece.detail)
            case Kind.HANDED_BACK if ticket in self._sent and ticket != self._running:
                self.recall()  # they would wait, too
                del self._sent[ticket]
                self._hand_back(ticket)
            case Kind.DATA if ticket == self._running or piece.detail == Stream.RECORD:
                self._carrier.carry(kind, ticket, payload, detail=piece.detail, chunks=piece.chunks)
            case Kind.REFUSED:
                self._carrier.carry(kind, self._number, payload)
            case _ if kind == LOG and ticket in self._sent:
                self._carrier.log(self._sent[ticket].log_name, payload)
            case _ if kind == DIED:
                code, starved, begun = json.loads(bytes(payload))
                return End(code, starved, begun=begun or None)
            case _:
                pass
        return None

    def _hand_back(self, ticket: int) -> None:
        self._carrier.carry(Kind.HANDED_BACK, ticket, HANDED_BACK_BY.pack(self._number))

    def _bury(self, end: End) -> None:
        """Tell the parent of the death (I1)."""
        if self._state is State.DEAD:
            return
        self._state = move(TABLE, self._state, Event.DIED)
        self._cancel(force=True)
        begun = next(iter(self._sent), 0) if end.begun is None else end.begun
        end = end._replace(begun=max(begun, self._begun))  # a sink may have died with their ends
        with contextlib.suppress(OSError):
            os.write(self._death_fd, json.dumps(end).encode())
        os.close(self._death_fd)
        self._gone()
