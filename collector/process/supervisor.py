"""The loop that watches every process of a Collector and does what the scheduler decides.

Runs in:    the supervising thread of the parent.
Owns:       the handles of the sink and the workers, the watch over their descriptors.
Invariants: I1  only the supervising thread touches scheduler and processes; others leave a note.
            I2  nothing here waits but the one select, and for a dead process to be collected.
            I3  it starts all processes and lives as long as they do (PDEATHSIG follows the thread).
            I4  a job whose worker died is settled when that is dead *and* its queue is read out.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, assert_never, final

from collector import settings
from collector.errors import describe_exit
from collector.process import actions
from collector.process.actions import Entry
from collector.process.bell import Bell
from collector.process.crew import Crew, SinkProcess, Worker, kill_late
from collector.process.ending import VERDICTS
from collector.process.jobs import Facts, JobTable, Work
from collector.process.scheduler import Scheduler
from collector.process.watch import Watch
from collector.store.rundir import RunDirectory
from collector.wire import messages
from collector.wire.frames import Outcome

_NOTHING: Final = Facts()

Note = Work | Callable[[], Iterable[actions.Action] | None]
"""A new job, or what is to be done: a function for each of 100,000 jobs would cost too much."""


@final
class Supervisor:
    """Supervises the processes of one Collector, in the thread that calls `run`."""

    def __init__(self, crew: Crew, directory: RunDirectory, schedule: Scheduler) -> None:
        self.jobs = JobTable(directory, self._release)
        self.broken = ""
        self._crew = crew
        self._scheduler = schedule
        self._workers: dict[int, Worker] = {}
        self._sink: SinkProcess | None = None
        self._sink_is_full = False
        self._held_bytes = 0
        self._stopping = False
        self._awake_s = time.monotonic()
        self._start_again_s = math.inf
        self._facts = _NOTHING
        self._bell: Bell[Note] = Bell()
        try:
            self._watch = Watch()
        except OSError:  # no descriptor is to be had
            self._bell.close()
            raise
        self._watch.expect(self._bell.fileno(), self._bell.hear)

    @property
    def may_start_workers(self) -> bool:
        """Whether one more job may mean one more worker. May be asked in any thread."""
        return len(self._workers) < self._scheduler.max_workers

    def note(self, note: Note) -> None:
        """Leave a note. Takes no lock: it may be called whatever is held, also in a finalizer."""
        self._bell.note(note)

    def abandon(self) -> None:
        """In a forked child of the parent: close what is the parent's, and touch nothing else."""
        crew = self._crew
        fds = [*crew.life.descriptors(), *crew.launcher.abandon(), *self._bell.detach()]
        self._watch.close()
        for process in self._processes():
            fds.extend(process.descriptors())
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)

    def take(self, work: Work) -> Iterable[actions.Action]:
        """A job was submitted."""
        self.jobs.add(work)
        if self.broken:
            self._facts = Facts(reason=self.broken)
            return self._scheduler.refused(work)
        return self._scheduler.submitted(work)

    def withdraw(self, job_id: int) -> Iterable[actions.Action]:
        """A waiting job was cancelled."""
        self.jobs.forget(job_id)
        return self._scheduler.withdrawn(job_id)

    def kill(self, job_id: int) -> Iterable[actions.Action]:
        """A running job is to be ended."""
        return self._scheduler.killed(job_id)

    def unwanted(self, job_ids: list[int]) -> Iterable[actions.Action]:
        """Jobs are to be cancelled that have not started."""
        return self._scheduler.unwanted(job_ids)

    def follow(self, job_id: int) -> None:
        """Have a job's output in a file as soon as it runs, and its progress told more often."""
        ticket = self.jobs.follow(job_id)
        if ticket and self._sink is not None:
            self._sink.channel.post(messages.FollowJob(ticket=ticket))

    def stop(self, *, cancel: bool, kill: bool) -> Iterable[actions.Action]:
        """No further job will come; what has not started can be cancelled, what runs be killed."""
        self._stopping = True
        if cancel:
            for job_id in self.jobs.cancel_unclaimed():
                self._do(self._scheduler.withdrawn(job_id))
        if kill and self._sink is not None:  # if it does not say in time that all have ended
            self._sink.kill_by_s = time.monotonic() + settings.STOP_DEADLINE_S
        return [*(self._scheduler.kill_all() if kill else ()), *self._scheduler.stop(cancel=cancel)]

    def run(self) -> None:
        """Supervise until it was told to stop and the last process is gone."""
        try:
            while not self._over():
                self._round()
        except BaseException as error:  # a bug: every job is told, none waits for ever
            self._give_up(f"the supervising thread failed: {error!r}")
            raise
        finally:
            self.close()

    def close(self) -> None:
        """Let go of everything; no process is left, or none was ever started."""
        for process in list(self._processes()):  # none, but where the loop has failed
            process.child.kill()
            process.child.dead(settings.STOP_DEADLINE_S)
            process.child.reap()
            process.close()
        self._workers.clear()
        self._sink = None
        self._watch.close()
        self._bell.close()
        self._crew.launcher.close()
        self._crew.life.close()

    def _round(self) -> None:
        pause_s = self._pause_s()
        ready = self._watch.ready(pause_s)
        now_s = time.monotonic()
        overslept_s, self._awake_s = now_s - self._awake_s - (pause_s or 0.0), now_s
        if pause_s is not None and overslept_s > settings.SUSPENDED_S:
            self._scheduler.delayed(overslept_s)
        for handle in ready:
            handle()
        for note in self._bell.notes():
            decided = self.take(note) if isinstance(note, Work) else note()
            if decided:
                self._do(decided)
        self._do(self._scheduler.ticked(now_s))
        if self._start_again_s <= now_s:
            self._start_again_s = math.inf
            self._do(self._scheduler.unhindered())
        kill_late(self._processes(), now_s)
        self._flush()

    def _pause_s(self) -> float | None:
        others = (process.kill_by_s for process in self._processes())
        soonest = min(self._scheduler.next_deadline_s(), self._start_again_s, *others)
        left_s = max(0.0, soonest - time.monotonic())
        return None if soonest == math.inf else min(left_s, 1.0)

    def _over(self) -> bool:
        if not self._stopping or self._bell or self._scheduler.unsettled:
            return False
        for worker in [worker for worker in self._workers.values() if worker.dead]:
            worker.drained = True  # nothing that is still in its queue matters to anybody
            self._bury(worker)
        if self._workers:
            return False
        sink = self._sink
        if sink is not None and not sink.leaving:
            sink.stop()
            self._flush()
        return sink is None

    def _processes(self) -> Iterator[Worker | SinkProcess]:
        yield from self._workers.values()
        if self._sink is not None:
            yield self._sink

    def _do(self, decided: Iterable[actions.Action]) -> None:  # noqa: C901, PLR0912 - one case an action
        todo = list(decided)
        for action in todo:  # it may grow meanwhile
            match action:
                case actions.Settle():
                    self.jobs.settle(action.entry, action.verdict, self._facts)
                case actions.Dispatch():
                    todo.extend(self._dispatch(action.worker, action.entry))
                case actions.StartWorker():
                    self._start_worker(action.worker)
                case actions.StopWorker():
                    self._stop_worker(action.worker)
                case actions.KillWorker():
                    if action.worker in self._workers:
                        self._workers[action.worker].child.kill()
                case actions.Recall():
                    self._workers[action.worker].recall()
                case actions.Unclaim():
                    self.jobs.unclaim(action.entry)
                case actions.RunAgain():
                    self.jobs.run_again(action.entry, action.verdict, self._facts)
                case _:
                    assert_never(action)
        self._facts = _NOTHING

    def _dispatch(self, number: int, entry: Entry) -> Iterable[actions.Action]:
        message = self.jobs.claim(entry)
        if message is None:
            return self._scheduler.unclaimed(entry.ticket)
        channel = self._workers[number].jobs
        channel.post(message)
        if channel.backlog_bytes >= settings.PORTION_BYTES:
            with contextlib.suppress(OSError):  # dead: noticed by its death
                channel.flush()
        return ()

    def _flush(self) -> None:
        """Hand on what this round brought; watch for room where there is none."""
        self.jobs.flush()
        for worker in self._workers.values():
            channel = worker.jobs
            if channel.backlog_bytes:
                with contextlib.suppress(OSError):  # dead: noticed by its death
                    sent = channel.flush()
                    self._await_room(channel.fd, not sent)
        sink = self._sink
        if sink is not None and (sink.channel.backlog_bytes or self._sink_is_full):
            with contextlib.suppress(OSError):
                sent = sink.channel.flush()  # what waited may have gone meanwhile, with descriptors
                self._sink_is_full = not sent
                self._watch.expect(sink.channel.fd, lambda: self._hear_sink(sink), writing=not sent)

    def _await_room(self, fd: int, wanted: bool) -> None:
        """Wait until a pipe has room, once: then this round writes, and asks again if need be."""
        self._watch.expect(fd, lambda: self._watch.forget(fd), reading=False, writing=wanted)

    def _start_worker(self, number: int) -> None:
        if self.broken:  # since this was decided
            self._do(self._scheduler.worker_gone(number))
            return
        try:
            sink = self._sink or self._start_sink()
            worker = self._crew.start_worker(number, sink)
        except Exception as error:  # noqa: BLE001
            # No process, memory or descriptor: the other workers go on, or every job is told.
            self._do(self._scheduler.worker_not_started(number))
            self._start_again_s = time.monotonic() + settings.START_AGAIN_S
            if self._scheduler.setbacks.too_many_failed_starts and not self._workers:
                self._give_up(f"no worker can be started: {error}")
            return
        self._workers[number] = worker
        self.jobs.tell("worker %d (pid %d) has started", number, worker.child.pid)
        self._watch.expect(worker.child.death_fd, lambda: self._worker_died(worker))

    def _stop_worker(self, number: int) -> None:
        worker = self._workers.get(number)
        if worker is not None and not worker.leaving:
            self._watch.forget(worker.jobs.fd)
            worker.stop()

    def _worker_died(self, worker: Worker) -> None:
        self._watch.forget(worker.child.death_fd)
        worker.child.reap()
        worker.dead = True
        sink = self._sink
        if sink is None or sink.leaving:
            worker.drained = True
        else:
            sink.channel.post(messages.WorkerLeft(worker=worker.number))
        self._bury(worker)

    def _bury(self, worker: Worker) -> None:
        """Settle what a worker leaves behind (I4)."""
        if not (worker.dead and worker.drained and self._workers.pop(worker.number, False)):
            return
        if not worker.jobs.closed:
            self._watch.forget(worker.jobs.fd)
        code, begun = worker.child.reap(), worker.last_begun()
        worker.close()
        self.jobs.remove_scratch(worker.scratch_prefix)
        how = describe_exit(code)
        self.jobs.tell("worker %d (pid %d) %s", worker.number, worker.child.pid, how)
        said, worker.last_words = worker.last_words, None
        if said is not None:
            self._ended(said, code, worker.broken)
        self._facts = Facts(exitcode=code, reason=worker.broken)
        given_up = bool(worker.broken)
        self._do(self._scheduler.worker_gone(worker.number, begun, given_up=given_up))
        if self._scheduler.setbacks.too_many_early_deaths:
            self._give_up(f"workers die before they can take a job: the last one {how}")

    def _start_sink(self) -> SinkProcess:
        sink = self._sink = self._crew.start_sink(self._held_bytes)
        self._sink_is_full = False
        self._watch.expect(sink.channel.fd, lambda: self._hear_sink(sink))
        self._watch.expect(sink.child.death_fd, lambda: self._sink_died(sink))
        return sink

    def _sink_died(self, sink: SinkProcess) -> None:
        while self._hear_sink(sink):  # what it had reported counts
            pass
        self._watch.forget(sink.channel.fd)
        self._watch.forget(sink.child.death_fd)
        how = describe_exit(sink.child.reap())
        sink.close()
        self._sink = None
        if sink.leaving:
            return
        self.jobs.tell("the collector process (pid %d) %s", sink.child.pid, how)
        self._do(self._scheduler.sink_gone())
        for worker in list(self._workers.values()):
            worker.drained = True
            self._bury(worker)
        if self._scheduler.setbacks.too_many_sink_deaths:
            self._give_up(
                f"the collector process died {settings.SINK_DEATHS_LIMIT} times with no job "
                f"finished in between: the last one {how}"
            )

    def _give_up(self, reason: str) -> None:
        self.broken = reason
        self._facts = Facts(reason=reason)
        self._do(self._scheduler.break_off())

    def _hear_sink(self, sink: SinkProcess) -> bool:
        heard = sink.channel.receive()
        if heard is None:
            self._watch.forget(sink.channel.fd)  # its death is told by the other descriptor
            return False
        for message in heard:
            self._take(message)
        return bool(heard)

    def _take(self, message: messages.Message) -> None:  # noqa: C901, PLR0912 - one case a message
        match message:
            case messages.JobEnded(outcome=Outcome.DIED) if message.worker in self._workers:
                self._workers[message.worker].last_words = message
            case messages.JobEnded():
                self._ended(message, None, "")
            case messages.WorkerReady(refusal=""):
                self._do(self._scheduler.worker_ready(message.worker))
            case messages.WorkerReady():
                self._give_up(f"the initializer failed:\n{message.refusal}")
            case messages.JobStarted():
                self._started(message.worker, message.ticket)
            case messages.JobProgressed():
                self.jobs.progressed(self._scheduler.find(message.ticket), message)
            case messages.LogRecord():
                self.jobs.record(self._scheduler.find(message.ticket), message.record)
            case messages.JobHandedBack():
                self._do(self._scheduler.handed_back(message.worker, message.ticket))
            case messages.WorkerDrained() if message.worker in self._workers:
                worker = self._workers[message.worker]
                worker.drained, worker.broken = True, message.broken
                if message.broken:
                    worker.child.kill()
                self._bury(worker)
            case _:
                pass  # about a worker or a job that is settled already

    def _started(self, worker: int, ticket: int) -> None:
        entry = self._scheduler.find(ticket)
        if entry is not None:
            if self._sink is not None and self.jobs.followed(entry):
                self._sink.channel.post(messages.FollowJob(ticket=ticket))
            self.jobs.started(entry)
        self._do(self._scheduler.started(worker, ticket, time.monotonic()))

    def _ended(self, said: messages.JobEnded, exitcode: int | None, broken: str) -> None:
        self._held_bytes += len(said.data)
        entry = self._scheduler.find(said.ticket)
        if entry is None or entry.worker != said.worker:
            self._release(len(said.data))
            self.jobs.drop(said)
            if entry is not None and said.worker in self._workers:  # it lies: see what it has
                self._workers[said.worker].child.kill()
            return
        self._facts = Facts(said, exitcode, broken)
        self._do(self._scheduler.ended(said.ticket, VERDICTS[said.outcome]))

    def _release(self, size: int) -> None:
        """Finished outputs hold so many bytes less. May run in any thread."""

        def note() -> None:
            self._held_bytes -= size
            if self._sink is not None and not self._sink.leaving:
                self._sink.channel.post(messages.MemoryHeld(change=-size))

        if size:
            self.note(note)
