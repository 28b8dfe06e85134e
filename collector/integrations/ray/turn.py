"""What one task of Ray's does: its jobs run on a worker, which is read until all are settled.

Runs in:    the agent.
Owns:       until its end, the jobs that it was given; what its worker has said and nobody has got.
Invariants: I1  a parcel is yielded when it is full, when its first piece is `RAY_PARCEL_DEADLINE_S`
                old or its first start or end of a job `RAY_RESULT_DEADLINE_S`, and when no job is
                left.
            I2  a job runs here or is given back, never both: its worker decides that.
            I3  no job waits here behind one that takes longer than `RAY_RECALL_AFTER_S`.
"""

import contextlib
import json
import math
import os
import select
import signal
import time
from collections.abc import Iterator, Sequence
from pickle import PickleBuffer
from typing import Final, final

from collector import settings
from collector.integrations.ray.orders import DIED, LOG, WHOLE, Parcel
from collector.process.engine import Exit
from collector.process.pickling.script import Parts
from collector.process.pool.local_engine import LocalEngine, LocalWorker
from collector.process.pool.out_of_memory import OomKills
from collector.process.pool.whereabouts import whereabouts
from collector.process.queue.reader import QueueReader
from collector.store.rundir.current_directory import CurrentDirectory
from collector.wire import messages
from collector.wire.frames import Frame, Kind
from collector.wire.messages import RunJob

_READS: Final = 64
"""Reads of a dead worker's queue: more is the garbage of what it has left behind."""
_LOG_PIECE_BYTES: Final = 256 * settings.KIB


@final
class ReadWorker:
    """A worker, and the end of its queue that the agent reads."""

    def __init__(self, engine: LocalEngine, number: int) -> None:
        self._fds: list[int] = []
        self.worker: LocalWorker = engine.start_worker_read_by(self._join, number)
        *queue, death_fd = self._fds
        os.close(death_fd)  # the handle has one
        self.reader = QueueReader(queue)
        self.jobs = 0
        """How many it has run."""
        self._exit: Exit | None = None

    def _join(self, _message: messages.Message, descriptors: Sequence[int]) -> None:
        self._fds = [os.dup(fd) for fd in descriptors]

    def dead(self) -> bool:
        """Whether it is dead, or was ended by us."""
        return self._exit is not None or self.worker.child.dead()

    def wait(self, pause_s: float) -> tuple[bool, bool]:
        """Send what waits, and wait for news; say whether there is any, and of a death.

        Not for long: Python obeys a cancellation of Ray's only when a call returns.
        """
        worker, poller = self.worker, select.poll()
        poller.register(self.reader.fd, select.POLLIN)
        poller.register(worker.death_fd, select.POLLIN)
        if not worker.flush() and worker.room_fd is not None:
            poller.register(worker.room_fd, select.POLLOUT)
        ready = {fd for fd, _ in poller.poll(pause_s * 1000)}
        return self.reader.fd in ready, worker.death_fd in ready

    def close(self) -> Exit:
        """End the worker with its group, if it is not dead; return how it ended."""
        if self._exit is None:
            self.worker.kill()
            self._exit = self.worker.reap()
            self.worker.close()
            self.reader.close()
        return self._exit


