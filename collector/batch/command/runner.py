"""Run commands over inputs: start, watch, retry, print, keep, stop.

Runs in:    the parent's main thread; ends of jobs, late inputs and signals come in one queue.
States:     those of `run_states`.
Invariants: I1  each input that was read is told of once, whatever becomes of it.
            I2  what has ended stays done.
"""

import queue
import signal
import time
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Union, final

from collector.batch.command.amounts import Limit
from collector.batch.command.child import Call
from collector.batch.command.feeder import Feeder
from collector.batch.command.finishing import Finished, Finisher, left_of, nothing_left
from collector.batch.command.function import CannotLoadError
from collector.batch.command.gates import Gate
from collector.batch.command.job_inputs import JobInputs, JobReader, RunSettings
from collector.batch.command.last_line import tail_of
from collector.batch.command.outcome import (
    Outcome,
    ended_with_batch,
    killed,
    not_kept,
    outcome_of,
    outcome_of_record,
)
from collector.batch.command.run_states import TABLE, Event, State
from collector.batch.command.sources import SourceError
from collector.crash_errors import BrokenCollectorError
from collector.errors import ProtocolError, SpillError
from collector.executor.halting import Halting, Urgency, quotable, without
from collector.executor.inner import Inner
from collector.executor.job import Job
from collector.process.pool.job_table import Held
from collector.progress.ends import How
from collector.progress.show import Show
from collector.settings import SUSPENDED_S
from collector.store.output.output import Output

if TYPE_CHECKING:
    from collector.batch.command.exit_status import Died
    from collector.batch.command.results import Results
    from collector.batch.command.signals import Signals
    from collector.batch.storing import Task

_NOTHING: Final[Mapping[str, float]] = MappingProxyType({})
_LOOK_S: Final = 1.0
"""A signal that comes just before a wait begins is heard at its end: so often there is one."""
_ASK_AGAIN_S: Final = 0.1
"""So often jobs are told to end: one that was just being started has not heard of it."""


class _News(NamedTuple):
    """Of a job: it has begun, has written more, or rests (None)."""

    job: Job[Any]
    began: bool | None


class _Kill(NamedTuple):
    """Somebody wants the job of that number killed, which waited here."""

    seq: int


Heard = Union["Job[Any]", "Signals", _News, _Kill, Event, None]
"""What comes in the queue: the end of a job, a signal, news, STOP; None only wakes."""

Events = queue.SimpleQueue[Heard]


