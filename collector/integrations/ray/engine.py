"""The engine for Ray: what its workers are sent runs on a cluster, one job of each at a time.

Runs in:    the parent. Ray is loaded in the pump alone.
Owns:       the pump's process, the socket to it, the directory of a Ray that it starts; of each
            worker the descriptor that tells of its death.
Invariants: I1  a worker is dead when its descriptor says so; when the pump dies, all are.
            I2  a sink reads one pump: another sink gets another one.
            I3  nothing here waits for the pump but its start and its end.
"""

import contextlib
import json
import os
import pickle
import resource
import secrets
import socket
import sys
import threading
import weakref
from collections.abc import Iterable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, final

from collector import settings
from collector.integrations.ray import installed, own, pump
from collector.integrations.ray.orders import (
    Beginning,
    Hello,
    Job,
    Order,
    PumpArguments,
    packed,
)
from collector.logger import PackageLogger
from collector.process import log_records
from collector.process.engine import Exit
from collector.process.pickling.script import Part, Parts
from collector.process.queue.chunk_queue import make_queue
from collector.process.queue.poller import Poller
from collector.process.queue.shared_slots import WITHOUT_SLOTS
from collector.wire import messages
from collector.wire.messages import PUMP, Message, RunJob

if TYPE_CHECKING:
    from collector.executor.options import PoolOptions
    from collector.process.engine import SinkHandle
    from collector.process.pool.local_engine import LocalEngine
    from collector.process.start.launcher import Child

_EXIT_BYTES: Final = 16 * settings.KIB
"""More than what a pump says of an end: some 600 characters, of up to 12 bytes each."""
_LENGTH_BYTES: Final = 8
DISTANCE: Final = settings.RAY_DISTANCE
"""How many times as long as to a worker here the way to one of this engine takes."""


def open_engine(local: "LocalEngine", options: "PoolOptions") -> "RayEngine":
    """Return the engine, connected.

    Args:
        local: Starts the sink and the pump on this machine.
        options: Of the Collector.

    Raises:
        ImportError: There is no Ray, or of a version that was not tested.
        ValueError: An address or option that makes no sense.
        TypeError: One of a wrong type; or initargs that cannot travel to another machine.
        ConnectionError: The cluster cannot be joined, or a Ray be started.
        OSError: No process or descriptor is to be had.
    """
    asked = dict(options.ray_options or {})
    installed.check_address(options.address)
    installed.check_options(asked)
    installed.check_version()
    if local.initializer.descriptors:
        raise TypeError(
            "initargs hold something that only a process on this machine can inherit (a lock, a "
            'queue, a connection): with engine="ray" workers run on others'
        )
    return RayEngine(local, options, asked)


def most_workers(engine: "RayEngine", options: "PoolOptions") -> int:
    """Return how many jobs may be on the cluster at once."""
    return options.max_workers or engine.room


@final
class RayWorker:
    """What is sent to it runs on the cluster."""

    room_fd = None
    backlog_bytes = 0
    scratch_prefix = "no-scratch-here"
    sink_sees_death = False

    def __init__(self, number: int, to_pump: "_Pump", death_fd: int) -> None:
        self.number = number
        self.death_fd = death_fd
        self._pump = to_pump
        self._exit: Exit | None = None
        self._sent = 0
        """The ticket of the job that it was sent last while its pump was there: without that nobody
        can tell which of them have begun."""

    @property
    def pid(self) -> int:
        """That of the pump."""
        return self._pump.child.pid

    def tell(self, message: Message) -> None:
        """Nothing that is told to a worker is meant for one elsewhere."""

    def flush(self) -> bool:
        """What is sent waits for nobody."""
        return True

    def send(self, job: RunJob, parts: Parts) -> None:
        """Have it run a job."""
        if not self._pump.child.dead():
            self._sent = job.ticket
        for part in parts:
            self._pump.keep(part)
        fields = pickle.dumps(tuple(job))
        numbers = tuple(sorted(part.number for part in parts))
        said = Job(job.ticket, job.log_name, fields, numbers)
        self._pump.say(Order.RUN, self.number, tuple(said))

    def recall(self) -> None:
        """Ask for the jobs that are in no task of Ray's: a task gives back its own by itself."""
        self._pump.say(Order.RECALL, self.number)

    def stop(self) -> None:
        """Let it leave."""
        self._pump.say(Order.STOP, self.number)

    def terminate(self) -> None:
        """End it, as by SIGTERM."""
        self._pump.say(Order.TERMINATE, self.number)

    def kill(self) -> None:
        """End it with what it runs."""
        self._pump.say(Order.KILL, self.number)

    def loaded_s(self, ticket: int, started_s: float) -> float | None:  # noqa: ARG002 - of the protocol
        """Return when it had started: what it loads is not known here."""
        return started_s

    def reap(self) -> Exit:
        """Return what the pump has said of its end."""
        if self._exit is None:
            os.set_blocking(self.death_fd, False)
            said = b""
            with contextlib.suppress(BlockingIOError):
                said = os.read(self.death_fd, _EXIT_BYTES)
            if said:
                code, starved, why, begun = json.loads(said)
                self._exit = Exit(code, begun, why, unheard=True, out_of_memory=starved)
            else:
                self._pump.bury()
                why = "is gone: the process that carries its output died"
                self._exit = Exit(None, self._sent, why, unheard=True)
        return self._exit

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.death_fd)

    def descriptors(self) -> list[int]:
        """Return it."""
        return [self.death_fd]