@final
class Turn:
    """Runs some jobs one after the other.

    Args:
        worker: Runs them.
        directory: Of the agent.
        parcel_bytes: No parcel is larger, but for one piece that cannot be cut.
        until_s: From then on no further job begins; `RAY_TURN_S` from the first one if that is 0.
    """

    def __init__(
        self,
        worker: ReadWorker,
        directory: CurrentDirectory,
        parcel_bytes: int,
        oom: OomKills,
        until_s: float,
    ) -> None:
        self._worker = worker
        self._directory = directory
        self._limit = parcel_bytes
        self._oom = oom
        self.until_s = until_s
        self._recall_at_s = math.inf
        self._parcel = Parcel()
        self._due_s = math.inf
        self.left: dict[int, RunJob] = {}
        """The jobs that have neither ended nor were given back."""
        self.gave_back = False
        """Whether a job was given back."""
        self._over = False

    def run(self, jobs: Sequence[tuple[RunJob, Parts]]) -> Iterator[PickleBuffer]:
        """Run them; yield what their worker says, in parcels.

        Jobs are left at the end if the worker is dead, or takes none.
        """
        for job, parts in jobs:
            self.left[job.ticket] = job
            self._worker.worker.send(job, parts)
        try:
            while self.left and not self._over:
                readable, dead = self._worker.wait(self._pause_s())
                self._oom.look(time.monotonic())
                if dead or readable:
                    yield from self._take(_READS if dead else 1)
                if dead and self.left:
                    yield from self._settle_dead()
                elif self.left and not self._over:
                    yield from self._look()
            if self._parcel.size:
                yield self._parcel.take()
        finally:
            if self.left and not self._over:  # it is given up, and takes its worker along
                self._worker.close()

    def _pause_s(self) -> float:
        recall_s = self._recall_at_s if len(self.left) > 1 else math.inf
        soonest_s = min(recall_s, self._due_s) - time.monotonic()
        return min(max(0.0, soonest_s), settings.RAY_LOOK_S)

    def _look(self) -> Iterator[PickleBuffer]:
        """Do what is due."""
        now_s = time.monotonic()
        if self._recall_at_s <= now_s and len(self.left) > 1:
            self._worker.worker.recall()
            # Again after a while: the worker may have begun the next job at that moment.
            self._recall_at_s = now_s + settings.RAY_RECALL_AFTER_S
        if self._due_s <= now_s:
            yield self._packed()

    def _take(self, reads: int) -> Iterator[PickleBuffer]:
        """Take what the queue has now; yield each parcel that is full meanwhile."""
        for _ in range(reads):
            frames = self._worker.reader.read()
            if frames is None:
                return
            count = 0
            for frame, payload in frames:
                count += 1
                if frame.kind == Kind.DATA:
                    yield from self._collect(frame, payload)
                else:
                    yield from self._hear(frame, bytes(payload))
            if not count:
                return

    def _collect(self, frame: Frame, payload: bytes | memoryview) -> Iterator[PickleBuffer]:
        """Add bytes of a stream; no parcel is to be larger than it may be."""
        at = 0
        while True:
            room = self._limit - self._parcel.size
            step = payload[at : at + room] if room > 0 else b""
            at += len(step)
            last = at == len(payload)
            if frame.detail in WHOLE:  # it is small
                step, last = payload, True
            chunks = frame.chunks if last else 0
            self._add(Kind.DATA, frame.ticket, step, detail=frame.detail, chunks=chunks)
            if self._parcel.size >= self._limit:
                yield self._packed()
            if last:
                return

    def _hear(self, frame: Frame, payload: bytes) -> Iterator[PickleBuffer]:
        ticket = frame.ticket
        match frame.kind:
            case Kind.WHERE:
                self._worker.worker.tell(whereabouts(self._directory, ticket))
            case Kind.START:
                now_s = time.monotonic()
                self.until_s = self.until_s or now_s + settings.RAY_TURN_S
                self._recall_at_s = min(self.until_s, now_s + settings.RAY_RECALL_AFTER_S)
                yield from self._say(Kind.START, ticket, payload)
                self._due_by(settings.RAY_RESULT_DEADLINE_S)
            case Kind.END if ticket in self.left:
                yield from self._log(self.left[ticket])
                del self.left[ticket]
                self._worker.jobs += 1
                yield from self._say(Kind.END, ticket, payload, detail=frame.detail)
                self._due_by(settings.RAY_RESULT_DEADLINE_S)
            case Kind.HANDED_BACK if ticket in self.left:
                del self.left[ticket]
                self.gave_back = True
                yield from self._say(Kind.HANDED_BACK, ticket)
                self._due_by(0)
            case Kind.REFUSED:
                self._over = True
                yield from self._say(Kind.REFUSED, 0, payload)
            case _:
                pass  # it is up

    def _say(
        self, kind: int, ticket: int, payload: bytes = b"", *, detail: int = 0
    ) -> Iterator[PickleBuffer]:
        if self._parcel.size and self._parcel.size + len(payload) > self._limit:
            yield self._packed()
        self._add(kind, ticket, payload, detail=detail)

    def _add(
        self,
        kind: int,
        ticket: int,
        payload: bytes | memoryview,
        *,
        detail: int = 0,
        chunks: int = 0,
    ) -> None:
        self._due_by(settings.RAY_PARCEL_DEADLINE_S)
        self._parcel.add(kind, payload, ticket=ticket, detail=detail, chunks=chunks)

    def _due_by(self, pause_s: float) -> None:
        """Have the parcel be yielded after so long, unless it is to be earlier."""
        self._due_s = min(self._due_s, time.monotonic() + pause_s)

    def _packed(self) -> PickleBuffer:
        self._due_s = math.inf
        return self._parcel.take()

    def _settle_dead(self) -> Iterator[PickleBuffer]:
        """Say how the worker has died, after all that it had said."""
        exit_ = self._worker.close()
        starved = exit_.code == -signal.SIGKILL and self._oom.has_killed()
        job = self.left.get(exit_.begun or next(iter(self.left)))
        if job is not None:
            yield from self._log(job)
        said = json.dumps([exit_.code, starved, exit_.begun]).encode()
        yield from self._say(DIED, 0, said)
        self._over = True

    def _log(self, job: RunJob) -> Iterator[PickleBuffer]:
        """Say what a job has printed: all that comes before its end."""
        if not job.log_name:
            return
        path = self._directory.latest.path / job.log_name
        with contextlib.suppress(OSError), path.open("rb") as file:
            self._add(LOG, job.ticket, b"")  # it begins
            while piece := file.read(_LOG_PIECE_BYTES):
                self._add(LOG, job.ticket, piece)
                if self._parcel.size >= self._limit:
                    yield self._packed()
            path.unlink()
