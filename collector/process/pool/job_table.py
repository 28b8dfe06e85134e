"""The table of jobs that are not settled, and the thread that settles them.

Runs in:    the parent. `JobTable` is used by the supervising thread alone, but for `find`, and for
            what it puts off to the settling thread.
Owns:       the call of each job until it is settled.
Invariants: I1  each owner is settled exactly once, in the order in which the jobs ended.
            I2  no code of the user's runs outside the settling thread: values are unpickled and
                futures settled there, so that no callback keeps a death or a time-out from being
                noticed.
"""

import contextlib
import functools
import os
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

from collector.logger import PackageLogger
from collector.process.log_records import Records
from collector.process.pickling.script import Parts
from collector.process.pool.ending import Ending, discard, log_of, outcome_of, output_of
from collector.process.scheduler.decisions import End, Entry
from collector.store.output.output import Output
from collector.store.output.spill_file import names_held
from collector.store.rundir.current_directory import CurrentDirectory
from collector.store.rundir.directory import FILE_SUFFIX, RunDirectory
from collector.store.rundir.scratch import scratch_name
from collector.wire.capture import Capture
from collector.wire.messages import JobEnded, JobProgressed, RunJob
from collector.wire.outcome import Outcome

_logger = PackageLogger()


class JobOwner(Protocol):
    """Whoever submitted a job and wants to hear of it (`Job`).

    Attributes:
        keeps_attempts: Whether it takes what an attempt left that is followed by another.
        known_as: The number by which those know it who ask; 0 if that is its own.
        earlier_attempts: Attempts of what they know before those of this job: in earlier runs of a
            batch directory, or where each attempt is a job of its own. They come before its own
            wherever an attempt is named by its number.
    """

    keeps_attempts: bool
    known_as: int
    earlier_attempts: int

    @property
    def name(self) -> str:
        """The job's name."""

    def claim(self) -> bool:
        """The job is about to run: False if it was cancelled."""

    def cancel(self) -> bool:
        """The job will not run: it was not sent to a worker yet."""

    def unclaim(self) -> None:
        """The job was sent to a worker, had not started, and waits again."""

    def come_back(self) -> None:
        """The job had not started, and will not run."""

    def attempted(self, attempt: int) -> None:
        """A further attempt begins: the so manyth of this job's own."""

    def started(self) -> None:
        """A worker runs it now; not called for a job that ends at once."""

    def progressed(self, bytes_written: int, chunks: int, name: str) -> None:
        """How far the output has come; with the name of its file once it is in one."""

    def counted(self, meters: Mapping[str, float]) -> None:
        """It has counted so much more."""

    def attempt_failed(
        self, ending: Ending, error: BaseException | None, output: Output, log: Output | None
    ) -> None:
        """An attempt is over, and another one follows; only called with `keeps_attempts`."""

    def ran(self, ending: Ending) -> None:
        """The last attempt is over; `settle` follows in the same thread."""

    def settle(
        self, value: Any, error: BaseException | None, output: Output, log: Output | None
    ) -> None:
        """The job is over."""


@final
@dataclass(slots=True, eq=False)
class Held:
    """A job that is not submitted yet, as those see it who ask for it.

    Attributes:
        known_as: Its number for them.
        name: Its name.
        id: Its number here: it has none.
        wanted_dead: As of every job.
    """

    known_as: int
    name: str
    id: int = 0
    wanted_dead: bool = False


@final
@dataclass(slots=True, eq=False, kw_only=True)
class Work(Entry):
    """A job that is not settled: what the scheduler knows of it, and the rest.

    One object for both: the garbage collector visits each object of each waiting job repeatedly.
    """

    owner: JobOwner
    call: bytes
    parts: Parts = ()
    names: bytes = b""
    memory_threshold: int
    capture: Capture = Capture.NOTHING
    claimed: bool = False
    followed: bool = False
    spilled: str = ""
    log_name: str = ""
    sent_to: int = 0
    began_s: float = 0.0
    bytes_written: int = 0
    meters: Mapping[str, float] | None = None
    """What the attempt has counted so far, to be told with its end."""