@final
class Runner:
    """Runs one batch.

    Args:
        settings: How.
        show: Is told of each job.
        finisher: Prints and keeps what jobs leave.
        halting: Counts, and knows when to halt.
        gate: Knows when a job may start.
        results: The batch directory, if there is one.
        events: Where signals and ends of jobs are put.
        running: Where jobs are known by their number while they are open.
    """

    cannot_load = False
    """Whether it has ended since there is nothing to be run: then no job counts as begun."""
    has_unread = False
    """Whether it has ended before all inputs were read."""

    def __init__(  # noqa: PLR0913 - what a run is made of
        self,
        settings: RunSettings,
        *,
        show: Show,
        finisher: Finisher,
        halting: Halting,
        gate: Gate,
        results: "Results | None",
        events: "Events",
        running: dict[int, Job[Any]],
    ) -> None:
        self._settings = settings
        self._show = show
        self._finisher = finisher
        self._halting = halting
        self._gate = gate
        self._results = results
        self._events = events
        self._running = running
        self._open: dict[int, tuple[Job[Any], JobInputs]] = {}
        self._written: set[int] = set()
        """Numbers of jobs that have written more, of which the news has not been read."""
        self._again: deque[JobInputs] = deque()
        self._reader = JobReader(settings, results, finisher.lost)
        self._state = State.RUNNING
        self._kill_at_s: float | None = None
        self._awake_s = 0.0
        """When it has heard something last, or has waited in vain."""
        self._limit = Limit(settings.timeout)
        late = _starts_late(settings, gate, halting)
        self._ahead = settings.jobs if late else settings.most_ahead
        self._inner: Inner
        self.interrupted = 0
        """Jobs that were read and neither ended well nor failed."""
        self.signal = 0
        """Which signal has ended the run, if one has."""
        self.halted_by: Died | None = None
        """How the job has ended, if it failed, at which the batch stops."""
        self.failure = ""
        """What has ended it otherwise, in a sentence."""

    def wake(self) -> None:
        """Have the main thread look for inputs, in any thread."""
        self._events.put(None)

    def run(self, inner: Inner, feeder: Feeder) -> None:
        """Run until all is done, or it is stopped.

        Args:
            inner: Of the Collector whose workers run the jobs, and which tells this of them.
            feeder: Has the inputs.
        """
        self._inner = inner
        while True:
            pause_s = self._fill(feeder)
            self._finisher.flush()
            if not self._open and self._nothing_follows(feeder):
                self.has_unread = bool(self.failure) or feeder.has_more()
                return
            self._hear(self._wait(pause_s))
            while not self._events.empty():
                self._hear(self._events.get())

    def stop(self) -> None:
        """Start nothing more, and end what runs; in any thread."""
        self._events.put(Event.STOP)

    def started(self, job: Job[Any]) -> None:
        """See `Watching.started`."""
        self._events.put(_News(job, began=True))

    def wrote(self, job: Job[Any]) -> None:
        """See `Watching.wrote`."""
        if job.id not in self._written:
            self._written.add(job.id)
            self._events.put(_News(job, began=False))

    def rests(self, job: Job[Any]) -> None:
        """See `Watching.rests`."""
        self._events.put(_News(job, began=None))

    def held(self) -> list[Held]:
        """See `Holder.held`."""
        return [Held(item.seq, item.job_name) for item in list(self._again)]

    def end_held(self, known_as: int) -> None:
        """See `Holder.end_held`."""
        self._events.put(_Kill(known_as))

    # -- starting ----------------------------------------------------------------------------------

    def _nothing_follows(self, feeder: Feeder) -> bool:
        return self._state is not State.RUNNING or (feeder.over and not self._again)

    def _fill(self, feeder: Feeder) -> float | None:
        """Start what can be started; returns after how many seconds more could be."""
        while self._state is State.RUNNING and not self._finisher.stuck and self._has_room():
            item = self._again.popleft() if self._again else self._next(feeder)
            if item is not None and item.task is not None and not item.task.runs:
                self._resumed(item, item.task)
                if not self._events.empty():  # there may be a million of them: hear it first
                    return 0.0
                continue
            closed = self._gate.closed(time.monotonic()) if item and self._gate.limits.any else None
            self._show.waiting(closed.why if closed else "")
            if item is None:
                return None
            if closed is not None:
                self._again.appendleft(item)
                return closed.seconds
            refusal = self._finisher.refusal(item.job, item.task)
            if refusal is None:
                self._start(item)
            else:
                self._refused(item, refusal)
        return None

    def _has_room(self) -> bool:
        count = len(self._open)
        put_off = self._inner.put_off() if self._ahead <= count < self._settings.most_ahead else 0
        return count - put_off < self._ahead

    def _next(self, feeder: Feeder) -> JobInputs | None:
        try:
            item = self._reader.read(feeder)
        except SourceError as error:
            self.failure = str(error)
        except SpillError as error:
            self.failure = f"cannot keep the inputs: {error}"
        else:
            if feeder.over and self._halting.total != self._reader.count:
                self._halting.total = self._reader.count
                self._show.expect(self._reader.count)
            return item
        self._move(Event.SOFT_HALT)
        return None

    def _start(self, item: JobInputs) -> None:
        settings, task = self._settings, item.task
        attempt = self._results.attempt(task) if self._results and task else item.attempt
        item.since = time.time()
        call = Call(item.values, item.seq, task.key if task else "", attempt, self._limit.seconds)
        limit_s = self._limit.seconds if settings.ends_workers else None
        try:
            job = self._inner.submit(settings.function, call, item.job_name, limit_s)
        except BrokenCollectorError as error:
            self.failure = self.failure or str(error)
            self._move(Event.STOP)
            self._lose(item)
            return
        self._open[job.id] = (job, item)
        self._running[item.seq] = job
        self._gate.started(time.monotonic())
        self._finisher.started(job, item.seq, item.values)
        job.add_done_callback(self._events.put)  # type: ignore[arg-type]

    # -- hearing -----------------------------------------------------------------------------------

    def _wait(self, pause_s: float | None) -> Heard:
        told_s = self._results.tell_of_long_ones() if self._results else None
        look_s = _LOOK_S
        if self._kill_at_s is not None:
            self._ask_to_end()
            look_s = max(0.0, min(_ASK_AGAIN_S, self._kill_at_s - time.monotonic()))
        longest_s = min(one for one in (look_s, pause_s, told_s) if one is not None)
        try:
            return self._events.get(timeout=longest_s)
        except queue.Empty:
            return None
        finally:
            since_s, self._awake_s = self._awake_s, time.monotonic()
            overslept_s = self._awake_s - since_s - longest_s
            if self._kill_at_s is not None and overslept_s > SUSPENDED_S:
                self._kill_at_s += overslept_s  # we were stopped, which does not count

    def _hear(self, event: Heard) -> None:
        if isinstance(event, Job):
            self._ended(event)
        elif isinstance(event, _News):
            self._tell_of_running(*event)
        elif isinstance(event, _Kill):
            self._kill(event.seq)
        elif isinstance(event, Event):
            self._move(event)
        elif event is not None:
            self.signal = self.signal or event.number
            self._move(Event.SIGNAL)
        if self._kill_at_s is not None and self._awake_s >= self._kill_at_s:
            self._move(Event.GRACE_OVER)

    def _move(self, event: Event) -> None:
        before, state = self._state, TABLE[self._state].get(event)
        if state is None:
            raise ProtocolError(f"{event.name} while {before.name}")
        self._state = state
        if state is before:
            return
        self._inner.cancel([job for job, _ in self._open.values()])
        while self._again:
            self._lose(self._again.popleft())
        if state is State.ENDING:
            self._awake_s = time.monotonic()
            self._kill_at_s = self._awake_s + self._settings.grace_s
            self._ask_to_end()
            self._inner.signal(signal.SIGCONT, workers=False)
        elif state is State.KILLED:
            self._kill_at_s = None
            self._inner.kill()

    def _ask_to_end(self) -> None:
        self._inner.signal(signal.SIGTERM, workers=self._settings.ends_workers)

    # -- ending ------------------------------------------------------------------------------------

    def _tell_of_running(self, job: Job[Any], began: bool | None) -> None:
        self._written.discard(job.id)
        _, item = self._open.get(job.id, (None, None))
        if item is None:  # its end was told
            return
        if began:
            item.since, item.has_begun = time.time(), True  # until now it has waited
            self._show.started(item.seq, item.label, item.attempt)
            if self._results is not None and item.task is not None:
                self._results.began(item.seq, item.task, item.since)
        elif began is None:
            item.has_begun = True  # nothing tells of the beginning of one that is over at once
            self._show.rests(item.seq)
            if self._results is not None:
                self._results.over(item.seq)
        else:
            self._show.wrote(item.seq, job.progress.bytes_written)

    def _ended(self, job: Job[Any]) -> None:
        item = self._closed(job)
        if self._ends_all(job) or (job.cancelled() and self._state is not State.RUNNING):
            self._lose(item, job.meters)
            return
        outcome = outcome_of(job, item.since)._replace(meters=job.meters)
        ours = self._state in (State.ENDING, State.KILLED) and outcome.died is not None
        again = (
            outcome.died is not None
            and outcome.status != "killed"  # by somebody: it is over
            and self._state is State.RUNNING
            and item.attempt < self._settings.attempts
        )
        if outcome.died is None:
            self._limit.took(outcome.seconds)
        elif ours:
            outcome = ended_with_batch(outcome)
        self._over(item, outcome, left_of(job), again=again, ours=ours)

    def _refused(self, item: JobInputs, why: Exception) -> None:
        """Its output cannot get its name: it need not run."""
        self._over(item, not_kept(why, time.time()), nothing_left(), again=False, ours=False)

    def _kill(self, seq: int) -> None:
        for item in [one for one in self._again if one.seq == seq]:
            self._again.remove(item)
            self._over(item, killed(), nothing_left(), again=False, ours=False)
        if seq in self._running:  # it was started meanwhile
            self._running[seq].kill()

    def _over(
        self,
        item: JobInputs,
        outcome: Outcome,
        left: tuple[Output, Output | None],
        *,
        again: bool,
        ours: bool,
    ) -> None:
        """An attempt is over: keep what it has left, tell of it, count it.

        Args:
            item: The inputs of its job.
            outcome: What it came to.
            left: Its output and its log.
            again: Whether another one follows.
            ours: Whether it was ended with the batch.
        """
        output, log = left
        finished = Finished(*item.job, item.task, outcome, output, log)
        why = None if ours else self._finisher.keep(finished)
        if why is not None:
            outcome = not_kept(why, item.since)._replace(meters=outcome.meters)
            finished = finished._replace(outcome=outcome)
        how = How.PASSED if outcome.died is None else How.INTERRUPTED if ours else How.FAILED
        size, tail = output.size, b"" if how is How.PASSED else tail_of(log)
        self._finisher.finished(finished, again=again, interrupted=ours)
        self._show.ended(item.ended(outcome, how, size, again=again, tail=tail))
        if again:
            item.attempt, item.has_begun = item.attempt + 1, True
            self._again.append(item)
        elif ours:
            self.interrupted += 1
        else:
            self._count(outcome, item)

    def _closed(self, job: Job[Any]) -> JobInputs:
        _, item = self._open.pop(job.id)
        del self._running[item.seq]
        if self._results is not None:
            self._results.over(item.seq)
        return item

    def _ends_all(self, job: Job[Any]) -> bool:
        """Whether it failed for what every other job will fail for, too."""
        error = None if job.cancelled() else job.exception()
        if isinstance(error, CannotLoadError):
            self.cannot_load = True
        elif self.cannot_load and error is not None:
            return True
        elif not isinstance(error, BrokenCollectorError):
            return False
        broken = self._inner.broken
        if isinstance(error, BrokenCollectorError) and not broken:
            return False
        self.failure = self.failure or broken or str(error)
        self._move(Event.STOP)
        return True

    def _resumed(self, item: JobInputs, task: "Task") -> None:
        """An earlier run has finished it."""
        assert self._results is not None
        record = self._results.last(task)
        outcome = outcome_of_record(record)
        self._finisher.resumed(item.job, task, outcome, lambda: (record.output(), record.log()))
        how = How.PASSED if outcome.died is None else How.FAILED
        self._show.ended(item.ended(outcome, how, record.size, resumed=True))
        self._count(outcome, item)

    def _count(self, outcome: Outcome, item: JobInputs) -> None:
        was = self._halting.reason
        failure = (
            None
            if outcome.died is None
            else without(outcome.why, (f"job {item.label[:1000]} ", *quotable(item.values)))
        )
        if self._halting.ended(failure) and not was:
            self.halted_by = outcome.died
            urgency = self._halting.urgency
            self._move(Event.STOP if urgency is Urgency.NOW else Event.SOFT_HALT)

    def _lose(self, item: JobInputs, meters: Mapping[str, float] = _NOTHING) -> None:
        """It was read, and is not run to its end: the batch is stopped.

        One that has never begun is as one that was never read: there may be very many of both.

        Args:
            item: Its inputs.
            meters: What it has counted before it asked to be run later.
        """
        self.interrupted += 1
        self._finisher.lost(item.seq)
        if self._results is not None and item.task is not None:
            self._results.spent(item.task, meters)
        if item.has_begun and not self.cannot_load:
            why = "not run to its end: the batch was stopped"
            outcome = Outcome("", item.since, 0.0, why=why, meters=meters)
            self._show.ended(item.ended(outcome, How.INTERRUPTED))


def _starts_late(settings: RunSettings, gate: Gate, halting: Halting) -> bool:
    """Whether no job may wait at a worker.

    There it starts as soon as the one before it has ended, whatever that came to, and with the
    time limit of now.
    """
    depends = settings.timeout is not None and settings.timeout.percent
    return gate.limits.any or halting.may_halt or bool(depends)
