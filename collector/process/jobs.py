"""The table of jobs that are not settled, and the thread that settles them.

Runs in:    the parent. `JobTable` is used by the supervising thread alone, but for `release`.
Owns:       the call of each job until it is settled; the count of bytes that finished outputs hold.
Invariants: I1  each owner is settled exactly once, in the order in which the jobs ended.
            I2  no code of the user's runs outside the settling thread: values are unpickled and
                futures settled there, so that no callback keeps a death or a time-out from being
                noticed.
"""

import functools
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, final

from collector.process.actions import Entry, Verdict
from collector.process.ending import Ending, discard, log_of, outcome_of, output_of
from collector.process.records import Records
from collector.store.output import Output
from collector.store.rundir import RunDirectory
from collector.wire.messages import JobEnded, JobProgressed, RunJob

_logger = logging.getLogger("collector")


class Owner(Protocol):
    """Whoever submitted a job and wants to hear of it (`Job`)."""

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
        """A further attempt begins."""

    def started(self) -> None:
        """A worker runs it now; not told of a job that ends at once."""

    def progressed(self, bytes_written: int, chunks: int, name: str) -> None:
        """How far the output has come; with the name of its file once it is in one."""

    def settle(
        self, value: Any, error: BaseException | None, output: Output, log: Output | None
    ) -> None:
        """The job is over."""


@final
@dataclass(slots=True, eq=False, kw_only=True)
class Work(Entry):
    """A job that is not settled: what the scheduler knows of it, and the rest.

    One object for both: the garbage collector looks at each of those that wait, again and again.
    """

    owner: Owner
    call: bytes
    memory_threshold: int
    capture: bool = False
    claimed: bool = False
    followed: bool = False
    spilled: str = ""
    log_name: str = ""


class Facts(NamedTuple):
    """What is known of how an attempt ended.

    Attributes:
        said: What the sink sealed, None when the sink was lost.
        exitcode: Of the worker that died, if one did.
        reason: Why the sink refused the worker, or why the Collector is broken.
    """

    said: JobEnded | None = None
    exitcode: int | None = None
    reason: str = ""


