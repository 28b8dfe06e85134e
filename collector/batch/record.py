"""What a batch directory says of one job, and of each of its attempts.

Runs in:    any process that reads a batch.
Owns:       nothing: its batch has the directory open.
Invariants: I1  bytes are read when they are asked for, and are exact or an `OutputLostError`.
            I2  nothing is unpickled from a directory in which others may have written.
"""

import contextlib
import errno
import pickle
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, final

from collector.batch.history import History
from collector.batch.lines import Ended, Place, Saved
from collector.batch.scan import meters_of
from collector.batch.shard import Shard
from collector.batch.states import Resume, State, why
from collector.errors import BatchError, JobError, OutputLostError
from collector.process.pickling.calls import load_exception
from collector.store.output.output import Output

T = TypeVar("T")

_LOOKS: Final = 3
"""So often what is lost is looked for, which a running process may be replacing."""

_STATUS_TEXT: Final = {
    "error": "it failed",
    "crash": "its process died",
    "timeout": "it ran longer than its time-out",
    "killed": "it was killed",
    "oom": "it ran out of memory",
}
_OF_COMMANDS: Final = frozenset({"CommandError", "CommandTimeoutError"})
"""Errors whose text is all that there is to say; nobody knows their names."""


@final
class AttemptRecord:
    """One attempt that has ended.

    Attributes:
        number: The first is 1.
        status: "done", "error", "crash", "timeout", "killed" or "oom".
        start: Seconds since the epoch, as `end`.
        worker: Number of the worker that ran it, if it is known.
        exitcode: Of the process, if one died: a negative one is a signal.
        error: Why it failed, in a line; None if it has not.
        traceback: The traceback of the exception; "" if there is none.
        meters: What it has counted.
        size: Bytes of its output.
        kept: Whether its output and log are still there: they go when a later attempt succeeds.
    """

    __slots__ = (
        "_ended",
        "_shard",
        "end",
        "error",
        "exitcode",
        "kept",
        "meters",
        "number",
        "size",
        "start",
        "status",
        "traceback",
        "worker",
    )

    def __init__(self, shard: Shard, ended: Ended, *, kept: bool) -> None:
        self._shard = shard
        self._ended = ended
        self.number: Final = ended.attempt
        self.status: Final = ended.status
        self.start: Final = ended.start
        self.end: Final = ended.end
        self.worker: Final = ended.worker
        self.exitcode: Final = ended.exitcode
        self.error: Final = _error_line(ended)
        self.traceback: Final = ended.error.traceback if ended.error else ""
        self.meters: Final = ended.meters
        self.size: Final = ended.out.size if ended.out else 0
        self.kept: Final = kept

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return max(0.0, self.end - self.start)

    def output(self) -> Output:
        """Return what it wrote; of an attempt that failed, as far as it came.

        Raises:
            OutputLostError: It is not all there, or was dropped since a later attempt succeeded.
        """
        lost = "the output is lost: a later attempt has replaced it"
        return self._part(self._ended.out, lost)

    def log(self) -> Output:
        """Return what it printed; raises as `output`."""
        lost = "what the job printed is lost: a later attempt has replaced it"
        return self._part(self._ended.log, lost)

    def pickled(self) -> bytes:
        """Return the pickled value, or the pickled exception; raises as `output`."""
        return self._shard.read(self._ended.value)

    def _part(self, place: Place | None, lost: str) -> Output:
        if place is not None and not self.kept:
            # A pack has the bytes still; under a name of the user's may be those of another one.
            path = place.path if isinstance(place, Saved) else ""
            raise OutputLostError(errno.ENOENT, lost, path)
        return self._shard.output(place, complete=self.status == "done")

    @property
    def places(self) -> tuple[Place | None, Place | None, Place | None]:
        """Where output, log and value lie."""
        return self._ended.out, self._ended.log, self._ended.value

    @property
    def details(self) -> Ended:
        """All that its line says."""
        return self._ended


