"""What runs on the cluster: a task of Ray's that has a worker of its own run one job.

The worker is the very one that runs jobs elsewhere, a process with its group; the task reads its
queue and yields what it says in parcels. So a job can do to its process what it wants, is killed
with its subprocesses, and what it had published before is yielded all the same.

Runs in:    a worker process of Ray's, which is here called the agent. Between two jobs the worker
            stays for the next one.
Owns:       the worker, with the reading end of its queue, and a run directory of its own.
Invariants: I1  a parcel is yielded when it is full, or its first piece `RAY_PARCEL_DEADLINE_S` old.
            I2  a job that is given up (cancelled, its reader gone) takes its worker along.
            I3  when the agent dies, its worker sees that and ends its whole group.
"""

import contextlib
import json
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pickle import PickleBuffer
from typing import Any, Final, final

from collector import settings
from collector.integrations.ray.orders import (
    BEGINNING,
    DIED,
    LACKS,
    LOG,
    WHOLE,
    Beginning,
    Parcel,
    unpacked,
)
from collector.process.pickling.script import Part, Script
from collector.process.pool.local_engine import LocalEngine, LocalWorker
from collector.process.pool.out_of_memory import OomKills
from collector.process.pool.whereabouts import whereabouts
from collector.process.queue.reader import QueueReader
from collector.process.start.inheritance import Inheritance
from collector.process.start.launcher import open_pidfd
from collector.process.start.methods import launcher_for
from collector.store.rundir.current_directory import CurrentDirectory
from collector.store.rundir.reclaim import start_sweep
from collector.wire import messages
from collector.wire.frames import Frame, Kind

_READS: Final = 64
"""Reads of a dead worker's queue: more is the garbage of what it has left behind."""
_LOG_PIECE_BYTES: Final = 256 * settings.KIB


class WrongVersionError(RuntimeError):
    """The collector of the cluster, or its Python, is another one."""


class _Queue:
    """A worker, and the end of its queue that the agent reads."""

    def __init__(self, engine: LocalEngine, number: int) -> None:
        self._fds: list[int] = []
        self.worker: LocalWorker = engine.start_worker_read_by(self._join, number)
        *queue, death_fd = self._fds
        os.close(death_fd)  # the handle has one
        self.reader = QueueReader(queue)
        self.jobs = 0
        self.ended = False

    def _join(self, _message: messages.Message, descriptors: Sequence[int]) -> None:
        self._fds = [os.dup(fd) for fd in descriptors]

    def dead(self) -> bool:
        return self.worker.child.dead()

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

    def close(self) -> int | None:
        """End the worker with its group, if it is not dead; return how it ended."""
        self.worker.kill()
        code = self.worker.reap().code
        self.worker.close()
        self.reader.close()
        return code


