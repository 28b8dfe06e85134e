"""The sink, or collector process: reads all queues, keeps the outputs, seals them, reports.

Runs in:    the sink.
Owns:       the reading end of each queue, a SpillManager for each stream of each running job, the
            memory budget, a lease on the run directory.
States:     of a queue: IDLE -> OPEN (START) -> IDLE (END, or the worker's death: sealed as it is).
            An OPEN job whose output could not be kept is REFUSED until its END: its frames are
            dropped.
Invariants: I1  a frame is taken only by the job that its own queue has open: streams of two workers
                never meet.
            I2  nothing that came from a job is unpickled.
            I3  nothing here waits but the one select, and writes to disk.
            I4  when the parent is gone: the workers are killed with their groups, then the run
                directory is removed.
"""

import contextlib
import os
import pickle
import select
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import final

from collector import settings
from collector.errors import ProtocolError, SpillError
from collector.process.birth import stand_apart
from collector.process.channel import Channel
from collector.process.openjob import OpenJob
from collector.process.queue import QueueReader
from collector.process.slots import WITHOUT_SLOTS
from collector.process.watch import Watch
from collector.store.budget import Budget
from collector.store.rundir import RunDirectory
from collector.store.spill import SpillManager
from collector.wire import messages
from collector.wire.frames import START, Frame, Kind, Outcome, Stream

_READS = 8
"""Reads of a pipe in a row: a worker that is quick has published again by the time that its last
slot is written (docs/decisions/0009-speed.md)."""

_DRAIN_READS = 64
"""Reads of a dead worker's pipe, each of a full pipe: more is a grandchild's garbage."""

