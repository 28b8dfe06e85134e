"""The loop that watches every process of a Collector and does what the scheduler decides.

Runs in:    the supervising thread of the parent.
Owns:       the handles of the sink and the workers, the watch over their descriptors.
Invariants: I1  only the supervising thread touches scheduler and processes; others leave a note.
            I2  the only waits are the one select, and the collecting of a dead process.
            I3  it starts all processes and lives as long as they do (PDEATHSIG follows the thread).
            I4  a job whose worker died is settled when that is dead *and* its queue is read out.
"""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import assert_never, final

from collector import settings
from collector.process.engine import Engine, WorkerHandle
from collector.process.pool.answering import Answering
from collector.process.pool.job_table import JobTable, Work
from collector.process.pool.mailbox import Mailbox
from collector.process.pool.out_of_memory import OUT_OF_MEMORY, OomKills
from collector.process.pool.supervised import State, SupervisedSink, SupervisedWorker
from collector.process.pool.whereabouts import whereabouts
from collector.process.queue.poller import Poller
from collector.process.scheduler import decisions
from collector.process.scheduler.decisions import End, Entry
from collector.process.scheduler.retries import Later, Remark
from collector.process.scheduler.scheduler import Scheduler
from collector.process.start.bootstrap import NoPythonError
from collector.store.rundir.current_directory import CurrentDirectory
from collector.store.rundir.directory import RunDirectory
from collector.wire import messages, remarks
from collector.wire.outcome import OUTCOMES, Outcome

Note = Work | Callable[[], Iterable[decisions.Action] | None]
"""A new job, or what is to be done: a function for each of 100,000 jobs would cost too much."""


