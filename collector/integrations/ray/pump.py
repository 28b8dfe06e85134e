"""The pump: connected with Ray, it has tasks run the jobs and carries what they say to the sink.

Runs in:    a process of its own, for a Collector with this engine.
Owns:       the connection to Ray, and the Ray itself if it has started one; the write end of one
            queue to the sink; of each worker a descriptor whose end tells the parent of its death.
States:     of a worker: IDLE -> RUNNING (RUN) -> IDLE (END); both -> DEAD (its task has ended
            without END; STOP, KILL or TERMINATE), once.
Invariants: I1  what a worker had said is in the queue before its death is told.
            I2  a task is never run twice by Ray: a retry is a new attempt, with a fresh output.
            I3  no task outlives its worker here: it is cancelled.
            I4  when the parent is gone, so is the pump, and with it all its tasks.
"""

import asyncio
import contextlib
import json
import os
import pickle
import select
import shutil
import signal
import socket
import sys
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

from collector import settings
from collector.integrations.ray import cluster, installed, own
from collector.integrations.ray.orders import (
    BEGINNING,
    DIED,
    LACKS,
    LOG,
    Beginning,
    End,
    Hello,
    Job,
    Order,
    Piece,
    PumpArguments,
    Said,
    parcel_bytes,
    pieces_of,
)
from collector.process.queue.chunk_queue import QueueWriter
from collector.process.start.child import stand_apart
from collector.store.rundir.directory import RunDirectory
from collector.wire.frames import START, START_OF, Frame, Kind, PayloadPlace

_LENGTH_BYTES: Final = 8
_KILLED: Final = -signal.SIGKILL


def main(descriptors: Sequence[int], arguments: bytes) -> None:
    """Run jobs on Ray until the parent says stop, or is gone.

    Args:
        descriptors: The socket to the parent, the parent's life, and the ends of the queue's
            writer.
        arguments: A pickled `PumpArguments`.
    """
    stand_apart()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for fd in descriptors:
        os.set_inheritable(fd, False)
    told: PumpArguments = pickle.loads(arguments)
    control, parent, queue = socket.socket(fileno=descriptors[0]), descriptors[1], descriptors[2:]
    place, guardian = _hold(told.temp_directory), None
    try:
        if told.temp_directory:
            guardian = own.Guardian(told.temp_directory)
        pump, hello = _begin(told, control, parent, queue)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent says it to its user
        _send(control, Hello(0, f"{type(error).__name__}: {error}"))
        _leave(told, place, guardian, parent)
        return
    _send(control, hello)
    _print_nothing()
    try:
        asyncio.run(pump.serve())
    finally:
        _leave(told, place, guardian, parent)


def _begin(
    told: PumpArguments, control: socket.socket, parent: int, queue: Sequence[int]
) -> tuple["Pump", Hello]:
    """Connect, and see that Ray takes what jobs ask for: later there would be nobody to tell."""
    cpus = cluster.connect(told)
    workers = told.workers or max(1, int(cpus / (installed.cpus_of(told.options) or 1)))
    installed.check_room(workers)
    parcel = parcel_bytes(told.memory_budget, workers)
    beginning = told.beginning._replace(parcel_bytes=parcel)
    pump = Pump(control, parent, QueueWriter(queue), told, beginning)
    return pump, Hello(workers, "", cluster.missing(told.options))


