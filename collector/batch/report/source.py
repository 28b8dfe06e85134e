"""What a report takes from a batch directory.

Runs in:    any process that may read the batch, also while another one writes to it.
Owns:       the descriptors of the directory.
Invariants: I1  all that is told is of one moment: what is written later is not looked at.
            I2  nothing is changed, and no lock kept. Only where the last process has not said that
                it left is a shared lock tried, to tell a running one from one that was killed.
"""

import errno
import os
import time
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple, final

from collector.batch import lines
from collector.batch.batch import Batch
from collector.batch.directory import BatchDirectory
from collector.batch.history import History
from collector.batch.keeping import is_held
from collector.batch.parts import shard_name
from collector.batch.record import AttemptRecord, Record
from collector.batch.report.record import (
    FAILED,
    INTERRUPTED,
    RUNNING,
    Attempt,
    ReportedBatch,
    ReportedJob,
    Session,
    Worker,
)
from collector.batch.report.text import TAIL_BYTES
from collector.batch.shard import Shard
from collector.batch.states import State
from collector.closable import Closable
from collector.errors import BatchError, OutputLostError


@final
class Source(Closable):
    """A batch directory, open for reports. A context manager; iterating gives its jobs.

    Attributes:
        batch: What is told of the whole.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open it.

        Raises:
            BatchError: As `Batch.open`.
        """
        directory = BatchDirectory.open(path)
        try:
            facts = directory.facts()
            if facts is None:
                message = "this is no batch directory: it is empty"
                raise BatchError(errno.ENOENT, message, directory.path)  # noqa: TRY301
            history, held = _read(directory)
        except BaseException:
            directory.close()
            raise
        self._batch: Final = Batch(directory, facts, history)
        findings = history.findings
        some_began = bool(_not_left(history)) or _some_interrupted(history)
        self._unended = _unended(history, held) if some_began else {}
        self.batch: Final = ReportedBatch(
            name=os.path.basename(directory.path) or directory.path,
            what=facts.what.name,
            time=time.time(),
            inputs=findings.inputs,
            is_running=bool(held),
            sessions=tuple(
                Session(run.time, run.host, run.version, run.python)
                for _, run in sorted(findings.runs, key=lambda of: of[1].time)
            ),
            meters=dict(sorted(findings.meters.items())),
            unreadable=findings.bad,
        )

    def __iter__(self) -> Iterator[ReportedJob]:
        for record in self._batch:
            yield self._job(record)

    @property
    def is_all_done(self) -> bool:
        """Whether no job has failed, and none is left to do, as far as is known."""
        counts = self._batch.status(0)
        return not any(counts[state.value] for state in State if state is not State.DONE)

    def close(self) -> None:
        """Let go of all descriptors; any number of times."""
        self._batch.close()

    def _job(self, record: Record) -> ReportedJob:
        begun, last = self._unended.get(record.key), record.last
        if begun is not None and not begun.runs and last is not None and begun.time < last.start:
            begun = None  # another shard has run it since
        status = record.status
        if begun is not None and begun.runs and status in {FAILED, INTERRUPTED}:
            status = RUNNING
        return ReportedJob(
            key=record.key,
            name=record.name or record.input or record.key,
            input=record.input,
            status=status,
            attempts=tuple(map(_attempt, record.attempts)),
            meters=record.meters,
            since=None if begun is None else begun.time,
            log_tail=lambda: _tail(last),
        )


def _attempt(record: AttemptRecord) -> Attempt:
    error = record.details.error
    shard = record._shard.name  # noqa: SLF001 - who else reads an attempt need not know it
    shard = "" if shard == shard_name(None) else shard
    return Attempt(
        number=record.number,
        status=record.status,
        start=record.start,
        end=record.end,
        worker=None if record.worker is None else Worker(shard, record.worker),
        exitcode=record.exitcode,
        size=record.size,
        kind=error.kind if error else "",
        error=error.text if error else "",
        traceback=record.traceback,
    )


def _tail(record: AttemptRecord | None) -> bytes:
    """Read the end of a log; one that is not all there says so in its place."""
    if record is None:
        return b""
    try:
        with record.log() as log, log.open() as file:
            file.seek(max(0, log.size - TAIL_BYTES))
            return file.read(TAIL_BYTES)
    except (OutputLostError, OSError) as error:
        return f"(its log cannot be read: {error})".encode("utf-8", "surrogateescape")


def _read(directory: BatchDirectory) -> tuple[History, set[str]]:
    """Read the journals, and tell in which shards a process writes that they tell of.

    One that has ended since they were read may have said how its jobs ended: they are read again.
    """
    known: dict[str, int] = {}
    while True:
        history = History(directory)
        held = {shard.name for shard in _not_left(history) if is_held(shard)}
        gone = [shard for shard in _not_left(history) if shard.name not in held]
        # What stays behind the last whole line is a torn one, of a process that was killed.
        ends = history.ends
        grown = {s.name: ends[s.name] for s in gone if s.journal_size() > ends[s.name]}
        if not grown or grown == known:
            return history, held
        known = grown
        history.close()


def _not_left(history: History) -> list[Shard]:
    """Return the shards whose last process has not said that it left."""
    left = history.findings.left
    return [shard for number, shard in enumerate(history.shards) if number not in left]


def _some_interrupted(history: History) -> bool:
    return history.table.counts()[State.INTERRUPTED] > 0


class _Begun(NamedTuple):
    """When an attempt began that has not ended, and whether the process lives that began it."""

    time: float
    runs: bool


def _unended(history: History, held: Collection[str]) -> dict[str, _Begun]:
    """Return the attempts that have started and not ended, by the keys of their jobs.

    Args:
        history: Of the batch.
        held: Names of the shards in which a process writes. What one before it had started there
            has ended with that.
    """
    found: dict[str, _Begun] = {}
    for shard in history.shards:
        here: dict[str, float] = {}
        for event in history.events(shard, history.ends[shard.name]):
            if isinstance(event, lines.Started):
                here[event.key] = event.time
            elif isinstance(event, lines.Run):
                here.clear()
            elif isinstance(event, lines.Ended):
                here.pop(event.key, None)
                if event.key in found and not found[event.key].runs:
                    del found[event.key]
        runs = shard.name in held
        found |= {key: _Begun(at, runs) for key, at in here.items() if runs or key not in found}
    return found
