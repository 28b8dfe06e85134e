"""The sink, or collector process: reads all queues, keeps the outputs, seals them, reports.

Runs in:    the sink.
Owns:       the reading end of each queue, a SpillManager for each stream of each running job, the
            memory budget, a lease on the run directory.
States:     of an open job: as the table of `collector.process.sink.open_job` says. The queue of a
            pump has many jobs open at once, each by its ticket.
Invariants: I1  a frame is taken only by the job that its own queue has open: streams of two workers
                never meet.
            I2  nothing that came from a job is unpickled.
            I3  the only waits are the one select, and writes to disk.
            I4  when the parent is gone: the workers are killed with their groups, then the run
                directory is removed.
"""

import contextlib
import errno
import os
import select
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import final

from collector import settings
from collector.errors import ProtocolError, SpillError
from collector.process import terminal_mode
from collector.process.process_group import end_further, end_group, end_process
from collector.process.queue.channel import Channel
from collector.process.queue.poller import Poller
from collector.process.queue.reader import QueueReader
from collector.process.queue.shared_slots import WITHOUT_SLOTS
from collector.process.sink.begin import SinkArguments
from collector.process.sink.open_job import JobState, OpenJob
from collector.process.sink.run_directory import SinkDirectory, join_if_there
from collector.process.sink.source import Source
from collector.process.start.child import stand_apart
from collector.store.budget import Budget
from collector.store.rundir.directory import RunDirectory
from collector.store.spill import SpillManager
from collector.wire import messages
from collector.wire.frames import HANDED_BACK_BY, START, START_OF, Frame, Kind, Stream
from collector.wire.outcome import OUTCOMES, Outcome

_READS = 8
"""Reads of a pipe in a row: a worker that is quick has published again by the time that its last
slot is written (docs/decisions/0009-speed.md)."""

_DRAIN_READS = 64
"""Reads of a dead worker's pipe, each of a full pipe: more is a grandchild's garbage."""

_CARRIED_READS = 2
"""Reads that empty a full pipe: after them the sink has all that a pump had carried of a worker
before it said that the worker was dead."""

_M_MMAP_THRESHOLD = -3
_STDERR = 2
_DIED_KEPT = 64
"""So many of the workers that died last are remembered."""


def run(descriptors: Sequence[int], told: SinkArguments) -> None:
    """Collect until the parent says stop, or is gone.

    Args:
        descriptors: The socket to the parent, and the parent's life.
        told: What it is told.
    """
    stand_apart()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it may have to write to the terminal
    _take_all_descriptors()
    for fd in descriptors:
        os.set_inheritable(fd, False)
    control = Channel(socket.socket(fileno=descriptors[0]), takes_descriptors=True)
    directory = join_if_there(told.run_directory, told.run_identity)
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


def _queue_of(came: Sequence[int], wanted: int) -> QueueReader:
    """Return the sink's end of a queue.

    Raises:
        OSError: This process may have no more descriptors: not all came, or none is left to map it.
    """
    if len(came) != wanted:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return QueueReader(came)


def _give_terminal_back(farewell: messages.Farewell) -> None:
    with contextlib.suppress(OSError):
        if farewell.text and select.select([], [_STDERR], [], 0)[1]:
            os.write(_STDERR, farewell.text)
    with contextlib.suppress(OSError):
        if farewell.mode:
            terminal_mode.give_back(farewell.mode)