def _print_nothing() -> None:
    """Send what Ray prints in this process nowhere: it would come between the rows of bars."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        os.dup2(nothing, number)
    os.close(nothing)


def _hold(temp_directory: str) -> RunDirectory | None:
    """Hold the run directory that a Ray of our own has its files in, as long as that is there.

    Whoever else removes it at the parent's death leaves it to us.
    """
    if not temp_directory:
        return None
    with contextlib.suppress(OSError):
        return RunDirectory.join(os.path.dirname(temp_directory))
    return None


def _leave(
    told: PumpArguments, place: RunDirectory | None, guardian: own.Guardian | None, parent: int
) -> None:
    """Leave the cluster; a Ray of our own is ended, and this process with it."""
    if told.address is not None:
        with contextlib.suppress(Exception):
            sys.modules["ray"].shutdown()
        return
    own.end_remains(told.temp_directory)
    if guardian is not None:
        guardian.dismiss()
    shutil.rmtree(told.temp_directory, ignore_errors=True)
    if place is not None:
        # The locks of a parent that was killed may outlive it by a moment; a live one removes it.
        place.dispose(settings.WORKERS_GONE_S if _is_dead(parent) else 0)
    os._exit(0)  # Ray's own end would wait for servers that are gone


def _is_dead(parent: int) -> bool:
    poller = select.poll()
    poller.register(parent, select.POLLIN)
    return bool(poller.poll(0))


def _send(control: socket.socket, hello: Hello) -> None:
    with contextlib.suppress(OSError):
        control.sendall(pickle.dumps(tuple(hello)))


@dataclass(slots=True, eq=False)
class _Worker:
    """One seat: room for one job on the cluster."""

    number: int
    death_fd: int
    tasks: set[Any] = field(default_factory=set)
    """References to the tasks of Ray's that have not ended."""
    open: int = 0
    """The ticket of the job that has not ended; 0 for none."""
    code: int | None = None
    """How it is to have ended, once somebody has ended it."""
    lacks: bool = False
    """Its agent cannot run the job without references."""
    leaving: bool = False
    dead: bool = False


