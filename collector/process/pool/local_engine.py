"""Starts the sink and the workers, and wires their descriptors together.

Runs in:    the parent.
Owns:       of each process: its `Child`, and the parent's ends of its pipes. What goes to a
            process, or from a worker to the sink, is closed here as soon as both have it.
"""

import contextlib
import functools
import os
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final

from collector import settings
from collector.process import log_records
from collector.process.engine import Exit
from collector.process.pickling.script import Delivered, Parts
from collector.process.pool.whereabouts import place_of
from collector.process.queue.channel import Channel
from collector.process.queue.chunk_queue import make_queue
from collector.process.queue.shared_slots import WITHOUT_SLOTS, group_of, last_begun, loaded_s
from collector.process.sink import begin as sink_role
from collector.process.start import lineage
from collector.process.start.forkserver import ForkServer
from collector.process.start.former import collect_former
from collector.process.start.inheritance import Inheritance
from collector.process.start.launcher import Child, Launcher, Life
from collector.process.worker import begin as worker_role
from collector.store.rundir.current_directory import CurrentDirectory
from collector.wire import messages

Tell = Callable[[messages.Message, Sequence[int]], None]
"""Sends a message, and copies of descriptors with it."""


class _Process:
    """What a worker and a sink have in common, as the parent sees them."""

    def __init__(self, child: Child, channel: Channel) -> None:
        self.child = child
        self.channel = channel
        self.pid = child.pid
        self.death_fd = child.death_fd

    @property
    def room_fd(self) -> int | None:
        """The descriptor that messages go to."""
        return None if self.channel.closed else self.channel.fd

    @property
    def backlog_bytes(self) -> int:
        """How much `flush` has to write."""
        return self.channel.backlog_bytes

    def tell(self, message: messages.Message) -> None:
        """Queue a message, unless the process was stopped."""
        if not self.channel.closed:
            self.channel.post(message)

    def flush(self) -> bool:
        """Write what can be written now; that a process is dead is told by `death_fd`, not here."""
        try:
            return self.channel.flush()
        except OSError:
            return True

    def kill(self) -> None:
        """End it and all processes of its group at once."""
        self.child.kill()

    def reap(self) -> Exit:
        """Wait for its end and collect it, with what is left of its group."""
        self.child.dead(settings.STOP_DEADLINE_S)
        return Exit(self.child.reap())

    def close(self) -> None:
        """Close the parent's ends; the process is dead."""
        self.channel.close()
        self.child.close()

    def descriptors(self) -> list[int]:
        """Give up the parent's ends and return them."""
        room = [] if self.channel.closed else [self.channel.detach()]
        return [*room, self.death_fd]


@final
class LocalWorker(_Process):
    """A worker process, as the parent sees it."""

    def __init__(
        self, number: int, child: Child, ends: "_Ends", scratch_prefix: str, delivered: Delivered
    ) -> None:
        super().__init__(child, Channel(ends.jobs_fd))
        if ends.slots_fd is not None:
            child.leads = functools.partial(group_of, ends.slots_fd)
        self.number = number
        self.scratch_prefix = scratch_prefix
        self.sink_sees_death = child.has_pidfd
        self._recall_fd = ends.recall_fd
        self._slots_fd = ends.slots_fd
        self._keys = ends.keys
        self._delivered = delivered

    def send(self, job: messages.RunJob, parts: Parts) -> None:
        """Queue a job, after new keys of both libraries and what it lacks of the script."""
        channel, keys = self.channel, lineage.keys()
        if keys != self._keys:
            self._keys = keys
            channel.post(messages.AuthKeys(*map(bytes, keys)))
        if parts:
            for part in self._delivered.missing(parts, job.ticket):
                channel.post(part)
        channel.post(job)

    def stop(self) -> None:
        """Let the worker leave: it sees the end of its job pipe."""
        self.channel.close()

    def terminate(self) -> None:
        """Ask it to end, by SIGTERM."""
        self.child.terminate()

    def signal(self, number: int, *, itself: bool) -> None:
        """Send a signal to the process group that its job has begun, and to its own if asked."""
        self.child.signal(number, itself=itself)

    def recall(self) -> None:
        """Ask for the jobs that it has not started."""
        with contextlib.suppress(OSError):
            os.write(self._recall_fd, b"r")

    def loaded_s(self, ticket: int, started_s: float) -> float | None:
        """Return when it had loaded the call; where it cannot note that, when it started."""
        return started_s if self._slots_fd is None else loaded_s(self._slots_fd, ticket)

    def reap(self) -> Exit:
        """Wait for its end and collect it; then see in its slots what it had begun."""
        code = super().reap().code
        return Exit(code, None if self._slots_fd is None else last_begun(self._slots_fd))

    def close(self) -> None:
        """Close the parent's ends; the process is dead."""
        super().close()
        os.close(self._recall_fd)
        if self._slots_fd is not None:
            os.close(self._slots_fd)

    def descriptors(self) -> list[int]:
        """Give up the parent's ends and return them."""
        slots = [] if self._slots_fd is None else [self._slots_fd]
        return [*super().descriptors(), *slots, self._recall_fd]


class _Ends(NamedTuple):
    """The parent's ends of a worker's pipes, and the keys that the worker was started with."""

    jobs_fd: int
    recall_fd: int
    slots_fd: int | None
    keys: tuple[bytes, bytes]