@final
class Record:
    """One job of a batch.

    Attributes:
        key: 32 hexadecimal digits; the same in every run.
        name: Of the job, as it was in the run that the record is of.
        input: The text of its input.
        seq: Position of the input in the last run that has met it, from 0.
        status: "done", "failed", "interrupted" or "waiting".
        attempts: Those that have ended, the first one first.
    """

    __slots__ = (
        "_history",
        "_spent",
        "_trusted",
        "attempts",
        "input",
        "key",
        "name",
        "seq",
        "status",
    )

    def __init__(  # noqa: PLR0913 - what a job is
        self,
        key: str,
        name: str,
        text: str,
        seq: int,
        state: State,
        attempts: tuple[AttemptRecord, ...],
        *,
        trusted: bool,
        history: History,
    ) -> None:
        self.key: Final = key
        self.name: Final = name
        self.input: Final = text
        self.seq: Final = seq
        self.status: Final = state.value
        self.attempts: Final = attempts
        self._trusted = trusted
        self._history = history
        self._spent = history.spent(key)

    @property
    def last(self) -> AttemptRecord | None:
        """The last attempt that has ended."""
        return self.attempts[-1] if self.attempts else None

    @property
    def error(self) -> str | None:
        """Why its last attempt failed, in a line; None if it has not."""
        return self.last.error if self.last and self.status == State.FAILED.value else None

    @property
    def start(self) -> float | None:
        """When its last attempt started, in seconds since the epoch."""
        return self.last.start if self.last else None

    @property
    def end(self) -> float | None:
        """When its last attempt ended, in seconds since the epoch."""
        return self.last.end if self.last else None

    @property
    def worker(self) -> int | None:
        """Number of the worker that ran its last attempt, if it is known."""
        return self.last.worker if self.last else None

    @property
    def seconds(self) -> float:
        """How long all its attempts ran together."""
        return sum(attempt.seconds for attempt in self.attempts)

    @property
    def size(self) -> int:
        """Bytes of its output."""
        return self.last.size if self.last else 0

    @property
    def meters(self) -> Mapping[str, float]:
        """What all its attempts have counted together, also those that are not listed.

        These have asked to be made later, were ended with the run, or could not be stored.
        """
        return meters_of((self._spent, *(attempt.meters for attempt in self.attempts)))

    def output(self) -> Output:
        """Return what its last attempt wrote; empty if none has ended.

        Where a running process has replaced that since the batch was opened, it is what the later
        attempt wrote; likewise for `log` and `value`.

        Raises:
            OutputLostError: It is not all there.
        """
        return self._of(self.last, AttemptRecord.output) if self.last else _nothing()

    def log(self) -> Output:
        """Return what its last attempt printed; raises as `output`."""
        return self._of(self.last, AttemptRecord.log) if self.last else _nothing()

    def value(self) -> Any:
        """Return what its function returned, or raise what it raised.

        Raises:
            BatchError: The job has no result; or others may write in the directory, so that nothing
                of it is unpickled.
            OutputLostError: The value is not all there.
            Exception: The job's own, if it failed; and whatever unpickling raises.
        """
        error = self.exception()
        if error is not None:
            raise error
        pickled = self._own_pickle(self.last) if self.last else b""
        return pickle.loads(pickled) if pickled else None

    def exception(self) -> BaseException | None:
        """Return what its function raised, of its own type where that can be unpickled, or None.

        Raises:
            BatchError: As `value`.
        """
        last = self.last
        if last is None or self.status not in {State.DONE.value, State.FAILED.value}:
            who = f"job {self.name or self.key} ({self.input!r})"
            message = f"{who} has no result: it is {self.status}"
            raise BatchError(errno.ENODATA, message)
        if self.status == State.DONE.value:
            return None
        pickled = self._own_pickle(last)
        if pickled:
            return load_exception(pickled, 0, self.name, last.number)
        text = self.error or ""
        if last.traceback:
            text += f"\n{last.traceback}"
        return JobError(text, 0, self.name, last.number)

    def _own_pickle(self, last: AttemptRecord) -> bytes:
        if last.places[2] is None:
            return b""
        if not self._trusted:
            message = (
                "others may write in this batch directory, so nothing of it is unpickled: make it "
                "yours alone (chown, chmod go-w), or read output() and error"
            )
            raise BatchError(errno.EPERM, message)
        return self._of(last, AttemptRecord.pickled)

    def _of(self, last: AttemptRecord, read: Callable[[AttemptRecord], T]) -> T:
        """Read something of the last attempt, or of a later one that has replaced it."""
        while True:
            try:
                return read(last)
            except OutputLostError:
                done = self.status == State.DONE.value
                later = self._history.replaced_by(self.key, last.number) if done else None
                if later is None:
                    raise
                last = AttemptRecord(*later, kept=True)

    def __repr__(self) -> str:
        return f"<Record of {self.name or self.key}, {self.status}>"


def with_output(record: Record, use: Callable[[Output], T], *, log: bool = False) -> T:
    """Use the output of a job, or its log; again if that was replaced in the meantime.

    Raises:
        OutputLostError: It is not all there; and what `use` raises.
    """
    for _ in range(_LOOKS - 1):
        with contextlib.suppress(OutputLostError):
            return use(record.log() if log else record.output())
    return use(record.log() if log else record.output())


def record_of(history: History, row: int, *, trusted: bool) -> Record:
    """Return the record of a job of which an attempt has ended."""
    attempts = tuple(
        AttemptRecord(shard, ended, kept=kept) for shard, ended, kept in history.kept(row)
    )[::-1]
    key, name, text = "", "", ""
    if attempts:
        ended = attempts[-1].details
        key, name, text = ended.key, ended.name, ended.input
    return record_with(history, row, (key, name, text), attempts, trusted=trusted)


def record_with(
    history: History,
    row: int,
    known: tuple[str, str, str],
    attempts: tuple[AttemptRecord, ...],
    *,
    trusted: bool,
) -> Record:
    """Return the record of a job of which key, name and input are known."""
    seq, state = history.table.seq(row), history.table.state(row)
    return Record(*known, seq, state, attempts, trusted=trusted, history=history)


def why_of(history: History, key: str, resume: Resume) -> str:
    """Say in a sentence whether the job of a key would run, and the reason."""
    table = history.table
    row = table.find(key)
    if row is None:
        return why(State.WAITING, resume, 0)
    lost = history.missing(row) if table.is_lost(row) else ""
    sentence = why(table.state(row), resume, table.attempts(row), lost)
    found = history.attempt(row)
    error = None if found is None else _error_line(found[1])
    return f"{sentence} ({error})" if error else sentence


def _nothing() -> Output:
    return Output.in_memory(b"", chunks=0, complete=False)


def _error_line(ended: Ended) -> str | None:
    if ended.status == "done":
        return None
    if ended.error is None:
        return _STATUS_TEXT[ended.status]
    kind, text, _ = ended.error
    return text if kind in _OF_COMMANDS else f"{kind}: {text}" if text else kind
