"""A worker: runs one job at a time and writes its chunks into its own queue.

Runs in:    the worker.
Owns:       the write end of its queue, the read end of its job pipe. No lease, no file but a
            scratch directory.
Invariants: I1  START is said before anything of the job is unpickled, END after its last chunk:
                between the two the job is the one that fails if the worker dies.
            I2  when the parent dies the worker and its whole process group die, whatever the job
                does.
            I3  a process that a job forks keeps none of the worker's descriptors but the one that
                tells of the parent's death, for `parent_process()`.
"""

import contextlib
import errno
import logging
import multiprocessing.process  # noqa: F401 - 2 ms; `logging` asks it for processName if it is there
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Generator, Sequence
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final, NoReturn

from collector.errors import RetryLater, asked_by
from collector.process import log_records
from collector.process.pickling import calls
from collector.process.pickling.arrived import Arrivals, end_imports, stand_for_the_script
from collector.process.process_group import end_further, end_group
from collector.process.queue.chunk_queue import QueueWriter
from collector.process.queue.held import Held
from collector.process.scheduler.retries import kind_name
from collector.process.start import inheritance
from collector.process.start.child import hold_standard_descriptors, stand_apart
from collector.process.start.lineage import Lineage
from collector.process.worker.begin import WorkerArguments
from collector.process.worker.current_job import CurrentJob
from collector.process.worker.inbox import Inbox
from collector.process.worker.run_directory import WorkerDirectory
from collector.process.worker.running import running
from collector.store.rundir.scratch import scratch_name
from collector.wire import remarks
from collector.wire.capture import Capture
from collector.wire.frames import START, Kind
from collector.wire.messages import RunDirectoryAt, RunJob
from collector.wire.outcome import Outcome

_PR_SET_PDEATHSIG: Final = 1
_MOST_BASES: Final = 30
"""So many bases of the class of an exception are told of."""
_ASYNC: Final = (CoroutineType, AsyncGeneratorType)
_standard: Final = select.poll()
for _number in range(3):
    _standard.register(_number, 0)


def run(descriptors: Sequence[int], told: WorkerArguments) -> None:
    """Run jobs until the job pipe ends.

    Args:
        descriptors: The job pipe, the parent's life, the recall pipe, the ends of the queue's
            writer, the resource trackers, and what comes along with the initializer.
        told: What it is told.
    """
    stand_apart()
    for fd in descriptors:
        os.set_inheritable(fd, False)
    jobs, parent, recall = map(Held, descriptors[:3])
    others = list(descriptors[3:])
    queue, others = others[: told.queue_descriptors], others[told.queue_descriptors :]
    if told.dies_with_its_parent:
        _die_with_parent()
    _leave_the_terminal()
    writer = QueueWriter(queue)
    log_records.forward(told.log_levels, writer.record)
    lineage = _begin_as_child(told, parent.fd, others)
    if told.forked:
        end_imports()
    else:
        stand_for_the_script()
    inbox = Inbox(jobs, lineage)
    threading.Thread(
        target=_watch, args=(parent, recall, inbox, writer), name="collector-watch", daemon=True
    ).start()
    ours = [jobs, recall]
    os.register_at_fork(after_in_child=lambda: _disown(writer, ours))
    script = Arrivals()
    if not told.initializer or _initialize(told, script, writer):
        _work(inbox, script, writer, told)
    lineage.leave()


def _begin_as_child(told: WorkerArguments, parent: int, others: list[int]) -> Lineage:
    name = f"collector-worker-{told.number}"
    lineage = Lineage(name, told.number, told.parent_pid, parent, told.ancestors)
    lineage.share_trackers(list(zip(told.trackers, others, strict=False)))
    inheritance.receive(others[len(told.trackers) :])
    if told.forked:
        lineage.begin_by_fork()
    return lineage


def _work(inbox: Inbox, script: Arrivals, writer: QueueWriter, told: WorkerArguments) -> None:
    writer.say(Kind.READY)
    directory = WorkerDirectory(told.run_directory, lambda: _ask_where(writer, inbox))
    job = inbox.next()
    while job is not None:
        if inbox.has_parts:
            script.take(inbox.parts_before(job.ticket))
        scratch = scratch_name(told.scratch_prefix, job.ticket)
        if _is_one_closed():
            hold_standard_descriptors()
        outcome, value = _run(job, script, writer, directory, scratch)
        job = inbox.take()
        # With another job at hand its START follows at once: both are said together.
        writer.end(outcome, value, hold=job is not None)
        del value
        job = job or inbox.next()


def _is_one_closed() -> bool:
    """Whether an earlier job, or the initializer, has closed stdin, stdout or stderr."""
    return any(event & select.POLLNVAL for _, event in _standard.poll(0))


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