@final
class _Pump:
    """The pump's process, and a thread that writes to it: it may be busy with the sink."""

    def __init__(
        self,
        child: "Child",
        control: socket.socket,
        reader: list[int],
        ray: own.Place | None,
    ) -> None:
        self.child = child
        self.control = control
        self.reader = reader
        """The ends of its queue that a sink is to have; none once one has them."""
        self._ray = ray
        """Where a Ray that it starts has its files."""
        self._buried = False
        self.joined: object = None
        """The sink that reads its queue."""
        self.kept: set[int] = set()
        self._to_say: SimpleQueue[tuple[bytes, list[int]] | None] = SimpleQueue()
        self._saying: threading.Thread | None = None

    def keep(self, part: Part) -> None:
        """Have it keep a part of the script, once, as long as that is there."""
        if part.number not in self.kept:
            self.kept.add(part.number)
            self.say(Order.PART, part.number, packed(part))
            weakref.finalize(part, self._forget, part.number).atexit = False

    def _forget(self, number: int) -> None:
        self.kept.discard(number)
        self.say(Order.FORGET, number)

    def say(
        self, order: Order, number: int, data: Any = None, fds: list[int] | None = None
    ) -> None:
        """Say an order; descriptors that come along are closed when it has them."""
        body = pickle.dumps((int(order), number, data))
        self._to_say.put((len(body).to_bytes(_LENGTH_BYTES, "little") + body, fds or []))
        if self._saying is None:
            self._saying = threading.Thread(
                target=self._say_all, name="collector-ray-say", daemon=True
            )
            self._saying.start()

    def _say_all(self) -> None:
        gone = False
        while (saying := self._to_say.get()) is not None:
            data, fds = saying
            try:
                if not gone:
                    sent = socket.send_fds(self.control, [data], fds) if fds else 0
                    self.control.sendall(data[sent:])
            except OSError:
                gone = True  # its death tells
            finally:
                for fd in fds:
                    os.close(fd)

    def hello(self) -> Hello:
        """Wait until it is connected, or cannot be."""
        with contextlib.closing(Poller()) as watch:
            watch.expect(self.control.fileno(), _nothing)
            watch.expect(self.child.death_fd, _nothing)
            if not list(watch.ready(settings.RAY_START_S)):
                return Hello(0, f"no answer within {settings.RAY_START_S:g} s")
        self.control.settimeout(settings.STOP_DEADLINE_S)
        with contextlib.suppress(OSError):
            said = self.control.recv(64 * settings.KIB)
            self.control.settimeout(None)
            if said:
                return Hello(*pickle.loads(said))
        return Hello(0, "the process that was to connect with it died")

    def end(self) -> None:
        """Let it leave, with the Ray that it has started; kill it if it takes too long."""
        self._to_say.put(None)
        if self._saying is not None:
            self._saying.join(settings.STOP_DEADLINE_S)
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_WR)
        if not self.child.dead(settings.PUMP_GONE_S):
            self.child.kill()
            self.child.dead(settings.STOP_DEADLINE_S)
        self.child.reap()
        self.child.close()
        self.control.close()
        for fd in self.reader:
            os.close(fd)
        self.bury()
        if self._ray is not None:
            self._ray.remove()
            self._ray = None

    def bury(self) -> None:
        """End what is left of the Ray that it has started, once it is dead; any number of times."""
        if self._ray is not None and not self._buried:
            self._buried = True
            own.end_remains(self._ray.path)

    def descriptors(self) -> list[int]:
        """Give up the parent's ends and return them."""
        return [self.control.detach(), self.child.death_fd, *self.reader]


def _nothing() -> None:
    """It is enough that something is there."""


@final
class _Sink:
    """The sink; before it leaves, with the run directory, the pump does."""

    def __init__(self, sink: "SinkHandle", engine: "RayEngine") -> None:
        self._sink = sink
        self._engine = engine
        self.pid, self.death_fd, self.control_fd = sink.pid, sink.death_fd, sink.control_fd
        self.tell, self.flush, self.kill = sink.tell, sink.flush, sink.kill
        self.reap, self.close, self.descriptors = sink.reap, sink.close, sink.descriptors
        self.receive = sink.receive

    @property
    def room_fd(self) -> int | None:
        """The descriptor that messages go to."""
        return self._sink.room_fd

    @property
    def backlog_bytes(self) -> int:
        """How much `flush` has to write."""
        return self._sink.backlog_bytes

    def stop(self) -> None:
        """Let both leave."""
        self._engine.end_pump()
        self._sink.stop()