@final
class Agent:
    """Runs the jobs that come to one worker process of Ray's."""

    def __init__(self, beginning: Beginning) -> None:
        self.collector = beginning.collector
        self._told = beginning
        self._parts: dict[int, Part] = {part[0]: unpacked(part) for part in beginning.parts}
        sys.argv[:] = beginning.argv  # which it hands on to its workers
        _end_with_ray()
        root = _root()
        launcher = launcher_for("forkserver")
        launcher.prepare()
        self._directory = CurrentDirectory(root)
        start_sweep(self._directory.latest.path.parent)
        initializer = Inheritance(None, launcher.method, Script())
        initializer.call = beginning.initializer
        initializer.parts = tuple(self._parts.values())
        self._engine = LocalEngine(launcher, self._directory, beginning.base_name, 0, initializer)
        self._numbers = iter(range(1, sys.maxsize))
        self._oom = OomKills()
        self._queue: _Queue | None = None

    def unknown(self, numbers: Sequence[int]) -> list[int]:
        """Return which of these parts of the script did not come here yet."""
        return [number for number in numbers if number not in self._parts]

    def learn(self, parts: Sequence[tuple[Any, ...]]) -> None:
        """Take parts of the script."""
        self._parts.update((part[0], unpacked(part)) for part in parts)

    def run(self, job: messages.RunJob, numbers: Sequence[int]) -> Iterator[PickleBuffer]:
        """Run a job; yield what its worker says, in parcels."""
        queue = self._ready_worker()
        queue.jobs += 1
        parcel = Parcel()
        try:
            queue.worker.send(job, tuple(self._parts[number] for number in numbers))
            yield from self._read(queue, job, parcel)
        finally:
            if not queue.ended:
                self._drop()
        if self._told.most_tasks is not None and queue.jobs >= self._told.most_tasks:
            self._drop()

    def _ready_worker(self) -> _Queue:
        if self._queue is not None and self._queue.dead():
            self._drop()
        if self._queue is None:
            self._queue = _Queue(self._engine, next(self._numbers))
        self._queue.ended = False
        return self._queue

    def _drop(self) -> int | None:
        queue, self._queue = self._queue, None
        return None if queue is None else queue.close()

    def _read(self, queue: _Queue, job: messages.RunJob, parcel: Parcel) -> Iterator[PickleBuffer]:
        """Read until the job has ended, or its worker has."""
        due_s = 0.0
        while True:
            left_s = due_s - time.monotonic() if parcel.size else settings.RAY_LOOK_S
            readable, dead = queue.wait(min(max(0.0, left_s), settings.RAY_LOOK_S))
            if not parcel.size:
                due_s = time.monotonic() + settings.RAY_PARCEL_DEADLINE_S
            if dead or readable:
                yield from self._take(queue, parcel, _READS if dead else 1)
            if queue.ended:
                yield from self._with_log(job, parcel)
                return
            if dead:
                queue.ended = True
                yield from self._settle_dead(job, parcel)
                return
            if parcel.size and time.monotonic() >= due_s:
                yield parcel.take()

    def _take(self, queue: _Queue, parcel: Parcel, reads: int) -> Iterator[PickleBuffer]:
        """Take what the queue has now; yield each parcel that is full meanwhile."""
        for _ in range(reads):
            frames = queue.reader.read()
            if frames is None:
                return
            count = 0
            for frame, payload in frames:
                count += 1
                if frame.kind == Kind.DATA:
                    yield from self._collect(parcel, frame, payload)
                else:
                    self._hear(queue, parcel, frame, bytes(payload))
            if parcel.size >= self._told.parcel_bytes and not queue.ended:
                yield parcel.take()
            if not count:
                return

    def _collect(
        self, parcel: Parcel, frame: Frame, payload: bytes | memoryview
    ) -> Iterator[PickleBuffer]:
        """Add bytes of a stream; no parcel is to be larger than it may be."""
        limit, at = self._told.parcel_bytes, 0
        while True:
            step = payload[at : at + limit - parcel.size] if parcel.size < limit else b""
            at += len(step)
            last = at == len(payload)
            if frame.detail in WHOLE:  # it is small
                step, last = payload, True
            parcel.add(Kind.DATA, step, detail=frame.detail, chunks=frame.chunks if last else 0)
            if last:
                return
            yield parcel.take()

    def _hear(self, queue: _Queue, parcel: Parcel, frame: Frame, payload: bytes) -> None:
        match frame.kind:
            case Kind.WHERE:
                queue.worker.tell(whereabouts(self._directory, frame.ticket))
            case Kind.START:
                parcel.add(frame.kind, payload)
            case Kind.END | Kind.REFUSED:
                parcel.add(frame.kind, payload, detail=frame.detail)
                queue.ended = True
            case _:
                pass  # it is up; or gives back what nobody has asked for

    def _settle_dead(self, job: messages.RunJob, parcel: Parcel) -> Iterator[PickleBuffer]:
        code = self._drop()
        starved = code == -signal.SIGKILL and self._oom.has_killed()
        end = Parcel()
        end.add(DIED, json.dumps([code, starved]).encode())
        if parcel.size:
            yield parcel.take()
        yield from self._log(job)
        yield end.take()

    def _with_log(self, job: messages.RunJob, parcel: Parcel) -> Iterator[PickleBuffer]:
        """Yield the last parcel; what the job has printed comes before its end."""
        if job.log_name:
            yield from self._log(job)
        yield parcel.take()

    def _log(self, job: messages.RunJob) -> Iterator[PickleBuffer]:
        if not job.log_name:
            return
        path = self._directory.latest.path / job.log_name
        parcel = Parcel()
        with contextlib.suppress(OSError), path.open("rb") as file:
            parcel.add(LOG)
            while piece := file.read(_LOG_PIECE_BYTES):
                parcel.add(LOG, piece)
                if parcel.size >= self._told.parcel_bytes:
                    yield parcel.take()
            path.unlink()
        if parcel.size:
            yield parcel.take()