_OUTCOMES = tuple(Outcome)
_M_MMAP_THRESHOLD = -3
_STDERR = 2
_BURIED = 64
"""So many of the workers that died last are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkArguments:
    """What the sink is told when it starts."""

    run_directory: str
    temp_file_base_name: str
    memory_budget: int
    elsewhere_bytes: int
    farewell: bytes


@dataclass(slots=True)
class Source:
    """One worker, as the sink sees it."""

    worker: int
    pid: int
    queue: QueueReader
    death_fd: int
    job: OpenJob | None = None
    watched: list[int] = field(default_factory=list)


def main(descriptors: Sequence[int], arguments: bytes) -> None:
    """Collect until the parent says stop, or is gone.

    Args:
        descriptors: The socket to the parent, and the parent's life.
        arguments: A pickled `SinkArguments`.
    """
    stand_apart()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it may have to write to the terminal
    _take_all_descriptors()
    for fd in descriptors:
        os.set_inheritable(fd, False)
    told: SinkArguments = pickle.loads(arguments)
    control = Channel(socket.socket(fileno=descriptors[0]), takes_descriptors=True)
    directory = RunDirectory.join(told.run_directory)
    with contextlib.closing(control):
        Sink(control, descriptors[1], directory, told).run()


def _return_memory() -> bool:
    """Have every buffer of 1 MiB or more mapped on its own: freed, it goes back to the system.

    Without it glibc raises that limit at the first large buffer that is freed, and outputs that
    grow leave holes: 7 to 12 MiB stayed, and 18 to 22 were the peak where 11 are enough.

    Returns:
        False if that should be tried again.
    """
    try:
        import ctypes  # noqa: PLC0415 - 10 ms, before the first bytes and not before the first job

        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, settings.MIB)
    except AttributeError:  # another libc
        pass
    except (ImportError, OSError):  # no descriptor is to be had
        return False
    return True


def _take_all_descriptors() -> None:
    """Allow this process all the descriptors that it may have: each worker takes some."""
    import resource  # noqa: PLC0415 - there is none on every system

    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _kill(how: Callable[[int, int], None], pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        how(pid, signal.SIGKILL)


@final
class Sink:
    """The loop of the sink process."""

    def __init__(
        self, control: Channel, parent: int, directory: RunDirectory, told: SinkArguments
    ) -> None:
        self._control = control
        self._directory = directory
        self._told = told
        self._farewell = told.farewell
        self._budget = Budget(told.memory_budget, told.elsewhere_bytes)
        self._sources: dict[int, Source] = {}
        self._buried: deque[tuple[int, float]] = deque(maxlen=_BURIED)
        self._watch = Watch()
        self._returns_memory = False
        self._reading = True
        self._stopped = False
        self._next_report_s = 0.0
        self._watch.expect(control.fd, self._hear)
        self._watch.expect(parent, self._outlive)

    def run(self) -> None:
        """Serve until stopped."""
        while not self._stopped:
            for handle in self._watch.ready(self._pause_s()):
                handle()
            self._report()
            self._send()

    def _hear(self) -> None:  # noqa: C901, PLR0912 - one case a message
        heard = self._control.receive()
        if heard is None:
            self._outlive()
            return
        for message in heard:
            match message:
                case messages.WorkerJoined():
                    self._join(message)
                case messages.WorkerLeft():
                    self._drain(self._sources.get(message.worker))
                case messages.FollowJob():
                    self._follow(message.ticket)
                case messages.MemoryHeld():
                    self._budget.elsewhere_bytes += message.change
                case messages.Farewell():
                    self._farewell = message.text
                case messages.Stop():
                    self._stopped = True
                case _:
                    raise ProtocolError(f"the sink was told {message}")

    def _outlive(self) -> None:
        """The parent is gone: end the workers, remove the run directory, leave."""
        self._stopped = True
        for source in self._sources.values():
            _kill(os.killpg, source.pid)
            _kill(os.kill, source.pid)
        # Also the groups of workers that have just died: the kernel was faster with those. Of the
        # others the parent has killed the group, and the number may be a stranger's by now.
        just_now_s = time.monotonic() - settings.JUST_DIED_S
        for pid, died_s in self._buried:
            if died_s >= just_now_s:
                _kill(os.killpg, pid)
        deadline = time.monotonic() + settings.WORKERS_GONE_S
        with selectors.DefaultSelector() as deaths:
            for source in self._sources.values():
                deaths.register(source.death_fd, selectors.EVENT_READ)
            while deaths.get_map() and time.monotonic() < deadline:
                for key, _ in deaths.select(deadline - time.monotonic()):
                    deaths.unregister(key.fd)
        if self._farewell and select.select([], [_STDERR], [], 0)[1]:
            with contextlib.suppress(OSError):
                os.write(_STDERR, self._farewell)
        # Pipes and sockets of a killed process may end before its locks are free.
        self._directory.dispose(patience_s=settings.WORKERS_GONE_S)

    def _send(self) -> None:
        try:
            sent = self._control.flush()
        except OSError:
            self._outlive()
            return
        self._watch.expect(self._control.fd, self._hear, writing=not sent)
        self._hold_back(self._control.backlog_bytes > settings.REPORT_BACKLOG_BYTES)

    def _hold_back(self, too_much: bool) -> None:
        """Read no worker while the parent does not keep up; they wait for credits."""
        if too_much is not self._reading:
            return
        self._reading = not too_much
        for source in self._sources.values():
            if too_much:
                self._unwatch(source, source.queue.fd)
            else:
                self._watch_source(source, source.queue.fd, self._take)

    def _join(self, message: messages.WorkerJoined) -> None:
        *queue, death_fd = self._control.take_descriptors(WITHOUT_SLOTS + message.slots + 1)
        source = Source(message.worker, message.pid, QueueReader(queue), death_fd)
        self._sources[message.worker] = source
        self._watch_source(source, death_fd, self._drain)
        if self._reading:
            self._watch_source(source, source.queue.fd, self._take)

    def _take(self, source: Source) -> None:
        """Take what the worker's queue has now."""
        with self._alone(source):
            self._read(source, _READS)

    def _read(self, source: Source, reads: int) -> None:
        for _ in range(reads):
            frames = source.queue.read()
            if frames is None:  # its end; the death itself is told by the other descriptor
                self._unwatch(source, source.queue.fd)
                return
            count = 0
            for frame, payload in frames:
                self._handle(source, frame, payload)
                count += 1
            if not count:
                return

    @contextlib.contextmanager
    def _alone(self, source: Source) -> Iterator[None]:
        """Let whatever goes wrong with one worker's queue cost that worker, and no other."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            # ProtocolError, or no memory: its queue is given up, the parent ends the worker.
            self._drop(source, f"was given up by the collector process: {error!r}")

    def _handle(self, source: Source, frame: Frame, payload: bytes | memoryview) -> None:
        job = source.job
        match frame.kind:
            case Kind.START if job is None:
                source.job = self._open(source, frame.ticket, payload)
            case Kind.END if job is not None and job.ticket == frame.ticket:
                self._end(source, job, _OUTCOMES[frame.detail], bytes(payload))
            case Kind.DATA if frame.detail == Stream.RECORD:
                self._control.post(messages.LogRecord(ticket=frame.ticket, record=bytes(payload)))
            case Kind.DATA if job is not None and job.ticket == frame.ticket:
                self._store(job, frame, payload)
            case Kind.READY | Kind.REFUSED:
                refusal = bytes(payload).decode("utf-8", "replace")
                self._control.post(messages.WorkerReady(worker=source.worker, refusal=refusal))
            case Kind.HANDED_BACK:
                self._control.post(
                    messages.JobHandedBack(worker=source.worker, ticket=frame.ticket)
                )
            case _:
                raise ProtocolError(
                    f"{Kind(frame.kind).name} for job {frame.ticket} while "
                    f"{job.ticket if job else 'none'} was open"
                )

    def _drain(self, source: Source | None) -> None:
        """Take what a dead worker had published, seal its job as it is, and close the queue."""
        if source is None:
            return
        self._buried.append((source.pid, time.monotonic()))
        with self._alone(source):
            self._read(source, _DRAIN_READS)
        self._drop(source, "")

    def _drop(self, source: Source, broken: str) -> None:
        if source.worker not in self._sources:
            return
        del self._sources[source.worker]
        if source.job is not None:
            self._end(source, source.job, Outcome.DIED, b"")
        for fd in list(source.watched):
            self._unwatch(source, fd)
        source.queue.close()
        os.close(source.death_fd)
        self._control.post(messages.WorkerDrained(worker=source.worker, broken=broken))

    def _open(self, source: Source, ticket: int, payload: bytes | memoryview) -> OpenJob:
        if len(payload) != START.size:
            raise ProtocolError(f"START with {len(payload)} bytes")
        (threshold,) = START.unpack(payload)
        return OpenJob(source.worker, ticket, threshold, self._new_output, self._budget)

    def _new_output(self, threshold: int) -> SpillManager:
        return SpillManager.in_directory(
            self._directory,
            memory_threshold=threshold,
            temp_file_base_name=self._told.temp_file_base_name,
        )

    def _store(self, job: OpenJob, frame: Frame, payload: bytes | memoryview) -> None:
        if job.over:
            return
        if not self._returns_memory:
            self._returns_memory = _return_memory()
        try:
            job.store(Stream(frame.detail), payload, frame.chunks)
        except SpillError as error:  # told at once: the parent ends the worker
            self._control.post(job.fail(error))

    def _end(self, source: Source, job: OpenJob, outcome: Outcome, value: bytes) -> None:
        source.job = None
        if not job.over:
            self._control.post(job.end(outcome, value))

    def _follow(self, ticket: int) -> None:
        for source in self._sources.values():
            job = source.job
            if job is not None and job.ticket == ticket and not job.over:
                try:
                    job.follow()
                except SpillError as error:
                    self._control.post(job.fail(error))
                self._next_report_s = 0.0

    def _report(self) -> None:
        """Tell of jobs that have started and not ended; then how far they are, not too often."""
        jobs = [s.job for s in self._sources.values() if s.job is not None and not s.job.over]
        now = time.monotonic()
        for job in jobs:
            if not job.announced and now >= job.opened_s + settings.ANNOUNCE_AFTER_S:
                job.announced = True
                self._control.post(messages.JobStarted(worker=job.worker, ticket=job.ticket))
        if not jobs or now < self._next_report_s:
            return
        followed = any(job.followed for job in jobs)
        pause_s = settings.FOLLOW_INTERVAL_S if followed else settings.PROGRESS_INTERVAL_S
        self._next_report_s = now + pause_s
        for job in jobs:
            news = job.progressed()
            if news is not None:
                self._control.post(news)

    def _pause_s(self) -> float | None:
        """How long the select may wait: until there is something to tell of a running job."""
        jobs = [source.job for source in self._sources.values() if source.job is not None]
        if not jobs:
            return None
        news = [job.opened_s + settings.ANNOUNCE_AFTER_S for job in jobs if not job.announced]
        return max(0.001, min([self._next_report_s, *news]) - time.monotonic())

    def _watch_source(self, source: Source, fd: int, handler: Callable[[Source], None]) -> None:
        self._watch.expect(fd, lambda: handler(source))
        source.watched.append(fd)

    def _unwatch(self, source: Source, fd: int) -> None:
        if fd in source.watched:
            source.watched.remove(fd)
            self._watch.forget(fd)