@final
class RayEngine:
    """Starts a pump, and has it run jobs on a cluster."""

    forks = False

    def __init__(self, local: "LocalEngine", options: "PoolOptions", asked: dict[str, Any]) -> None:
        self._local = local
        self._options = options
        self._asked = asked
        self._parts: dict[int, Any] = {}
        self._pump: _Pump | None = None
        self.room = 0
        self._start_pump()

    def _start_pump(self) -> _Pump:
        self.end_pump()
        ray = None
        if self._options.address is None:
            ray = own.Place(os.fspath(self._local.directory.latest.path))
        ours, theirs = socket.socketpair()
        writer, reader = make_queue()
        life = os.dup(self._local.life.fd)
        try:
            child = self._local.launcher.start(
                pump.main,
                [theirs.fileno(), life, *writer],
                pickle.dumps(self._arguments(ray)),
                [ours.fileno(), *reader],
            )
        except BaseException:
            ours.close()
            for fd in reader:
                os.close(fd)
            if ray is not None:
                ray.remove()
            raise
        finally:
            theirs.close()
            for fd in (life, *writer):
                os.close(fd)
        started = self._pump = _Pump(child, ours, reader, ray)
        hello = started.hello()
        if hello.refusal:
            self.end_pump()
            where = self._options.address or "a Ray on this machine"
            raise ConnectionError(f"cannot connect with {where}: {hello.refusal}")
        if hello.warning:
            PackageLogger().warning("%s", hello.warning)
        self.room = hello.room
        _have_room(self._options.max_workers or self.room)
        return started

    def _arguments(self, ray: own.Place | None) -> PumpArguments:
        options, initializer = self._options, self._local.initializer
        beginning = Beginning(
            collector=secrets.token_hex(8),
            version=settings.VERSION,
            python=sys.version_info[:2],
            base_name=options.temp_file_base_name,
            initializer=initializer.call,
            parts=tuple(map(packed, initializer.parts)),
            log_levels=log_records.levels(),
            most_tasks=options.max_tasks_per_child,
            parcel_bytes=settings.RAY_PARCEL_BYTES,
            argv=tuple(sys.argv),
        )
        return PumpArguments(
            address=options.address,
            options=self._asked,
            workers=options.max_workers or 0,
            temp_directory="" if ray is None else ray.path,
            run_directory=os.fspath(self._local.directory.latest.path),
            store_bytes=options.memory_budget + settings.RAY_STORE_BYTES,
            memory_budget=options.memory_budget,
            token=secrets.token_hex(32),
            beginning=beginning,
        )

    def end_pump(self) -> None:
        """End the pump, with all that it has started."""
        ended, self._pump = self._pump, None
        if ended is not None:
            ended.end()

    def start_sink(self, held_bytes: int, farewell: messages.Farewell) -> "SinkHandle":
        """Start a sink, which reads what the pump carries."""
        self._local.start_sink(held_bytes, farewell)
        assert self._local.sink is not None
        sink = _Sink(self._local.sink, self)
        if self._pump is not None and self._pump.reader:
            self._join(self._pump)
        return sink

    def _join(self, joins: _Pump) -> None:
        sink = self._local.sink
        assert sink is not None
        reader, joins.reader = joins.reader, []
        said = messages.WorkerJoined(PUMP, joins.child.pid, len(reader) - WITHOUT_SLOTS)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sink.channel.post_with(said, [*reader, joins.child.death_fd])
        finally:
            for fd in reader:
                os.close(fd)
        joins.joined = sink

    def start_worker(self, number: int) -> RayWorker:
        """Return a worker, which runs one job at a time on the cluster."""
        at = self._pump
        if at is None or at.child.dead() or at.joined is not self._local.sink:
            at = self._start_pump()
            self._join(at)
        death_r, death_w = os.pipe()
        at.say(Order.JOIN, number, None, [death_w])
        return RayWorker(number, at, death_r)

    def abandon(self, others: Iterable[int]) -> None:
        """In a forked child of the parent: close what is the parent's."""
        own = [] if self._pump is None else self._pump.descriptors()
        self._local.abandon([*others, *own])

    def close(self) -> None:
        """Let go of everything."""
        self.end_pump()
        self._local.close()


def _have_room(workers: int) -> None:
    """Allow this process a descriptor for each worker, beside what it may have had before."""
    with contextlib.suppress(ValueError, OSError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = workers + settings.RAY_DESCRIPTORS
        if soft != resource.RLIM_INFINITY and soft < wanted:
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
