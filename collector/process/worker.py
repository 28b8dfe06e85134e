"""A worker: runs one job at a time and writes its chunks into its own queue.

Runs in:    the worker.
Owns:       the write end of its queue, the read end of its job pipe. No lease, no file but a
            scratch directory.
Invariants: I1  START is said before anything of the job is unpickled, END after its last chunk:
                between the two the job is the one that fails if the worker dies.
            I2  when the parent dies the worker and its whole process group die, whatever the job
                does.
            I3  a process that a job forks keeps none of the worker's descriptors.
"""

import contextlib
import inspect
import os
import pickle
import select
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from types import AsyncGeneratorType, CoroutineType
from typing import Any, Final, NoReturn

from collector.process import records, ship
from collector.process.birth import stand_apart
from collector.process.channel import Channel
from collector.process.current import CurrentJob
from collector.process.queue import QueueWriter
from collector.process.running import current_job, running
from collector.wire.frames import START, Kind, Outcome
from collector.wire.messages import RunJob

_PR_SET_PDEATHSIG: Final = 1
_ASYNC: Final = (CoroutineType, AsyncGeneratorType)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerArguments:
    """What a worker is told when it starts."""

    run_directory: str
    scratch_prefix: str
    initializer: bytes
    log_levels: dict[str, int]
    dies_with_its_parent: bool
    """True where a long-lived thread of the parent itself starts workers."""


def main(descriptors: Sequence[int], arguments: bytes) -> None:
    """Run jobs until the job pipe ends.

    Args:
        descriptors: The job pipe, the parent's life, the recall pipe, then the ends of the queue's
            writer.
        arguments: A pickled `WorkerArguments`.
    """
    stand_apart()
    told: WorkerArguments = pickle.loads(arguments)
    jobs, parent, recall, *queue = descriptors
    for fd in descriptors:
        os.set_inheritable(fd, False)
    if told.dies_with_its_parent:
        _die_with_parent()
    _leave_the_terminal()
    writer = QueueWriter(queue)
    records.forward(told.log_levels, writer.record)
    inbox = _Inbox(jobs)
    threading.Thread(
        target=_watch, args=(parent, recall, inbox, writer), name="collector-watch", daemon=True
    ).start()
    ours = [jobs, parent, recall]
    os.register_at_fork(after_in_child=lambda: _disown(writer, ours))
    if told.initializer and not _initialize(told.initializer, writer):
        return
    writer.say(Kind.READY)
    job = inbox.next()
    while job is not None:
        outcome, value = _run(job, writer, told)
        job = inbox.take()
        # With another job at hand its START follows at once: both are said together.
        writer.end(outcome, value, hold=job is not None)
        del value
        job = job or inbox.next()


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the thread that started this process ends."""
    import ctypes  # noqa: PLC0415 - 10 ms that workers of a forkserver do not need

    with contextlib.suppress(OSError, AttributeError):  # not Linux: the watching thread does it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _leave_the_terminal() -> None:
    """Let stdin be empty: a program that read the terminal from here would be stopped."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    if nothing:
        os.close(nothing)


def _disown(writer: QueueWriter, descriptors: list[int]) -> None:
    if not descriptors:
        return  # a child of such a child: what has these numbers now is its own
    running.job = None
    records.stop()
    writer.disown()
    while descriptors:
        os.close(descriptors.pop())


def _initialize(call: bytes, writer: QueueWriter) -> bool:
    try:
        initializer, arguments = ship.loads(call)
        initializer(*arguments)
    except BaseException as error:  # noqa: BLE001 - the user's code; the parent gets its traceback and the Collector breaks
        writer.say(Kind.REFUSED, payload=ship.describe(error).encode("utf-8", "replace"))
        return False
    return True


def _watch(parent: int, recall: int, inbox: "_Inbox", writer: QueueWriter) -> NoReturn:
    """Leave with the parent; hand back what waits behind a long job when asked to."""
    poller = select.poll()
    poller.register(parent, select.POLLIN)
    poller.register(recall, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poller.poll()]
        if parent in ready:
            os.killpg(0, signal.SIGKILL)
        if recall in ready:
            if not os.read(recall, 64):
                poller.unregister(recall)
            inbox.recall()
            poller.register(inbox.fd, select.POLLIN)  # also those that are still on their way
        jobs = inbox.hand_back()
        if jobs is None:
            poller.unregister(inbox.fd)
        for job in reversed(jobs or ()):
            writer.say(Kind.HANDED_BACK, job.ticket)