class Audience(Protocol):
    """Those who follow jobs from another process; is asked only while somebody does."""

    @property
    def want_all(self) -> bool:
        """Whether somebody follows every job."""

    def started(self, job: Any) -> None:
        """A worker runs it now."""

    def ended(self, job: Any, output: Output, error: BaseException | None) -> None:
        """It is over, and its owner does not know yet."""

    def __len__(self) -> int:
        """Return how many follow."""


@final
class JobTable:
    """Keeps the jobs of one Collector until they are settled.

    Args:
        directory: Where their files are.
        on_release: Called with the number of bytes freed when an output closes; in any thread, also
            during a garbage collection.
    """

    def __init__(self, directory: CurrentDirectory, on_release: Callable[[int], None]) -> None:
        self.verbose = False
        self.audience: Audience | None = None
        self.done = self.failed = self.cancelled = self.bytes = 0
        """Jobs that are over, those of them that failed, cancelled ones; what all have written."""
        self._directory = directory
        self._on_release = on_release
        self._work: dict[int, Work] = {}
        self._endings: queue.SimpleQueue[list[Callable[[], object]] | None] = queue.SimpleQueue()
        self._round: list[Callable[[], object]] = []
        self._records = Records(self.later)
        self._earlier: list[tuple[RunDirectory, set[int]]] = []
        """Where the run directory was, and the jobs that may have a file there."""

    def add(self, work: Work) -> None:
        """Take a job."""
        self._work[work.job_id] = work

    def forget(self, job_id: int) -> None:
        """Drop a job whose owner has cancelled it."""
        if self._work.pop(job_id, None) is not None:
            self.cancelled += 1
        self._needs_no_file(job_id)

    def cancel_unclaimed(self) -> list[int]:
        """Have every job cancelled that has not been sent to a worker; return their numbers."""
        unclaimed = [work for work in self._work.values() if not work.claimed]
        for work in unclaimed:
            self.forget(work.job_id)
            self.later(work.owner.cancel)
        return [work.job_id for work in unclaimed]

    def claim(self, entry: Entry) -> tuple[RunJob, Parts] | None:
        """Return what a worker is to be told, and what it must have of the script before it runs.

        None if the owner has cancelled the job.
        """
        work = self._work.get(entry.job_id)
        if work is None or not (work.claimed or work.owner.claim()):
            self.forget(entry.job_id)
            return None
        work.claimed = True
        work.sent_to, work.began_s = work.worker or 0, 0.0
        work.log_name = f"log-{os.urandom(8).hex()}{FILE_SUFFIX}" if work.capture else ""
        message = RunJob(
            ticket=entry.ticket,
            job_id=entry.job_id,
            attempt=work.owner.earlier_attempts + entry.attempt,
            memory_threshold=min(work.memory_threshold, sys.maxsize),  # what a message can say
            capture=work.capture,
            log_name=work.log_name,
            name=work.owner.name,
            call=work.call,
            names=work.names,
        )
        return message, work.parts

    def unclaim(self, entry: Entry) -> None:
        """Let the owner cancel a job again that came back from a worker."""
        work = self._work[entry.job_id]
        work.claimed = False
        work.owner.unclaim()

    def started(self, entry: Entry) -> None:
        """Tell the owner that its job runs."""
        work = self._work.get(entry.job_id)
        if work is not None:
            work.began_s = time.time()
            work.owner.started()
            if self.audience:
                self.audience.started(work.owner)

    def progressed(self, entry: Entry | None, said: JobProgressed) -> None:
        """Tell the owner how far its job has come, if it has not ended meanwhile."""
        work = self._work.get(entry.job_id) if entry else None
        if work is not None:
            self._spilled(work, said.name)
            work.bytes_written = said.bytes_written
            work.owner.progressed(said.bytes_written, said.chunks, said.name)

    def follow(self, job_id: int) -> int:
        """Somebody follows this job; returns the ticket of the attempt that runs, or 0."""
        work = self._work.get(job_id)
        if work is None:
            return 0
        work.followed = True
        return work.ticket

    def followed(self, entry: Entry) -> bool:
        """Whether somebody follows this job."""
        work = self._work.get(entry.job_id)
        if work is not None and self.audience and self.audience.want_all:
            work.followed = True
        return work is not None and work.followed

    def find(self, job: str, held: Sequence["Held"] = ()) -> "list[JobOwner | Held]":
        """Return the jobs of that number, or else of that name. May be called in any thread.

        Args:
            job: The number, or the name.
            held: Jobs that are not here yet.
        """
        number = int(job) if job.isascii() and job.isdecimal() else 0
        numbered = self._work.get(number)
        if numbered is not None and not numbered.owner.known_as:
            return [numbered.owner]
        owners: list[JobOwner | Held] = [work.owner for work in list(self._work.values())]
        owners += held
        known = [owner for owner in owners if number and owner.known_as == number]
        return known or [owner for owner in owners if owner.name == job]

    def record(self, entry: Entry | None, packed: bytes) -> None:
        """A job has logged something."""
        work = self._work.get(entry.job_id) if entry else None
        if work is not None:
            self._records.take(packed, work.job_id, work.owner.name)
        else:
            self._records.take(packed, 0, "")

    def run_again(self, entry: Entry, end: End) -> None:
        """Drop what the last attempt had written; another one follows."""
        work = self._work[entry.job_id]
        ending = _ending(work, end, entry.attempt - 1)
        work.spilled, work.bytes_written, work.meters = "", 0, None
        self.tell(
            "job %s failed (%s): attempt %d follows",
            work.owner.name,
            end.outcome.words,
            work.owner.earlier_attempts + entry.attempt,
        )
        work.owner.attempted(entry.attempt)
        if work.owner.keeps_attempts:
            self.later(functools.partial(self._hand_over_attempt, work.owner, ending))
        else:
            self.later(lambda: discard(ending, self._directory, self._on_release))

    def run_later(self, entry: Entry, end: End) -> None:
        """Drop what an attempt has written that asks to be made later; it does not count."""
        work = self._work[entry.job_id]
        ending = _ending(work, end, entry.attempt)
        work.spilled, work.bytes_written = "", 0
        self.tell("job %s asks to be run later", work.owner.name)
        work.owner.attempted(entry.attempt)
        if entry.attempt == 1:
            self.unclaim(entry)
        self.later(lambda: discard(ending, self._directory, self._on_release))

    def counted(self, entry: Entry, meters: Mapping[str, float]) -> None:
        """Tell the owner that its job has counted so much more."""
        work = self._work.get(entry.job_id)
        if work is not None:
            now = Counter[str](work.meters or {})
            now.update(meters)
            work.meters = now
            work.owner.counted(meters)

    def settle(self, entry: Entry, end: End) -> None:
        """Hand the job to the settling thread: it is over."""
        work = self._work.pop(entry.job_id)
        if end.outcome is Outcome.CANCELLED:
            self.cancelled += 1
            if end.said is not None:  # of an attempt that asked to be made later
                ending = _ending(work, end, entry.attempt)
                self.later(lambda: discard(ending, self._directory, self._on_release))
            self.later(work.owner.come_back)
            self._needs_no_file(entry.job_id)
            return
        owner, ending, said = work.owner, _ending(work, end, entry.attempt), end.said
        if said is not None and self.verbose:
            self._spilled(work, said.name)
            sealed = "the output of job %s is sealed: %d bytes in %d chunks"
            self.tell(sealed, owner.name, said.size, said.chunks)

        self._round.append(functools.partial(self._settle, owner, ending))
        if self._earlier:
            self._needs_no_file(entry.job_id)

    def _hand_over_attempt(self, owner: JobOwner, ending: Ending) -> None:
        log = log_of(ending, self._directory)
        _, error = outcome_of(ending, log, self._directory)
        output = output_of(ending, self._directory, self._on_release, complete=False)
        owner.attempt_failed(ending, error, output, log)

    def _settle(self, owner: JobOwner, ending: Ending) -> None:
        log = log_of(ending, self._directory)
        value, error = outcome_of(ending, log, self._directory)
        output = output_of(ending, self._directory, self._on_release, complete=error is None)
        owner.ran(ending)
        self.bytes += output.size
        self.failed += error is not None
        self.done += 1
        if self.audience:
            self.audience.ended(owner, output, error)
        owner.settle(value, error, output, log)

    def drop(self, said: JobEnded) -> None:
        """Remove what came of an attempt that nobody waits for."""
        for name in filter(None, (said.name, said.value_name)):
            self._directory.holding(name).remove_file(name)

    def drop_unheard(self, sealed: Iterable[JobEnded]) -> None:
        """Remove, after what is being settled, the files of a dead sink that nobody has heard of.

        To be called before there is another sink, whose files are not known either.

        Args:
            sealed: What is not settled yet of what it had sealed.
        """
        known = {name for work in self._work.values() for name in (work.spilled, work.log_name)}
        known.update(name for said in sealed for name in (said.name, said.value_name))
        left = [
            (directory, name)
            for directory in self._directory.every()
            for name in _files_in(directory)
            if name not in known
        ]

        def remove() -> None:
            held = names_held()  # what was settled meanwhile
            for directory, name in left:
                if name not in held:
                    directory.remove_file(name)

        self.later(remove)

    def remove_scratch(self, prefix: str, begun: int | None) -> None:
        """Remove what a dead worker has left of its scratch directories.

        It is that of the attempt that the worker began last. Where that is not known, the run
        directory is looked through, with the files of all outputs.

        Args:
            prefix: How the names begin of those of this worker.
            begun: Ticket of that attempt; 0 for none, None if it is not known.
        """

        def remove() -> None:
            for directory in self._directory.every():
                if begun is not None:
                    directory.remove_scratch(scratch_name(prefix, begun))
                    continue
                with contextlib.suppress(OSError):  # it was unlinked, with what was in it
                    for name in os.listdir(directory.fd):
                        if name.startswith(prefix):
                            directory.remove_scratch(name)

        if begun != 0:
            self.later(remove)

    def moved(self, earlier: RunDirectory) -> None:
        """The run directory is another one: keep the earlier one until its jobs are over."""
        message = "others removed or replaced the run directory %s: going on in %s"
        paths = earlier.path, self._directory.latest.path
        self.later(lambda: _logger.warning(message, *paths))
        self._earlier.append((earlier, {w.job_id for w in self._work.values() if w.claimed}))
        self._needs_no_file(0)

    def _needs_no_file(self, job_id: int) -> None:
        """Drop earlier directories in which no open job has a file, after what is being settled."""
        for earlier, jobs in self._earlier[:]:
            jobs.discard(job_id)
            if not jobs:
                self._earlier.remove((earlier, jobs))
                self.later(functools.partial(self._directory.drop, earlier))

    def tell(self, message: str, *arguments: object) -> None:
        """Log something that only a user wants to hear who has asked for it."""
        if self.verbose:
            self.later(lambda: _logger.info(message, *arguments))

    def _spilled(self, work: Work, name: str) -> None:
        if name and not work.spilled:
            path = self._directory.holding(name).path / name
            self.tell("the output of job %s goes on in %s", work.owner.name, path)
        work.spilled = name

    def later(self, act: Callable[[], object]) -> None:
        """Have something done by the settling thread, after `flush`."""
        self._round.append(act)

    def flush(self) -> None:
        """Hand all that was put off to the settling thread: one switch of threads for many jobs."""
        if self._round:
            self._endings.put(self._round)
            self._round = []

    def end(self) -> None:
        """Let the settling thread leave when it has done all."""
        self.flush()
        self._endings.put(None)

    def start(self) -> threading.Thread:
        """Start the settling thread."""
        thread = threading.Thread(target=self._settle_all, name="collector-settle", daemon=True)
        thread.start()
        return thread

    def _settle_all(self) -> None:
        while (acts := self._endings.get()) is not None:
            acts.reverse()
            while acts:
                try:
                    acts.pop()()
                except BaseException:
                    # A callback of the user's that exits: the others are settled all the same.
                    _logger.exception("a callback of a job failed")


def _files_in(directory: RunDirectory) -> list[str]:
    with contextlib.suppress(OSError):  # others have removed it
        return [name for name in os.listdir(directory.path) if name.endswith(FILE_SUFFIX)]
    return []


def _ending(work: Work, end: End, attempt: int) -> Ending:
    return Ending(
        work.job_id,
        work.owner,
        work.owner.earlier_attempts + attempt,
        work.timeout,
        work.spilled,
        work.log_name,
        work.capture is Capture.BY_ITSELF,
        end,
        work.sent_to,
        work.began_s,
        work.meters or {},
    )
