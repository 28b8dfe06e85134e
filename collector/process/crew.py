"""Starts the sink and the workers, and wires their descriptors together.

Runs in:    the parent.
Owns:       of each process: its `Child`, and the parent's ends of its pipes. What goes to a
            process, or from a worker to the sink, is closed here as soon as both have it.
"""

import contextlib
import math
import os
import pickle
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import final

from collector import settings
from collector.process import records, sink, worker
from collector.process.actions import Entry
from collector.process.channel import Channel
from collector.process.engine import Child, Launcher, Life
from collector.process.forkserver import ForkServer
from collector.process.queue import make_queue
from collector.process.slots import WITHOUT_SLOTS, last_begun
from collector.wire import messages


@final
@dataclass(slots=True, eq=False)
class Worker:
    """A worker process, as the parent sees it."""

    number: int
    child: Child
    jobs: Channel
    recall_fd: int
    scratch_prefix: str
    slots_fd: int | None = None
    running: Entry | None = None
    last_words: messages.JobEnded | None = None
    drained: bool = False
    broken: str = ""
    dead: bool = False
    leaving: bool = False
    kill_by_s: float = math.inf

    def stop(self) -> None:
        """Let it leave: it sees the end of its job pipe. It is killed if it does not go in time."""
        self.jobs.close()
        self.leaving = True
        self.kill_by_s = time.monotonic() + settings.STOP_DEADLINE_S

    def last_begun(self) -> int | None:
        """Return the ticket of the job that it has begun last; None where it cannot note that."""
        return None if self.slots_fd is None else last_begun(self.slots_fd)

    def recall(self) -> None:
        """Ask for the jobs that it has not started."""
        with contextlib.suppress(OSError):
            os.write(self.recall_fd, b"r")

    def close(self) -> None:
        """Close the parent's ends; the process is dead."""
        self.jobs.close()
        os.close(self.recall_fd)
        if self.slots_fd is not None:
            os.close(self.slots_fd)
        self.child.close()

    def descriptors(self) -> list[int]:
        """Return the parent's ends."""
        jobs = [] if self.jobs.closed else [self.jobs.fd]
        slots = [] if self.slots_fd is None else [self.slots_fd]
        return [*jobs, *slots, self.recall_fd, self.child.death_fd]


@final
@dataclass(slots=True, eq=False)
class SinkProcess:
    """The sink process, as the parent sees it."""

    child: Child
    channel: Channel
    leaving: bool = False
    kill_by_s: float = math.inf

    def stop(self) -> None:
        """Let it leave. It is killed if it does not go in time."""
        self.channel.post(messages.Stop())
        self.leaving = True
        self.kill_by_s = time.monotonic() + settings.STOP_DEADLINE_S

    def close(self) -> None:
        """Close the parent's ends; the process is dead."""
        self.channel.close()
        self.child.close()

    def descriptors(self) -> list[int]:
        """Return the parent's ends."""
        return [self.channel.fd, self.child.death_fd]


def kill_late(processes: Iterable[Worker | SinkProcess], now_s: float) -> None:
    """Kill each process whose time is up, once."""
    for process in processes:
        if process.kill_by_s <= now_s:
            process.child.kill()
            process.kill_by_s = math.inf


@final
@dataclass(slots=True, eq=False)
class Crew:
    """What all processes of one Collector are started with."""

    launcher: Launcher
    run_directory: str
    temp_file_base_name: str
    memory_budget: int
    initializer: bytes
    life: Life = field(default_factory=Life)
    """Handed on as a copy: a forked child closes this one (`Pool.abandon`)."""
    farewell: bytes = b""
    """What a sink writes to stderr if this process dies."""
    last_sink: SinkProcess | None = None

    def start_sink(self, elsewhere_bytes: int) -> SinkProcess:
        """Start a sink.

        Raises:
            OSError: No process or descriptor is to be had.
        """
        ours, theirs = socket.socketpair()
        told = sink.SinkArguments(
            run_directory=self.run_directory,
            temp_file_base_name=self.temp_file_base_name,
            memory_budget=self.memory_budget,
            elsewhere_bytes=elsewhere_bytes,
            farewell=self.farewell,
        )
        with theirs, _undone_on_error(ours):
            life = os.dup(self.life.fd)
            try:
                child = self.launcher.start(
                    sink.main, [theirs.fileno(), life], pickle.dumps(told), [ours.fileno()]
                )
            finally:
                os.close(life)
        self.last_sink = SinkProcess(child, Channel(ours))
        return self.last_sink

    def say_at_the_end(self, farewell: bytes) -> None:
        """Have the sink write this to stderr if this process dies; in the supervising thread."""
        self.farewell = farewell
        if self.last_sink is not None:
            self.last_sink.channel.post(messages.Farewell(text=farewell))

    def start_worker(self, number: int, to_sink: SinkProcess) -> Worker:
        """Start a worker whose queue the sink reads.

        Raises:
            OSError: No process or descriptor is to be had.
        """
        prefix = f"scratch-{os.urandom(4).hex()}"
        told = worker.WorkerArguments(
            run_directory=self.run_directory,
            scratch_prefix=prefix,
            initializer=self.initializer,
            log_levels=records.levels(),
            dies_with_its_parent=self.launcher.method != ForkServer.method,
        )
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
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
            child = self.launcher.start(
                worker.main,
                [jobs_r, life, recall_r, *writer],
                pickle.dumps(told),
                [jobs_w, recall_w, *reader, *slots_fds],
            )
            ours.callback(_end, child)
            joined = messages.WorkerJoined(worker=number, pid=child.pid, slots=len(slots_fds))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # A dead sink is noticed by its death; this worker is replaced with it.
                to_sink.channel.post_with(joined, [*reader, child.death_fd])
            ours.pop_all()
        return Worker(number, child, Channel(jobs_w), recall_w, prefix, next(iter(slots_fds), None))


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