class _Inbox:
    """The jobs that were sent here and have not started."""

    def __init__(self, fd: int) -> None:
        self.fd: Final = fd
        self._channel = Channel(fd)
        self._recalled = False
        self._jobs: deque[RunJob] = deque()
        self._lock = threading.Lock()
        self._ended = False
        self._poller = select.poll()
        self._poller.register(fd, select.POLLIN)

    def next(self) -> RunJob | None:
        """Wait for the next job; None when there will be none."""
        while True:
            with self._lock:
                self._recalled = False  # nothing waits behind a running job
                if self._jobs:
                    return self._jobs.popleft()
                if self._ended:
                    return None
            self._poller.poll()
            with self._lock:
                self._receive()

    def take(self) -> RunJob | None:
        """Return the next job if it is here already; nobody can have it back from then on."""
        with self._lock:
            self._recalled = self._recalled and not self._jobs
            return self._jobs.popleft() if self._jobs else None

    def recall(self) -> None:
        """From now on hand back what comes, until the next job begins."""
        with self._lock:
            self._recalled = True

    def hand_back(self) -> list[RunJob] | None:
        """Give up every job that has not started; None if no further one is to be given up."""
        with self._lock:
            if self._ended or not self._recalled:
                return None
            self._receive()
            jobs = list(self._jobs)
            self._jobs.clear()
            return jobs

    def _receive(self) -> None:
        messages = self._channel.receive()
        if messages is None:
            self._ended = True
        else:
            self._jobs.extend(m for m in messages if isinstance(m, RunJob))


def _run(job: RunJob, writer: QueueWriter, told: WorkerArguments) -> tuple[Outcome, bytes]:
    stream = writer.start(job.ticket, START.pack(job.memory_threshold))
    scratch = f"{told.run_directory}/{told.scratch_prefix}{job.ticket & 0xFFFFFFFF:08x}"
    current = CurrentJob(job, stream, writer, scratch)
    running.job = current
    try:
        if job.log_name:
            from collector.process.capture import captured  # noqa: PLC0415 - ctypes: 10 ms, for few

            with captured(f"{told.run_directory}/{job.log_name}"):
                value = _call(job.call, current)
        else:
            value = _call(job.call, current)
        outcome, pickled = Outcome.RETURNED, ship.dumps(value)
        del value
    except BaseException as error:  # noqa: BLE001 - the user's function: whatever it raises is the job's exception
        _leave_if_forked(current, error)
        outcome, pickled = Outcome.RAISED, ship.dump_exception(error)
    running.job = None
    current.close()
    return outcome, pickled


def _leave_if_forked(current: CurrentJob, error: BaseException | None = None) -> None:
    """End a process that the job forked and that came back here: the job is its parent's."""
    if running.job is current:
        return
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else 1
    elif error is not None:
        traceback.print_exception(error)
        status = 1
    for printed in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError, OSError, AttributeError):
            printed.flush()
    os._exit(status)


def _call(call: bytes, current: CurrentJob) -> Any:
    try:
        fn, args, kwargs = ship.loads(call)
        value = _finish(fn(*args, **kwargs), current)
    except BaseException as error:
        _leave_if_forked(current, error)  # here, where what it prints is still captured
        raise
    _leave_if_forked(current)
    return value


def run_group(fn: Callable[..., Any], group: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Make several calls in one job, for `map`; returns their values."""
    current = current_job()
    return [_finish(fn(*args), current) for args in group]


def _finish(value: Any, current: CurrentJob) -> Any:
    if inspect.isgenerator(value):
        return _collect(value, current)
    if isinstance(value, _ASYNC):
        name = value.__name__
        if isinstance(value, CoroutineType):
            value.close()  # or Python warns that nobody awaited it
        raise TypeError(f"{name} is async, and a job has no event loop: use asyncio.run() in one")
    return value


def _collect(chunks: Generator[Any, Any, Any], current: CurrentJob) -> Any:
    """Write what a generator yields; what it returns is the job's value."""
    try:
        chunk = next(chunks)
        while True:
            try:
                current.write(chunk)
            except TypeError as error:  # of a wrong type: said where it was yielded
                chunk = chunks.throw(error)
            else:
                chunk = next(chunks)
    except StopIteration as stop:
        return stop.value