@final
class LocalSink(_Process):
    """The sink process, as the parent sees it."""

    @property
    def control_fd(self) -> int:
        """The descriptor that its messages come from."""
        return self.channel.fd

    def receive(self) -> list[messages.Message] | None:
        """Return the messages that have come; None at the end."""
        return self.channel.receive()

    def stop(self) -> None:
        """Let it leave."""
        self.channel.post(messages.Stop())


@final
@dataclass(slots=True, eq=False)
class LocalEngine:
    """Starts the processes of one Collector on this machine, and has what all are started with."""

    launcher: Launcher
    directory: CurrentDirectory
    temp_file_base_name: str
    memory_budget: int
    initializer: Inheritance
    life: Life = field(default_factory=Life)
    """Handed on as a copy: a forked child closes this one (`Pool.abandon`)."""
    sink: LocalSink | None = None
    """The one that was started last."""

    @property
    def forks(self) -> bool:
        """Whether its workers are forked from this very process."""
        return self.launcher.method == "fork"

    def close(self) -> None:
        """Let go of what starting needed; no process is left, or none was ever started."""
        self.launcher.close()
        collect_former()
        self.life.close()
        self.initializer.close()

    def start_sink(self, held_bytes: int, farewell: messages.Farewell) -> LocalSink:
        """Start a sink, which reads the queues of the workers that are started from now on.

        Raises:
            OSError: No process or descriptor is to be had.
        """
        ours, theirs = socket.socketpair()
        told = sink_role.SinkArguments(
            run_directory=os.fspath(self.directory.latest.path),
            run_identity=self.directory.latest.identity,
            temp_file_base_name=self.temp_file_base_name,
            memory_budget=self.memory_budget,
            elsewhere_bytes=held_bytes,
            farewell=farewell,
            entry=self.directory.entry,
        )
        with theirs, _undone_on_error(ours):
            life = os.dup(self.life.fd)
            try:
                child = self.launcher.start(
                    sink_role.main, [theirs.fileno(), life], pickle.dumps(told), [ours.fileno()]
                )
            finally:
                os.close(life)
        self.sink = LocalSink(child, Channel(ours))
        return self.sink

    def abandon(self, others: Iterable[int]) -> None:
        """In a forked child of the parent: close what is the parent's, also these descriptors."""
        fds = [*self.life.descriptors(), *self.launcher.abandon(), *others]
        fds.extend(self.initializer.descriptors)
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)

    def start_worker(self, number: int) -> LocalWorker:
        """Start a worker whose queue the sink reads.

        Raises:
            OSError: No process or descriptor is to be had.
        """
        if self.sink is None:
            raise ValueError("a worker needs a sink: start that first")
        return self.start_worker_read_by(self.sink.channel.post_with, number)

    def start_worker_read_by(self, tell: Tell, number: int) -> LocalWorker:
        """Start a worker whose queue is read by whoever is told of it.

        Args:
            tell: Gets the message that the worker has joined, with the reader's descriptors, of
                which it makes copies.
            number: Of the worker.

        Raises:
            OSError: No process or descriptor is to be had.
        """
        prefix = f"scratch-{os.urandom(4).hex()}"
        method, keys, ancestors = self.launcher.method, lineage.keys(), lineage.ancestors()
        delivered = Delivered()
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            trackers = lineage.trackers() if method != "fork" else []  # which has them anyway
            for _, fd in trackers:
                theirs.callback(os.close, fd)
            writer, reader = make_queue()
            for fd in (*writer, *reader):
                theirs.callback(os.close, fd)
            slots_fds = [os.dup(fd) for fd in writer[WITHOUT_SLOTS:]]
            for fd in slots_fds:
                ours.callback(os.close, fd)
            jobs_r, jobs_w = _pipe(theirs, ours)
            recall_r, recall_w = _pipe(theirs, ours)
            os.set_blocking(recall_w, False)
            life = os.dup(self.life.fd)
            theirs.callback(os.close, life)
            told = worker_role.WorkerArguments(
                run_directory=place_of(self.directory.latest),
                scratch_prefix=prefix,
                number=number,
                parent_pid=os.getpid(),
                ancestors=ancestors,
                trackers=[library for library, _ in trackers],
                queue_descriptors=len(writer),
                initializer=self.initializer.call,
                parts=list(delivered.missing(self.initializer.parts, 0)),
                log_levels=log_records.levels(),
                dies_with_its_parent=method != ForkServer.method,
                forked=method == "fork",
            )
            more = [*(fd for _, fd in trackers), *self.initializer.descriptors]
            child = self.launcher.start(
                worker_role.main,
                [jobs_r, life, recall_r, *writer, *more],
                pickle.dumps(told),
                [jobs_w, recall_w, *reader, *slots_fds],
            )
            ours.callback(_end, child)
            joined = messages.WorkerJoined(worker=number, pid=child.pid, slots=len(slots_fds))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # A dead sink is noticed by its death; this worker is replaced with it.
                tell(joined, [*reader, child.death_fd])
            ours.pop_all()
        slots_fd = next(iter(slots_fds), None)
        ends = _Ends(jobs_w, recall_w, slots_fd, keys)
        return LocalWorker(number, child, ends, prefix, delivered)


def _pipe(theirs: contextlib.ExitStack, ours: contextlib.ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    theirs.callback(os.close, read)
    ours.callback(os.close, write)
    return read, write


def _end(child: Child) -> None:
    child.kill()
    child.dead(settings.STOP_DEADLINE_S)
    child.reap()
    child.close()


@contextlib.contextmanager
def _undone_on_error(end: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        end.close()
        raise