@final
class Pump:
    """The loop of the pump process.

    Args:
        control: Says what is to be done.
        parent: Readable when the parent is dead.
        writer: Of the queue to the sink.
        told: What the pump was told.
        beginning: What agents are to be told.
    """

    def __init__(
        self,
        control: socket.socket,
        parent: int,
        writer: QueueWriter,
        told: PumpArguments,
        beginning: Beginning,
    ) -> None:
        import ray

        self._ray: Any = ray
        self._control = control
        self._parent = parent
        self._writer = writer
        self._told = told
        self._workers: dict[int, _Worker] = {}
        self._collector = beginning.collector
        # As plain values: another version of collector has a `Beginning` of other fields.
        told_first = beginning.version, beginning.python, tuple(beginning)
        self._kept: dict[int, Any] = {BEGINNING: ray.put(told_first)}
        self._sent: Counter[int] = Counter()
        """How often a reference went along."""
        self._heard = bytearray()
        self._came: list[int] = []
        self._logs: set[str] = set()
        self._over = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._task: Any = cluster.task_of(told.options)

    async def serve(self) -> None:
        """Do what is said, until there is nobody to say it."""
        loop = asyncio.get_running_loop()
        self._control.setblocking(False)
        loop.add_reader(self._control.fileno(), self._hear)
        loop.add_reader(self._parent, self._over.set)
        await self._over.wait()
        loop.remove_reader(self._parent)
        loop.remove_reader(self._control.fileno())
        for worker in list(self._workers.values()):
            self._cancel(worker, force=True)
        for running in self._running:
            running.cancel()

    def _hear(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, settings.MIB, 64)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        self._came.extend(descriptors)
        if not data:
            self._over.set()
            return
        heard = self._heard
        heard += data
        while len(heard) >= _LENGTH_BYTES:
            length = int.from_bytes(heard[:_LENGTH_BYTES], "little")
            if len(heard) < _LENGTH_BYTES + length:
                break
            said = Said(*pickle.loads(bytes(heard[_LENGTH_BYTES : _LENGTH_BYTES + length])))
            del heard[: _LENGTH_BYTES + length]
            self._obey(said)

    def _obey(self, said: Said) -> None:
        if said.order == Order.JOIN:
            self._workers[said.number] = _Worker(said.number, self._came.pop(0))
            self._carry(Kind.READY, said.number)
            return
        if said.order == Order.PART:
            self._kept[said.number] = self._ray.put(said.data)
            return
        worker = self._workers.get(said.number)
        if worker is not None:
            self._order(worker, said)

    def _order(self, worker: _Worker, said: Said) -> None:
        match said.order:
            case Order.RUN:
                self._start(self._run(worker, Job(*said.data)))
            case Order.STOP:
                worker.leaving = True
                if not worker.open:
                    self._bury(worker, End(0))
            case Order.KILL:
                self._end(worker, _KILLED)
            case Order.TERMINATE:
                self._end(worker, -signal.SIGTERM)
            case _:
                pass  # it was done already

    def _start(self, running: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(running)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _end(self, worker: _Worker, code: int) -> None:
        worker.code = code
        if not worker.open:
            self._bury(worker, End(code))
            return
        self._cancel(worker, force=False)
        loop = asyncio.get_running_loop()
        loop.call_later(settings.RAY_CANCEL_S, lambda: self._cancel(worker, force=True))
        loop.call_later(2 * settings.RAY_CANCEL_S, lambda: self._bury(worker, End(code)))

    def _cancel(self, worker: _Worker, *, force: bool) -> None:
        for task in list(worker.tasks):
            with contextlib.suppress(Exception):  # it has ended
                self._ray.cancel(task, force=force)

    async def _run(self, worker: _Worker, job: Job) -> None:
        """Have a task run the job, and carry what it says until it has ended."""
        worker.open = job.ticket
        end = End()
        try:
            end = await self._stream(worker, job, self._references(job.parts, spare=True))
            if worker.lacks:
                end = await self._stream(worker, job, self._references(job.parts, spare=False))
        except Exception as error:  # noqa: BLE001 - of Ray's: this job's worker is gone, and why
            end = cluster.explained(error)
        if worker.open == job.ticket:
            worker.open = 0
            self._bury(worker, end if worker.code is None else End(worker.code))

    def _references(self, numbers: Sequence[int], *, spare: bool) -> dict[int, Any]:
        """Return what an agent needs to know before it can run a job with these parts.

        References cost Ray more than all else about a small job. So, if they are to be spared, they
        go along as often as there are workers, and then with what an agent says that it lacks.
        """
        wanted = [BEGINNING, *numbers]
        if spare and all(self._sent[number] >= len(self._workers) for number in wanted):
            return {}
        self._sent.update(wanted)
        return {number: self._kept[number] for number in wanted}

    async def _stream(self, worker: _Worker, job: Job, references: dict[int, Any]) -> End:
        end = End()
        task = self._task.remote(self._collector, job.run, job.parts, references)
        worker.tasks.add(task)
        try:
            async for reference in task:
                parcel = await reference
                del reference
                for piece in pieces_of(parcel):
                    worker.lacks = piece.kind == LACKS
                    if not worker.lacks:
                        end = self._take(worker, job, piece) or end
                del parcel
        finally:
            worker.tasks.discard(task)
        return end

    def _take(self, worker: _Worker, job: Job, piece: Piece) -> End | None:
        """Carry one thing that a job's worker has said; return how that has ended, if it has."""
        if worker.dead:
            return None
        match piece.kind:
            case Kind.START:
                (threshold,) = START.unpack(piece.payload)
                self._carry(Kind.START, job.ticket, START_OF.pack(threshold, worker.number))
            case Kind.REFUSED:
                self._carry(Kind.REFUSED, worker.number, piece.payload)
            case Kind.END:
                worker.open = 0
                self._carry(Kind.END, job.ticket, piece.payload, detail=piece.detail)
                if worker.leaving:
                    self._bury(worker, End(0))
            case kind if kind == LOG:
                self._log(job.log_name, piece.payload)
            case kind if kind == DIED:
                return End(*json.loads(bytes(piece.payload)))
            case _:
                self._carry(
                    piece.kind, job.ticket, piece.payload, detail=piece.detail, chunks=piece.chunks
                )
        return None

    def _carry(
        self,
        kind: int,
        ticket: int,
        payload: bytes | memoryview = b"",
        *,
        detail: int = 0,
        chunks: int = 0,
    ) -> None:
        frame = Frame(kind, detail, PayloadPlace.INLINE, 0, len(payload), chunks, 0, ticket)
        self._writer.carry(frame, payload)

    def _log(self, name: str, data: memoryview) -> None:
        """Append to the log of a job: that is complete when the job ends, or not there."""
        path = os.path.join(self._told.run_directory, name)
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        new = name not in self._logs
        self._logs.add(name)
        try:
            fd = os.open(path, flags | (os.O_CREAT | os.O_EXCL if new else 0), 0o600)
            with open(fd, "ab") as file:
                file.write(data)
        except OSError:  # no room for it, for example: what is missing fails the job
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _bury(self, worker: _Worker, end: End) -> None:
        """Tell the parent of a worker's death (I1)."""
        if worker.dead:
            return
        worker.dead = True
        self._cancel(worker, force=True)
        with contextlib.suppress(OSError):
            os.write(worker.death_fd, json.dumps(end).encode())
        os.close(worker.death_fd)
        del self._workers[worker.number]