@final
class JobTable:
    """Keeps the jobs of one Collector until they are settled.

    Args:
        directory: Where their files are.
        held: Called, from any thread and even in a garbage collection, when finished outputs hold
            so many bytes less in memory.
    """

    def __init__(self, directory: RunDirectory, held: Callable[[int], None]) -> None:
        self.verbose = False
        self._directory = directory
        self._held = held
        self._work: dict[int, Work] = {}
        self._endings: queue.SimpleQueue[list[Callable[[], object]] | None] = queue.SimpleQueue()
        self._round: list[Callable[[], object]] = []
        self._records = Records(self.later)

    def add(self, work: Work) -> None:
        """Take a job."""
        self._work[work.job_id] = work

    def forget(self, job_id: int) -> None:
        """Drop a job whose owner has cancelled it."""
        self._work.pop(job_id, None)

    def cancel_unclaimed(self) -> list[int]:
        """Have every job cancelled that has not been sent to a worker; return their numbers."""
        unclaimed = [work for work in self._work.values() if not work.claimed]
        for work in unclaimed:
            self.forget(work.job_id)
            self.later(work.owner.cancel)
        return [work.job_id for work in unclaimed]

    def claim(self, entry: Entry) -> RunJob | None:
        """Return what a worker is to be told; None if the owner has cancelled the job."""
        work = self._work.get(entry.job_id)
        if work is None or not (work.claimed or work.owner.claim()):
            self.forget(entry.job_id)
            return None
        work.claimed = True
        work.log_name = f"log-{os.urandom(8).hex()}.spill" if work.capture else ""
        return RunJob(
            ticket=entry.ticket,
            job_id=entry.job_id,
            attempt=entry.attempt,
            memory_threshold=min(work.memory_threshold, sys.maxsize),  # what a message can say
            log_name=work.log_name,
            name=work.owner.name,
            call=work.call,
        )

    def unclaim(self, entry: Entry) -> None:
        """Let the owner cancel a job again that came back from a worker."""
        work = self._work[entry.job_id]
        work.claimed = False
        work.owner.unclaim()

    def started(self, entry: Entry) -> None:
        """Tell the owner that its job runs."""
        work = self._work.get(entry.job_id)
        if work is not None:
            work.owner.started()

    def progressed(self, entry: Entry | None, said: JobProgressed) -> None:
        """Tell the owner how far its job has come, if it has not ended meanwhile."""
        work = self._work.get(entry.job_id) if entry else None
        if work is not None:
            self._spilled(work, said.name)
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
        return work is not None and work.followed

    def record(self, entry: Entry | None, packed: bytes) -> None:
        """A job has logged something."""
        work = self._work.get(entry.job_id) if entry else None
        if work is not None:
            self._records.take(packed, work.job_id, work.owner.name)
        else:
            self._records.take(packed, 0, "")

    def run_again(self, entry: Entry, verdict: Verdict, facts: Facts) -> None:
        """Drop what the last attempt had written; another one follows."""
        work = self._work[entry.job_id]
        ending = _ending(work, verdict, facts, entry.attempt - 1)
        work.spilled = ""
        self.tell(
            "job %s failed (%s): attempt %d follows",
            work.owner.name,
            verdict.value,
            entry.attempt,
        )
        work.owner.attempted(entry.attempt)
        self.later(lambda: discard(ending, self._directory, self._held))

    def settle(self, entry: Entry, verdict: Verdict, facts: Facts) -> None:
        """Hand the job to the settling thread: it is over."""
        work = self._work.pop(entry.job_id)
        if verdict is Verdict.CANCELLED:
            self.later(work.owner.come_back)
            return
        owner, ending, said = work.owner, _ending(work, verdict, facts, entry.attempt), facts.said
        if said is not None and self.verbose:
            self._spilled(work, said.name)
            sealed = "the output of job %s is sealed: %d bytes in %d chunks"
            self.tell(sealed, owner.name, said.size, said.chunks)

        self.later(functools.partial(self._settle, owner, ending))

    def _settle(self, owner: Owner, ending: Ending) -> None:
        log = log_of(ending, self._directory)
        value, error = outcome_of(ending, log, self._directory)
        output = output_of(ending, self._directory, self._held, complete=error is None)
        owner.settle(value, error, output, log)

    def drop(self, said: JobEnded) -> None:
        """Remove what came of an attempt that nobody waits for."""
        for name in filter(None, (said.name, said.value_name)):
            self._directory.remove_file(name)

    def remove_scratch(self, prefix: str) -> None:
        """Remove the scratch directories of a dead worker."""

        def remove() -> None:
            for path in self._directory.path.glob(f"{prefix}*"):
                self._directory.remove_scratch(path)

        self.later(remove)

    def tell(self, message: str, *arguments: object) -> None:
        """Log something that only a user wants to hear who has asked for it."""
        if self.verbose:
            self.later(lambda: _logger.info(message, *arguments))

    def _spilled(self, work: Work, name: str) -> None:
        if name and not work.spilled:
            path = self._directory.path / name
            self.tell("the output of job %s goes on in %s", work.owner.name, path)
        work.spilled = name

    def later(self, act: Callable[[], object]) -> None:
        """Have something done by the settling thread, after `flush`."""
        self._round.append(act)

    def flush(self) -> None:
        """Hand over what came together: one change of threads for many jobs."""
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


def _ending(work: Work, verdict: Verdict, facts: Facts, attempt: int) -> Ending:
    said, exitcode, reason = facts
    return Ending(
        work.job_id,
        work.owner,
        attempt,
        verdict,
        work.timeout,
        exitcode,
        said,
        work.spilled,
        work.log_name,
        reason,
    )