@final
class Supervisor:
    """Supervises the processes of one Collector, in the thread that calls `run`."""

    def __init__(
        self,
        engine: Engine,
        directory: CurrentDirectory,
        schedule: Scheduler,
        answering: Answering | None = None,
    ) -> None:
        self.answering = answering
        self.jobs = JobTable(directory, self._release)
        self.broken = ""
        self._engine = engine
        self._directory = directory
        self._scheduler = schedule
        self._workers: dict[int, SupervisedWorker] = {}
        self._sink: SupervisedSink | None = None
        self._sink_is_full = False
        self.held_bytes = 0
        """What finished outputs hold in memory."""
        self._farewell = messages.Farewell()
        self._oom = OomKills()
        self._stopping = False
        self._awake_s = time.monotonic()
        self._start_again_s = math.inf
        self._leaving: set[SupervisedWorker | SupervisedSink] = set()
        """Those that are killed if they do not go by themselves."""
        self._unsent: set[WorkerHandle] = set()
        self._mailbox: Mailbox[Note] = Mailbox()
        try:
            self._watch = Poller()
        except OSError:  # no descriptor is to be had
            self._mailbox.close()
            raise
        self._watch.expect(self._mailbox.fileno(), self._mailbox.clear)
        directory.at_move = lambda earlier: self.note(lambda: self._moved(earlier))

    @property
    def may_start_workers(self) -> bool:
        """Whether one more job may mean one more worker. May be asked in any thread."""
        return len(self._workers) < self._scheduler.max_workers

    def note(self, note: Note) -> None:
        """Leave a note. Takes no lock: it may be called whatever is held, also in a finalizer."""
        self._mailbox.note(note)

    def abandon(self) -> None:
        """In a forked child of the parent: close what is the parent's, and touch nothing else."""
        self._watch.close()
        answering = [] if self.answering is None else self.answering.abandon()
        fds = [fd for process in self._processes() for fd in process.handle.descriptors()]
        self._engine.abandon([*fds, *answering, *self._mailbox.detach()])

    def take(self, work: Work) -> Iterable[decisions.Action]:
        """A job was submitted."""
        self.jobs.add(work)
        if self.broken:
            return self._scheduler.refused(work, self.broken)
        return self._scheduler.submitted(work)

    def withdraw(self, job_id: int) -> Iterable[decisions.Action]:
        """A waiting job was cancelled."""
        self.jobs.forget(job_id)
        return self._scheduler.withdrawn(job_id)

    def follow(self, job_id: int) -> None:
        """Have a job's output in a file as soon as it runs, and its progress told more often."""
        ticket = self.jobs.follow(job_id)
        if ticket and self._sink is not None:
            self._sink.handle.tell(messages.FollowJob(ticket=ticket))

    def say_at_the_end(self, farewell: messages.Farewell) -> None:
        """Have the sink write this to stderr if this process dies."""
        self._farewell = farewell
        if self._sink is not None:
            self._sink.handle.tell(farewell)

    def stop(self, *, cancel: bool, kill: bool) -> Iterable[decisions.Action]:
        """No further job will come; what has not started can be cancelled, what runs be killed."""
        self._stopping = True
        if cancel:
            for job_id in self.jobs.cancel_unclaimed():
                self._do(self._scheduler.withdrawn(job_id))
        if kill and self._sink is not None:  # if it does not say in time that all have ended
            self._sink.kill_by_s = time.monotonic() + settings.STOP_DEADLINE_S
            self._leaving.add(self._sink)
        return [*(self._scheduler.kill_all() if kill else ()), *self._scheduler.stop(cancel=cancel)]

    def end_workers(self, *, kill: bool) -> Iterable[decisions.Action]:
        """Every worker is to be ended at once, after `stop`."""
        for worker in self._workers.values():
            worker.ended_by = "kill_workers()" if kill else "terminate_workers()"
        return self._scheduler.end_workers(kill=kill)

    def listen(self) -> None:
        """Begin to listen to those who ask, before `run`, in the thread that submits the first job.

        A handler in a forked child may wait for that job while it holds the gate of forks, which
        is needed for a socket and which no other thread gets then.
        """
        if self.answering is not None:
            self.answering.open(self._watch, self.note)

    def run(self) -> None:
        """Supervise until it was told to stop and the last process is gone."""
        try:
            while not self._over():
                self._round()
        except BaseException as error:  # a bug: every job is told, none waits for ever
            self.broken = f"the supervising thread failed: {error!r}"
            for note in self._mailbox.notes():
                if isinstance(note, Work):  # who submits one later sees what has happened
                    self._do(self.take(note))
            self._give_up(self.broken)
            raise
        finally:
            self.close()

    def signal_jobs(self, number: int, *, workers: bool) -> None:
        """Send a signal to what runs; see `Pool.signal_jobs`."""
        for worker in self._workers.values():
            worker.handle.signal(number, itself=workers)

    def close(self) -> None:
        """Let go of everything; no process is left, or none was ever started."""
        with contextlib.ExitStack() as steps:  # the last one first, and each whatever others raise
            steps.callback(self._engine.close)
            steps.callback(self._mailbox.close)
            steps.callback(self._watch.close)
            processes = list(self._processes())  # none, but where the loop has failed
            for process in processes:
                steps.callback(process.handle.close)
                steps.callback(process.handle.reap)
            for process in processes:
                steps.callback(process.handle.kill)
            self._workers.clear()
            self._sink = None

    def _round(self) -> None:
        pause_s = self._pause_s()
        ready = self._watch.ready(pause_s)
        now_s = time.monotonic()
        overslept_s, self._awake_s = now_s - self._awake_s - (pause_s or 0.0), now_s
        if pause_s is not None and overslept_s > settings.SUSPENDED_S:
            self._do(self._scheduler.delayed(overslept_s))
            for process in self._leaving:
                process.kill_by_s += overslept_s
        self._oom.look(now_s)
        for handle in ready:
            handle()
        for note in self._mailbox.notes():
            decided = self.take(note) if isinstance(note, Work) else note()
            if decided:
                self._do(decided)
        self._do(self._scheduler.ticked(now_s))
        if self._start_again_s <= now_s:
            self._start_again_s = math.inf
            self._do(self._scheduler.unhindered())
        for process in self._leaving:
            process.kill_if_late(now_s)
        self._flush()

    def _pause_s(self) -> float | None:
        self._leaving = {process for process in self._leaving if process.kill_by_s < math.inf}
        kills_s = [process.kill_by_s for process in self._leaving]
        soonest = min(self._scheduler.next_deadline_s(), self._start_again_s, *kills_s)
        # Within a longer wait nobody would notice that this process was stopped for a while.
        return None if soonest == math.inf else min(max(0.0, soonest - time.monotonic()), 1.0)

    def _over(self) -> bool:
        if not self._stopping or self._mailbox or self._scheduler.unsettled:
            return False
        for worker in [w for w in self._workers.values() if w.state is State.DEAD]:
            worker.read_out()  # nothing that is still in its queue matters to anybody
            self._settle_if_gone(worker)
        if self._workers:
            return False
        if self._sink is not None and self._sink.state is State.LIVING:
            self._sink.stop()
            self._leaving.add(self._sink)
            self._flush()
        return self._sink is None

    def _processes(self) -> Iterator[SupervisedWorker | SupervisedSink]:
        yield from self._workers.values()
        if self._sink is not None:
            yield self._sink

    def _do(self, decided: Iterable[decisions.Action]) -> None:  # noqa: C901, PLR0912 - one case an action
        todo = list(decided)
        for action in todo:  # it may grow meanwhile
            match action:
                case decisions.Settle():
                    self.jobs.settle(action.entry, action.end)
                case decisions.Dispatch():
                    todo.extend(self._dispatch(action.worker, action.entry))
                case decisions.StartWorker():
                    self._start_worker(action.worker)
                case decisions.StopWorker():
                    self._stop_worker(action.worker)
                case decisions.KillWorker():
                    if action.worker in self._workers:
                        self._workers[action.worker].kill()
                case decisions.TerminateWorker():
                    if action.worker in self._workers:
                        self._workers[action.worker].handle.terminate()
                case decisions.Recall():
                    self._workers[action.worker].handle.recall()
                case decisions.LookIfLoaded():
                    self._look_if_loaded(action)
                case decisions.Unclaim():
                    self.jobs.unclaim(action.entry)
                case decisions.RunAgain():
                    self.jobs.run_again(action.entry, action.end)
                case decisions.RunLater():
                    self.jobs.run_later(action.entry, action.end)
                case _:
                    assert_never(action)

    def _dispatch(self, number: int, entry: Entry) -> Iterable[decisions.Action]:
        claimed = self.jobs.claim(entry)
        if claimed is None:
            return self._scheduler.unclaimed(entry.ticket)
        handle = self._workers[number].handle
        handle.send(*claimed)
        self._unsent.add(handle)
        if handle.backlog_bytes >= settings.PORTION_BYTES:
            handle.flush()
        return ()

    def _look_if_loaded(self, look: decisions.LookIfLoaded) -> None:
        entry = look.entry
        handle = self._workers[entry.worker or 0].handle
        loaded_s = handle.loaded_s(entry.ticket, entry.started_s)
        entry.seen(loaded_s, time.monotonic(), look.pause_s)

    def _flush(self) -> None:
        """Send what this round has queued; where a pipe is full, wait until it can be written."""
        self.jobs.flush()
        for handle in [*self._unsent]:
            room_fd, sent = handle.room_fd, handle.flush()
            if room_fd is not None:
                self._watch.expect_room(room_fd, wanted=not sent)
            if sent:
                self._unsent.discard(handle)
        sink = self._sink
        if sink is not None and (sink.handle.backlog_bytes or self._sink_is_full):
            self._sink_is_full = not (sent := sink.handle.flush())  # `post_with` may have written
            fd = sink.handle.control_fd
            self._watch.expect(fd, lambda: self._hear_sink(sink), writing=not sent)

    def _start_worker(self, number: int) -> None:
        if self.broken:  # since this was decided
            self._do(self._scheduler.worker_gone(number))
            return
        try:
            if self._sink is None:
                self._start_sink()
            worker = SupervisedWorker(self._engine.start_worker(number))
        except Exception as error:  # noqa: BLE001
            # No process, memory or descriptor: the other workers go on, or every job is told.
            self._scheduler.worker_not_started(number)
            self._start_again(f"{error}", ever=not isinstance(error, NoPythonError))
            return
        self._workers[number] = worker
        self.jobs.tell("worker %d (pid %d) has started", number, worker.handle.pid)
        self._watch.expect(worker.handle.death_fd, lambda: self._worker_died(worker))

    def _start_again(self, why: str, *, ever: bool = True) -> None:
        """Start workers again a little later, or give up if none is there and none will be."""
        self._start_again_s = time.monotonic() + settings.START_AGAIN_S
        enough = self._scheduler.setbacks.too_many_failed_starts
        if not self._workers and (enough or not ever):
            self._give_up(f"no worker can be started: {why}")

    def _stop_worker(self, number: int) -> None:
        worker = self._workers.get(number)
        if worker is not None and worker.state is State.LIVING:
            self._watch.forget(worker.handle.room_fd)
            worker.stop()
            self._leaving.add(worker)

    def _worker_died(self, worker: SupervisedWorker) -> None:
        self._watch.forget(worker.handle.death_fd)
        worker.died()
        sink = self._sink
        if worker.state is State.DEAD:
            if sink is None or sink.state is not State.LIVING:
                worker.read_out()  # there is nobody who would
            elif not worker.handle.sink_sees_death:
                sink.handle.tell(messages.WorkerLeft(worker=worker.number))
        self._settle_if_gone(worker)

    def _settle_if_gone(self, worker: SupervisedWorker) -> None:
        """Settle what a worker leaves behind, once it is dead and its queue is read out (I4)."""
        if worker.state is not State.GONE or self._workers.pop(worker.number, None) is None:
            return
        self._watch.forget(worker.handle.room_fd)
        worker.handle.close()
        code, how, begun = worker.exit.code, worker.exit.how, worker.exit.begun
        self.jobs.remove_scratch(worker.handle.scratch_prefix, begun)
        self.jobs.tell("worker %d (pid %d) %s", worker.number, worker.handle.pid, how)
        if worker.refusal and not self.broken:
            self._give_up(f"the initializer failed:\n{worker.refusal}")
        said, worker.sealed_job = worker.sealed_job, None
        killed = code == -signal.SIGKILL and not (worker.ended_by or worker.was_killed)
        starved = (killed and self._oom.has_killed()) or worker.exit.out_of_memory
        why = worker.why or (OUT_OF_MEMORY if killed and starved else "")
        if said is not None:
            self._ended(said, code, why, starved=starved)
        end = End(Outcome.CRASHED, None, code, why, starved)
        given_up = bool(worker.broken) or worker.exit.unheard
        self._do(self._scheduler.worker_gone(worker.number, begun, given_up=given_up, end=end))
        if given_up:  # if it never came up, no process was to be had: no descriptors, or no pump
            self._start_again(f"the last one {worker.broken or how}")
        if self._scheduler.setbacks.too_many_early_deaths:
            self._give_up(f"workers die before they can take a job: the last one {how}")

    def _start_sink(self) -> None:
        sink = self._sink = SupervisedSink(self._engine.start_sink(self.held_bytes, self._farewell))
        self._sink_is_full = False
        self._watch.expect(sink.handle.control_fd, lambda: self._hear_sink(sink))
        self._watch.expect(sink.handle.death_fd, lambda: self._sink_died(sink))

    def _sink_died(self, sink: SupervisedSink) -> None:
        while self._hear_sink(sink):  # what it had reported counts
            pass
        self._watch.forget(sink.handle.control_fd)
        self._watch.forget(sink.handle.death_fd)
        expected = sink.state is State.LEAVING
        sink.died()
        sink.handle.close()
        self._sink = None
        if expected:
            return
        how = sink.exit.how
        self.jobs.tell("the collector process (pid %d) %s", sink.handle.pid, how)
        sealed = [worker.sealed_job for worker in self._workers.values()]
        self.jobs.drop_unheard(filter(None, sealed))
        self._do(self._scheduler.sink_gone())
        for worker in list(self._workers.values()):
            worker.read_out()
            self._settle_if_gone(worker)
        if self._scheduler.setbacks.too_many_sink_deaths:
            self._give_up(
                f"the collector process died {settings.SINK_DEATHS_LIMIT} times with no job "
                f"finished in between: the last one {how}"
            )

    def _give_up(self, reason: str) -> None:
        self.broken = reason
        self._do(self._scheduler.break_off(reason))

    def _hear_sink(self, sink: SupervisedSink) -> bool:
        heard = sink.handle.receive()
        if heard is None:
            self._watch.forget(sink.handle.control_fd)  # its death is told by the other descriptor
            return False
        for message in heard:
            self._take(message)
        return bool(heard)

    def _take(self, message: messages.Message) -> None:  # noqa: C901, PLR0912, PLR0915 - one case a message
        match message:
            case messages.JobEnded(outcome=Outcome.CRASHED) if message.worker in self._workers:
                self._workers[message.worker].sealed(message)
            case messages.JobEnded():
                self._ended(message, None, "")
            case messages.WorkerReady(refusal=""):
                self._do(self._scheduler.worker_ready(message.worker))
            case messages.WorkerReady() if message.worker in self._workers:
                # It leaves by itself: what it has logged and put into queues is to arrive before.
                self._workers[message.worker].refusal = message.refusal
                self._stop_worker(message.worker)
            case messages.JobStarted():
                self._started(message.worker, message.ticket)
            case messages.JobProgressed():
                self.jobs.progressed(self._scheduler.find(message.ticket), message)
                if message.bytes_written:
                    self._do(self._scheduler.proved(message.ticket))
            case messages.JobRemarked():
                self._remarked(message)
            case messages.LogRecord():
                self.jobs.record(self._scheduler.find(message.ticket), message.record)
            case messages.RunDirectoryWanted():
                self._tell_where(message.worker, message.question)
            case messages.JobHandedBack():
                self._do(self._scheduler.handed_back(message.worker, message.ticket))
            case messages.WorkerDrained() if message.worker in self._workers:
                worker = self._workers[message.worker]
                worker.read_out(message.broken)
                if message.broken:
                    worker.kill()
                self._settle_if_gone(worker)
            case _:
                pass  # about a worker or a job that is settled already

    def _remarked(self, message: messages.JobRemarked) -> None:
        entry = self._scheduler.find(message.ticket)
        if entry is None or entry.worker != message.worker:
            return
        said = remarks.read(message.text)
        if said.meters:
            self.jobs.counted(entry, said.meters)
        if said.kinds:
            later = None if said.later is None else Later(*said.later)
            self._scheduler.remarked(message.ticket, Remark(said.kinds, later))

    def _tell_where(self, worker: int, question: int) -> None:
        """Tell a worker, or the sink (0), where the run directory is now."""
        asking = self._workers.get(worker) if worker else self._sink
        if asking is not None:
            asking.handle.tell(whereabouts(self._directory, question))
        if isinstance(asking, SupervisedWorker):
            self._unsent.add(asking.handle)

    def _moved(self, earlier: RunDirectory) -> None:
        """Others have taken the run directory away, and there is another one."""
        self.jobs.moved(earlier)
        if self.answering is not None:
            self.answering.moved()
        self._tell_where(0, 0)

    def _started(self, worker: int, ticket: int) -> None:
        entry = self._scheduler.find(ticket)
        if entry is not None:
            if self._sink is not None and self.jobs.followed(entry):
                self._sink.handle.tell(messages.FollowJob(ticket=ticket))
            self.jobs.started(entry)
        self._do(self._scheduler.started(worker, ticket, time.monotonic()))

    def _ended(
        self, said: messages.JobEnded, exitcode: int | None, why: str, *, starved: bool = False
    ) -> None:
        self.held_bytes += len(said.data)
        entry = self._scheduler.find(said.ticket)
        if entry is None or entry.worker != said.worker:
            self._release(len(said.data))
            self.jobs.drop(said)
            if entry is not None and said.worker in self._workers:
                # It reported another worker's attempt: kill it, and settle what it really had
                # through the death path.
                self._workers[said.worker].kill()
            return
        end = End(OUTCOMES[said.outcome], said, exitcode, why, starved)
        self._do(self._scheduler.ended(said.ticket, end))

    def _release(self, size: int) -> None:
        """Finished outputs hold so many bytes less. May run in any thread."""

        def note() -> None:
            self.held_bytes -= size
            if self._sink is not None and self._sink.state is State.LIVING:
                self._sink.handle.tell(messages.MemoryHeld(change=-size))

        if size:
            self.note(note)