def _disown(writer: QueueWriter, descriptors: list[Held]) -> None:
    if not descriptors:
        return  # a child of such a child: what has these numbers now is its own
    if running.job is not None:
        running.job.disown()
        running.job = None
    log_records.stop()
    writer.disown()
    while descriptors:
        descriptors.pop().close()


def _initialize(told: WorkerArguments, script: Arrivals, writer: QueueWriter) -> bool:
    try:
        script.take(told.parts)
        script.load()
        initializer, arguments = calls.loads(told.initializer)
        initializer(*arguments)
    except BaseException as error:  # noqa: BLE001 - the user's code; the parent gets its traceback and the Collector breaks
        # As the standard executors do, and whoever looks for it looks there.
        standard = logging.getLogger("concurrent.futures")
        standard.critical("Exception in initializer:", exc_info=True)
        writer.say(Kind.REFUSED, payload=calls.describe(error).encode("utf-8", "replace"))
        return False
    return True


def _watch(parent: Held, recall: Held, inbox: Inbox, writer: QueueWriter) -> NoReturn:
    """Leave with the parent; hand back what waits behind a long job when asked to."""
    poller = select.poll()
    poller.register(parent.fd, select.POLLIN)
    poller.register(recall.fd, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poller.poll()]
        if parent.fd in ready and parent.check():
            end_further(writer.group())
            end_group(os.getpgrp())
        if recall.fd in ready:
            if not os.read(recall.check(), 64):
                poller.unregister(recall.fd)
            inbox.recall()
            poller.register(inbox.fd, select.POLLIN)  # also those that are still on their way
        jobs = inbox.hand_back()
        if jobs is None:
            poller.unregister(inbox.fd)
        for job in reversed(jobs or ()):
            writer.say(Kind.HANDED_BACK, job.ticket)


def _ask_where(writer: QueueWriter, inbox: Inbox) -> RunDirectoryAt:
    """Ask the parent, by way of the sink, where the run directory is; wait for the answer."""
    if running.job is None:  # the queue is its parent's
        why = "a process that the job forked, or a thread of an earlier job, gets no new one"
        return RunDirectoryAt(0, errno.EBADF, "", "", why)
    question = inbox.ask()
    writer.say(Kind.WHERE, question)
    return inbox.answer(question)


def _run(
    job: RunJob,
    script: Arrivals,
    writer: QueueWriter,
    directory: WorkerDirectory,
    scratch: str,
) -> tuple[Outcome, bytes]:
    stream = writer.start(job.ticket, START.pack(job.memory_threshold), job.name)
    current = CurrentJob(job, stream, writer, directory, scratch)
    running.job = current
    try:
        if job.capture in (Capture.PRINTS, Capture.STDERR):
            from collector.process.worker.capture import Captured  # noqa: PLC0415 - ctypes: 10 ms, for few

            stdout = current.fileno() if job.capture == Capture.STDERR else None
            with Captured(directory, job.log_name, stdout):
                value = _call(job, script, current, writer)
        else:
            value = _call(job, script, current, writer)
        outcome, pickled = Outcome.RETURNED, calls.dump_value(value, job.name)
        del value
    except BaseException as error:  # noqa: BLE001 - the user's function: whatever it raises is the job's exception
        _leave_if_forked(current, error)
        outcome, pickled = Outcome.RAISED, _tell_of(error, current, writer)
    try:
        current.end()
    except BaseException as error:  # noqa: BLE001 - its output is not complete, or a signal handler of the user's raised
        if outcome == Outcome.RETURNED:
            outcome, pickled = Outcome.RAISED, calls.dump_exception(error)
    running.job = None
    return outcome, pickled


def _tell_of(error: BaseException, current: CurrentJob, writer: QueueWriter) -> bytes:
    """Say what was raised, for the parent does not unpickle it before it has decided; pickle it."""
    later = None
    if isinstance(error, RetryLater):
        try:
            later = asked_by(error)
        except Exception as wrong:  # noqa: BLE001 - a subclass of the user's has set something else
            return _tell_of(wrong, current, writer)
    pickled = calls.dump_exception(current.explain(error))
    kinds = [kind_name(kind) for kind in type(error).__mro__[:_MOST_BASES]]
    writer.remark(remarks.raised(kinds, later))
    return pickled


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


def _call(job: RunJob, script: Arrivals, current: CurrentJob, writer: QueueWriter) -> Any:
    try:
        if job.names:
            script.load(job.names)
        fn, args, kwargs = calls.loads(job.call)
        writer.loaded()
        value = finish(fn(*args, **kwargs), current)
    except BaseException as error:
        _leave_if_forked(current, error)  # here, where what it prints is still captured
        raise
    if running.job is not current:
        _leave_if_forked(current)
    return value


def finish(value: Any, current: CurrentJob) -> Any:
    """Return the value of a call: of a generator, once its chunks are written.

    Raises:
        TypeError: The function is async.
    """
    if isinstance(value, GeneratorType):
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