@final
class Sink:
    """The loop of the sink process."""

    def __init__(
        self, control: Channel, parent: int, directory: RunDirectory | None, told: SinkArguments
    ) -> None:
        self._control = control
        self._directory = SinkDirectory(control, parent, directory, told.entry)
        self._told = told
        self._farewell = told.farewell
        self._budget = Budget(told.memory_budget, told.elsewhere_bytes)
        self._sources: dict[int, Source] = {}
        self._died_last: deque[tuple[int, int, float]] = deque(maxlen=_DIED_KEPT)
        self._watch = Poller()
        self._returns_memory = False
        self._had_pump = False
        self._reading = True
        self._stopped = self._outlived = False
        self._next_report_s = 0.0
        self._watch.expect(control.fd, self._hear)
        self._watch.expect(parent, self._outlive)

    def run(self) -> None:
        """Serve until stopped."""
        while not self._stopped:
            for handle in self._watch.ready(self._pause_s()):
                handle()
            self._obey_all()
            self._report()
            self._send()
        # A parent that ended without waiting has let go by now, or finds this sink gone.
        self._directory.dispose(patience_s=0)

    def _hear(self) -> None:
        heard = self._control.receive()
        if heard is None:
            self._outlive()
            return
        self._directory.heard.extend(heard)
        self._obey_all()

    def _obey_all(self) -> None:
        """Do what the parent has said, also while a file waited for its directory."""
        while self._directory.heard:
            self._obey(self._directory.heard.popleft())

    def _obey(self, message: messages.Message) -> None:
        match message:
            case messages.WorkerJoined():
                self._join(message)
            case messages.WorkerLeft():
                self._worker_left(message.worker)
            case messages.FollowJob():
                self._follow(message.ticket)
            case messages.MemoryHeld():
                self._budget.elsewhere_bytes += message.change
            case messages.Farewell():
                self._farewell = message
            case messages.RunDirectoryAt():
                self._directory.told(message)
            case messages.Stop():
                self._stopped = True
            case _:
                raise ProtocolError(f"the sink was told {message}")

    def _outlive(self) -> None:
        """The parent is gone: end the workers, remove the run directory, leave; once."""
        if self._outlived:  # its socket and its life tell of it both
            return
        self._outlived = self._stopped = True
        pumps = [source for source in self._sources.values() if source.is_pump]
        workers = [source for source in self._sources.values() if not source.is_pump]
        noted = [max(source.queue.group(), 0) for source in workers]
        for source, group in zip(workers, noted, strict=True):
            end_process(source.pid)
            end_further(group)
        # Also the groups of workers that have just died: the kernel was faster with those. Of the
        # others the parent has killed the group, and the number may be a stranger's by now.
        just_now_s = time.monotonic() - settings.JUST_DIED_S
        for pid, further, died_s in self._died_last:
            if died_s >= just_now_s:
                end_group(pid)
                end_further(further)
        self._wait_for_deaths(pumps)
        for source, group in zip(workers, noted, strict=True):
            if (last := source.queue.group()) != group:  # it was about to begin one
                end_further(last)
        _give_terminal_back(self._farewell)
        # Pipes and sockets of a killed process may end before its locks are free.
        self._directory.dispose(patience_s=settings.WORKERS_GONE_S)

    def _wait_for_deaths(self, pumps: Sequence[Source]) -> None:
        """Wait for the workers that were killed, and for pumps, which leave by themselves."""
        deadline = time.monotonic() + (settings.PUMP_GONE_S if pumps else settings.WORKERS_GONE_S)
        with selectors.DefaultSelector() as deaths:
            for source in self._sources.values():
                deaths.register(source.death_fd, selectors.EVENT_READ)
            while deaths.get_map() and time.monotonic() < deadline:
                for key, _ in deaths.select(deadline - time.monotonic()):
                    deaths.unregister(key.fd)
            for source in pumps:  # it had time to end what it has started elsewhere
                if source.death_fd in deaths.get_map():
                    end_process(source.pid)

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
        came = self._control.take_descriptors()
        try:
            queue = _queue_of(came[:-1], WITHOUT_SLOTS + message.slots)
        except OSError as error:
            for fd in came:
                os.close(fd)
            why = f"was refused by the collector process: {error}"
            self._control.post(messages.WorkerDrained(worker=message.worker, broken=why))
            return
        source = Source(message.worker, message.pid, queue, came[-1])
        self._sources[message.worker] = source
        self._had_pump = self._had_pump or source.is_pump
        self._watch_source(source, source.death_fd, self._drain)
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

    def _handle(  # noqa: C901, PLR0912 - one case a frame
        self, source: Source, frame: Frame, payload: bytes | memoryview
    ) -> None:
        job = source.jobs.get(frame.ticket)
        match frame.kind:
            case Kind.START if job is None and (source.is_pump or not source.jobs):
                source.jobs[frame.ticket] = self._open(source, frame.ticket, payload)
            case Kind.END if job is not None:
                self._end(source, job, OUTCOMES[frame.detail], bytes(payload))
            case Kind.DATA if frame.detail == Stream.RECORD:
                self._control.post(messages.LogRecord(ticket=frame.ticket, record=bytes(payload)))
            case Kind.DATA if frame.detail == Stream.REMARK:
                worker = source.worker if job is None else job.worker  # not that of the pump
                self._control.post(messages.JobRemarked(worker, frame.ticket, bytes(payload)))
            case Kind.DATA if job is not None:
                self._store(source, job, frame, payload)
            case Kind.READY | Kind.REFUSED:
                refusal = bytes(payload).decode("utf-8", "replace")
                worker = frame.ticket if source.is_pump else source.worker
                self._control.post(messages.WorkerReady(worker=worker, refusal=refusal))
            case Kind.HANDED_BACK:
                worker = source.worker
                if source.is_pump:
                    (worker,) = HANDED_BACK_BY.unpack(payload)
                self._control.post(messages.JobHandedBack(worker=worker, ticket=frame.ticket))
            case Kind.WHERE:
                self._control.post(messages.RunDirectoryWanted(source.worker, frame.ticket))
            case _:
                others = ", ".join(map(str, source.jobs)) or "none"
                raise ProtocolError(
                    f"{Kind(frame.kind).name} for job {frame.ticket} while {others} was open"
                )

    def _worker_left(self, worker: int) -> None:
        """A worker is dead whose death is seen by the parent alone."""
        source = self._sources.get(worker)
        if source is not None:
            self._drain(source)
        elif self._had_pump:
            self._settle_carried(worker)

    def _settle_carried(self, worker: int) -> None:
        """Seal what a dead worker had open, of which a pump has carried all that there was."""
        pump = self._sources.get(messages.PUMP)
        if pump is not None:
            with self._alone(pump):
                self._read(pump, _CARRIED_READS)
            for job in [job for job in pump.jobs.values() if job.worker == worker]:
                self._end(pump, job, Outcome.CRASHED, b"")
        self._control.post(messages.WorkerDrained(worker=worker, broken=""))

    def _drain(self, source: Source) -> None:
        """Take what a dead worker had published, seal its job as it is, and close the queue."""
        self._died_last.append((source.pid, source.queue.group(), time.monotonic()))
        with self._alone(source):
            self._read(source, _DRAIN_READS)
        self._drop(source, "")

    def _drop(self, source: Source, broken: str) -> None:
        if source.worker not in self._sources:
            return
        del self._sources[source.worker]
        for job in list(source.jobs.values()):
            if broken and job.may_grow:
                self._kill(source, job)
            self._end(source, job, Outcome.CRASHED, b"")
        for fd in list(source.watched):
            self._unwatch(source, fd)
        source.queue.close()
        os.close(source.death_fd)
        self._control.post(messages.WorkerDrained(worker=source.worker, broken=broken))

    def _kill(self, source: Source, job: OpenJob) -> None:
        """End a worker before the file is sealed that it may write to."""
        end_process(source.pid)
        end_further(source.queue.group())
        death = select.poll()
        death.register(source.death_fd, select.POLLIN)
        if not death.poll(settings.WORKERS_GONE_S * 1000):
            job.lose("its worker could not be killed, and may still write to its file")

    def _open(self, source: Source, ticket: int, payload: bytes | memoryview) -> OpenJob:
        layout = START_OF if source.is_pump else START
        if len(payload) != layout.size:
            raise ProtocolError(f"START with {len(payload)} bytes")
        threshold, worker = (*layout.unpack(payload), source.worker)[:2]
        return OpenJob(worker, ticket, threshold, self._new_output, self._budget)

    def _new_output(self, threshold: int) -> SpillManager:
        return SpillManager.in_directory(
            self._directory.current,
            memory_threshold=threshold,
            temp_file_base_name=self._told.temp_file_base_name,
        )

    def _store(
        self, source: Source, job: OpenJob, frame: Frame, payload: bytes | memoryview
    ) -> None:
        if job.state is JobState.REFUSED:
            return
        if not self._returns_memory:
            self._returns_memory = _return_memory()
        try:
            if source.is_pump:  # what it carries was written elsewhere: it is granted no file
                job.store(Stream(frame.detail), payload, frame.chunks)
                return
            grant = job.take(frame, payload)
        except SpillError as error:  # told at once: the parent ends the worker
            self._control.post(job.fail(error))
        else:
            if grant is not None:
                source.queue.grant(grant)

    def _end(self, source: Source, job: OpenJob, outcome: Outcome, value: bytes) -> None:
        source.jobs.pop(job.ticket, None)
        ended = job.end(outcome, value)
        if ended is not None:
            self._control.post(ended)

    def _follow(self, ticket: int) -> None:
        for source in self._sources.values():
            job = source.jobs.get(ticket)
            if job is not None and job.state is JobState.OPEN:
                job.follow()
                self._next_report_s = 0.0

    def _report(self) -> None:
        """Tell of jobs that have started and not ended; then how far they are, not too often."""
        jobs = self._growing()
        now = time.monotonic()
        for job in jobs:
            is_due = job.followed or now >= job.opened_s + settings.ANNOUNCE_AFTER_S
            if is_due and not job.announced:
                job.announced = True
                self._control.post(messages.JobStarted(worker=job.worker, ticket=job.ticket))
        if not jobs or now < self._next_report_s:
            return
        followed = any(job.followed for job in jobs)
        pause_s = settings.FOLLOW_INTERVAL_S if followed else settings.PROGRESS_INTERVAL_S
        self._next_report_s = now + pause_s
        for job in jobs:
            news = job.progressed() if job.announced else None
            if news is not None:
                self._control.post(news)

    def _pause_s(self) -> float | None:
        """How long the select may wait: until there is something to tell of a running job."""
        jobs = self._growing()
        if not jobs:
            return None
        news = [job.opened_s + settings.ANNOUNCE_AFTER_S for job in jobs if not job.announced]
        return max(0.001, min([self._next_report_s, *news]) - time.monotonic())

    def _growing(self) -> list[OpenJob]:
        sources = self._sources.values()
        jobs = (job for source in sources for job in source.jobs.values())
        return [job for job in jobs if job.state is JobState.OPEN]

    def _watch_source(self, source: Source, fd: int, handler: Callable[[Source], None]) -> None:
        self._watch.expect(fd, lambda: handler(source))
        source.watched.append(fd)

    def _unwatch(self, source: Source, fd: int) -> None:
        if fd in source.watched:
            source.watched.remove(fd)
            self._watch.forget(fd)