def _end_with_ray() -> None:
    """Have this process end with the server of this node that started it.

    Ray itself looks whether its parent is process 1 by now, which it never is where something else
    adopts orphans.
    """
    server = open_pidfd(int(os.environ.get("RAY_RAYLET_PID", os.getppid())))
    if server is None:
        return
    poller = select.poll()
    poller.register(server, select.POLLIN)

    def watch() -> None:
        poller.poll()
        os._exit(1)

    threading.Thread(target=watch, name="collector-ray-watch", daemon=True).start()


def _root() -> str | None:
    """Return where run directories are made: with Ray's own files, for they go with these.

    Ray ends this process in ways in which nothing can be cleaned up.
    """
    import ray

    try:
        at: Any = ray._private.worker.global_worker.node  # noqa: SLF001
        session: str = at.get_session_dir_path()
        root = os.path.join(session, f"collector-{os.getuid()}")
        os.makedirs(root, 0o700, exist_ok=True)
    except (AttributeError, OSError):
        return None  # the default root of this machine; the next sweep finds what is left there
    return root


class _Here:
    """The agent of this process."""

    def __init__(self) -> None:
        self.agent: Agent | None = None

    def serve(self, version: str, python: tuple[int, int], fields: Sequence[Any]) -> Agent:
        if self.agent is None or self.agent.collector != fields[0]:
            check(version, python)
            self.agent = Agent(Beginning(*fields))
        return self.agent


_here: Final = _Here()


def check(version: str, python: tuple[int, int]) -> None:
    """See whether this is what the parent is.

    Args:
        version: Of the parent's collector.
        python: The first two numbers of the version of its Python.

    Raises:
        WrongVersionError: It is not.
    """
    here = settings.VERSION, sys.version_info[:2]
    if here != (version, python):
        raise WrongVersionError(
            f"the cluster has collector {here[0]} on Python {_dotted(here[1])}, and the program "
            f"collector {version} on Python {_dotted(python)}: both must be the same"
        )


def serve(
    collector: str, run: bytes, numbers: Sequence[int], references: dict[int, Any]
) -> Iterator[PickleBuffer]:
    """Run one job: this is the task of Ray's.

    Args:
        collector: Whose it is.
        run: What to run: the pickled fields of a `RunJob`.
        numbers: The parts of the script that it needs.
        references: To these, and to the `Beginning`; none where they are taken to be known here.
    """
    agent = _here.agent
    known = agent is not None and agent.collector == collector
    missing = [] if agent is None else agent.unknown(numbers)
    if not references and (missing or not known):
        parcel = Parcel()
        parcel.add(LACKS)
        yield parcel.take()
        return
    if agent is None or missing or not known:
        import ray

        agent = _here.serve(*ray.get(references[BEGINNING])) if not known else agent
        assert agent is not None
        missing = agent.unknown(numbers)
        agent.learn(ray.get([references[number] for number in missing]))
    yield from agent.run(messages.RunJob(*pickle.loads(run)), numbers)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
