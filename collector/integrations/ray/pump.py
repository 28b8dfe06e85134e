"""The pump: connected with Ray, it has tasks run the jobs and carries what they say to the sink.

Runs in:    a process of its own, for a Collector with this engine.
Owns:       the connection to Ray, and the Ray itself if it has started one; its seats.
Invariants: I1  when the parent is gone, so is the pump, and with it all its tasks.
"""

import asyncio
import contextlib
import os
import pickle
import select
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Final, final

from collector import settings
from collector.integrations.ray import cluster, installed, own
from collector.integrations.ray.carrier import Carrier
from collector.integrations.ray.orders import (
    Beginning,
    Hello,
    Job,
    Order,
    PumpArguments,
    Said,
    parcel_bytes,
)
from collector.integrations.ray.seats import Seat
from collector.integrations.ray.tasks import Tasks
from collector.process.queue.chunk_queue import QueueWriter
from collector.process.start.child import stand_apart
from collector.store.rundir.directory import RunDirectory
from collector.wire.frames import Kind

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
    place = own.hold(told.temp_directory) if told.temp_directory else None
    guardian = None
    try:
        if told.temp_directory:
            guardian = own.Guardian(told.temp_directory)
        with leaving_with(control, parent):
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


@contextlib.contextmanager
def leaving_with(control: socket.socket, parent: int) -> Iterator[None]:
    """End this process if the parent does, or gives up, while this thread waits for Ray.

    Where nobody answers, Ray tries for minutes. What it has started the guardian ends.
    """
    over, over_w = os.pipe()
    poller = select.poll()
    for fd in (control.fileno(), parent, over):
        poller.register(fd, select.POLLIN)

    def watch() -> None:
        if over not in {fd for fd, _ in poller.poll()}:
            os._exit(1)

    watching = threading.Thread(target=watch, name="collector-ray-begin", daemon=True)
    watching.start()
    try:
        yield
    finally:
        os.close(over_w)
        watching.join()
        os.close(over)


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
        self._control = control
        self._parent = parent
        self._seats: dict[int, Seat] = {}
        self._tasks = Tasks(told.options, beginning)
        self._carrier = Carrier(writer, told.run_directory)
        self._heard = bytearray()
        self._came: list[int] = []
        self._over = asyncio.Event()

    async def serve(self) -> None:
        """Do what is said, until there is nobody to say it."""
        loop = asyncio.get_running_loop()
        self._control.setblocking(False)
        loop.add_reader(self._control.fileno(), self._hear)
        loop.add_reader(self._parent, self._over.set)
        await self._over.wait()
        loop.remove_reader(self._parent)
        loop.remove_reader(self._control.fileno())
        for seat in list(self._seats.values()):
            seat.leave()

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
            self._join(said.number)
            return
        if said.order == Order.PART:
            self._tasks.keep(said.number, said.data)
            return
        if said.order == Order.FORGET:
            self._tasks.forget(said.number)
            return
        seat = self._seats.get(said.number)
        if seat is not None:
            self._order(seat, said)

    def _join(self, number: int) -> None:
        death_fd = self._came.pop(0)
        seat = Seat(number, death_fd, self._tasks, self._carrier, lambda: self._gone(number))
        self._seats[number] = seat
        self._tasks.workers = len(self._seats)
        self._carrier.carry(Kind.READY, number)

    def _gone(self, number: int) -> None:
        del self._seats[number]
        self._tasks.workers = len(self._seats)

    @staticmethod
    def _order(seat: Seat, said: Said) -> None:
        match said.order:
            case Order.RUN:
                seat.take(Job(*said.data))
            case Order.RECALL:
                seat.recall()
            case Order.STOP:
                seat.stop()
            case Order.KILL:
                seat.end(_KILLED)
            case Order.TERMINATE:
                seat.end(-signal.SIGTERM)
            case _:
                pass  # it was done already
