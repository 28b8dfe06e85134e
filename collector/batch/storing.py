"""Put the bytes of attempts in their places, and tell of them; or take all of them back.

Attempts count in groups: the small bytes of all are one append to a pack, their lines one append
to the journal. At each append another thread gets the interpreter, and gives it back late: that
was most of what storing took (docs/decisions/0020).

Runs in:    the process that writes a batch, in one thread at a time.
Owns:       what was put and does not count yet.
Invariants: I1  a result is in its place before the journal says so; what the journal does not say
                is not there.
            I2  an attempt that cannot be stored leaves no line, no file, no part of a pack, and
                uses up no number; the others of its group count all the same. But what a line
                tells of that cannot be taken back is left to that line.
            I3  a disk that has refused to sync is believed: none of the group counts.
"""

import contextlib
import errno
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from collector.batch import lines
from collector.batch.history import History, name_of
from collector.batch.keeping import Keeper
from collector.batch.lines import Ended, Error, Filed, Packed, Place, Saved, Where
from collector.batch.shard import Shard
from collector.batch.states import State
from collector.batch.table import Line
from collector.errors import SpillError
from collector.settings import PACKED_BYTES, STORED_BYTES, SYNCED_TOGETHER
from collector.store.absolute import absolute_path
from collector.store.output.digest import has_mark
from collector.store.output.output import Output, publish
from collector.store.output.target import refuse_taken


@final
@dataclass(slots=True)
class Task:
    """An input of this run.

    Attributes:
        key: Of its job.
        row: Of its job, in the table.
        seq: Its position, from 0.
        input: Its text; "" if it is not to be run: of a million inputs that takes a while.
        runs: Whether it is to be run; else its result is there.
        state: Of its job, before this run.
        name: Of its job, for people.
        save: The name that its output is to have; "" for none.
        refused: Why that cannot be had.
    """

    key: str
    row: int
    seq: int
    input: str
    runs: bool
    state: State
    name: str = ""
    save: str = ""
    refused: Exception | None = None


@final
@dataclass(slots=True, kw_only=True)
class Attempt:
    """How an attempt has ended.

    Attributes:
        status: One of `lines.STATUSES`.
        start: Seconds since the epoch, as `end`.
        worker: Number of the worker that ran it.
        exitcode: Of the process, if one died: a negative one is a signal.
        error: Why it failed.
        meters: What it has counted.
        output: What it wrote; from then on it reads from where it is stored.
        log: What it printed.
        value: The pickled value, or the pickled exception; b"" for none.
        save: The name that the user wants the output to have; "" for none.
    """

    status: str
    start: float
    end: float
    worker: int | None = None
    exitcode: int | None = None
    error: Error | None = None
    meters: Mapping[str, float] | None = None
    output: Output | None = None
    log: Output | None = None
    value: bytes = b""
    save: str = ""


@final
@dataclass(slots=True)
class Put:
    """An attempt whose large bytes are in their places, and that does not count yet.

    Attributes:
        row: Of its job.
        ended: What is to be told; its small bytes have no place there.
        small: These, by what they are: "out", "log", "value".
        counts: Whether its line is in the journal.
        failure: Why it is not, once its group was stored.
    """

    row: int
    ended: Ended
    small: dict[str, bytes]
    counts: bool = False
    failure: BaseException | None = None


@final
class Storing:
    """Stores attempts in one shard.

    Args:
        keeper: Writes there.
        history: Is told of what counts.
        shard: The same shard, as one of the history's.
        durable: Have everything on the disk before it counts.
        table_lock: Is held while the table is changed.
    """

    def __init__(
        self,
        keeper: Keeper,
        history: History,
        shard: Shard,
        *,
        durable: bool,
        table_lock: threading.RLock,
    ) -> None:
        self.keeper = keeper
        self._history = history
        self._shard = shard
        self._number = history.shards.index(shard)
        self._durable = durable
        self._table_lock = table_lock
        self._waiting: dict[int, Put] = {}
        """By the row of the job."""
        self._waiting_bytes = 0

    def put(self, task: Task, attempt: Attempt, *, keeps: bool) -> Put:
        """Put the large bytes of an attempt in their places; it counts after `count`.

        Args:
            task: Of its job.
            attempt: How it has ended.
            keeps: Whether the outputs of earlier attempts are kept.

        Raises:
            SpillError: They cannot be written, and nothing of them is left.
            OutputLostError: They cannot be read.
            OSError: The name that the user wants the output to have cannot be had.
        """
        if (
            task.row in self._waiting  # the number of the attempt follows from it
            or self._waiting_bytes > STORED_BYTES
            or self.keeper.unsynced > SYNCED_TOGETHER
        ):
            self.count()
        number = self._history.table.attempts(task.row) + 1
        out: Place | None = None
        if attempt.save:
            number, out = self._save(task, number, attempt)
        places, small = self._place(task.key, number, attempt, saved=out)
        ended = Ended(
            task.key,
            number,
            attempt.status,
            task.seq,
            attempt.start,
            attempt.end,
            attempt.worker,
            attempt.exitcode,
            places["out"],
            places["log"],
            places["value"],
            attempt.meters or {},
            keeps,
            error=attempt.error,
            name=task.name,
            input=task.input,
        )
        put = self._waiting[task.row] = Put(task.row, ended, small)
        self._waiting_bytes += sum(map(len, small.values()))
        return put

    def refuse_taken(self, task: Task, name: str) -> None:
        """Make sure that the output of a job can get a name, as far as can be seen now.

        Raises:
            FileExistsError: Something that is not its own has the name.
            OSError: It cannot be had.
        """
        path = absolute_path(self._shard.saved_path(name))
        try:
            refuse_taken(path, overwrite=self._is_ours(task, name))
        except FileExistsError as error:
            self._saved_elsewhere(task, name, error)

    @property
    def waits(self) -> bool:
        """Whether something was put that does not count yet: files of it are left then."""
        return bool(self._waiting)

    def count(self) -> list[Put]:
        """Make what was put count; with `durable`, once it is on the disk.

        Returns:
            What was put: each says whether it does, also if this raises.
        """
        group, self._waiting = [*self._waiting.values()], {}
        self._waiting_bytes = 0
        self.keeper.has_refused_sync = False  # only what was put before the refusal may be lost
        if group:
            self._count(group)
        return group

    def tell(self, event: lines.Event, *, sync: bool = False) -> None:
        """Write a line.

        Raises:
            SpillError: It cannot be written.
        """
        self.keeper.append_later()
        self.keeper.append(lines.encode(event), sync=sync)

    def _place(
        self, key: str, number: int, attempt: Attempt, *, saved: Place | None
    ) -> tuple[dict[str, Place | None], dict[str, bytes]]:
        """Move what is large into files; returns the places, and what is small."""
        places: dict[str, Place | None] = {"out": saved, "log": None, "value": None}
        small: dict[str, bytes] = {}
        value = Output.in_memory(attempt.value, chunks=1) if attempt.value else None
        wanted = {"out": None if saved else attempt.output, "log": attempt.log, "value": value}
        try:
            for kind, output in wanted.items():
                if output is None or not output.size:
                    continue
                if output.size < PACKED_BYTES:
                    small[kind] = output.read()
                else:
                    places[kind] = self.keeper.file(output, key, number, kind)
        except BaseException:
            self._remove(places.values())
            raise
        return places, small

    def _count(self, group: Sequence[Put]) -> None:
        try:
            self._count_together(group)
        except SpillError as error:
            if len(group) == 1 or self.keeper.has_refused_sync:
                self._fail(group, error)
                return
            for put in group:  # a full disk may take some of them
                self._count([put])
        except BaseException as error:
            self._fail(group, error)
            raise

    def _fail(self, group: Sequence[Put], error: BaseException) -> None:
        for put in group:
            if put.counts:  # its line is written: what is told of is not to go
                continue
            put.failure = error
            self._remove((put.ended.out, put.ended.log, put.ended.value))
            if put.ended.meters:  # what was spent is told all the same
                with contextlib.suppress(SpillError):
                    self.tell(lines.Spent(put.ended.key, put.ended.meters))

    def _count_together(self, group: Sequence[Put]) -> None:
        packed = self._pack(group)
        try:
            if self._durable:
                self.keeper.sync()
            places = self._tell(group)
        except BaseException:
            if packed is not None and not self.keeper.is_uncut:
                self.keeper.cut(packed)
            raise
        for put in group:
            put.counts = True
        for put, at in zip(group, places, strict=True):
            self._take_in(put, at)

    def _pack(self, group: Sequence[Put]) -> Packed | None:
        """Append the small bytes of all; returns where they are, if there are any."""
        data = b"".join(piece for put in group for piece in put.small.values())
        if not data:
            return None
        packed = self.keeper.pack(data)
        at = packed.at
        for put in group:
            ended = put.ended
            places: dict[str, Place | None] = {
                "out": ended.out,
                "log": ended.log,
                "value": ended.value,
            }
            for kind, piece in put.small.items():
                places[kind] = Packed(packed.pack, at, len(piece))
                at += len(piece)
            put.ended = ended._replace(out=places["out"], log=places["log"], value=places["value"])
        return packed

    def _tell(self, group: Sequence[Put]) -> list[int]:
        """Write the lines of attempts, all or none; returns where each is."""
        self.keeper.append_later()
        data = bytearray()
        begins: list[int] = []
        for put in group:
            if put.ended.attempt > 1:
                put.ended = put.ended._replace(before=self._before(put.row))
            begins.append(len(data))
            data += lines.encode(put.ended)
        at = self.keeper.append(bytes(data), sync=self._durable)
        return [at + begin for begin in begins]

    def _take_in(self, put: Put, at: int) -> None:
        """Believe what was told, and remove what it puts in its place."""
        event = put.ended
        outdone = [] if event.attempt == 1 or event.keeps else self._outdone(put.row, event)
        with self._table_lock:
            self._history.table.ended(
                put.row,
                Line(self._number, at),
                event.attempt,
                succeeded=event.status == "done",
                size=event.out.size if event.out else 0,
                lost=False,
                run=len(self._history.findings.runs) + 1,
                is_last=True,
            )
        self._history.findings.ended(event.key, event.attempt)
        for name in outdone:
            self.keeper.remove(name)

    def _outdone(self, row: int, event: Ended) -> list[str]:
        """Name the files of this shard that a result puts in its place, none of its own."""
        if event.status != "done":
            return []
        own = _files_of(event)
        try:
            return [
                name
                for shard, ended in self._history.attempts(row)
                if shard is self._shard
                for name in _files_of(ended)
                if name not in own
            ]
        except OSError:  # the result counts already; they go when the directory is opened next
            self.keeper.leaves = True
            return []

    def _before(self, row: int) -> Where | None:
        line = self._history.table.line(row)
        return None if line is None else Where(self._history.shards[line.shard].name, line.at)

    def _save(self, task: Task, number: int, attempt: Attempt) -> tuple[int, Saved]:
        """Give the output the name that the user wants; returns the number of the attempt, too.

        Shards of another split may have run the job since the journals were read: what they have
        saved is replaced, by an attempt that follows theirs.
        """
        try:
            ours = self._is_ours(task, attempt.save)
            return number, self._publish(task, number, attempt, overwrite=ours)
        except FileExistsError as error:
            number = max(number, self._saved_elsewhere(task, attempt.save, error) + 1)
            return number, self._publish(task, number, attempt, overwrite=True)

    def _saved_elsewhere(self, task: Task, name: str, error: FileExistsError) -> int:
        """Return the number of the attempt of a job by which another shard has taken its name.

        Raises:
            FileExistsError: Something else has it.
        """
        other = self._history.saved_as(name)
        if other is not None and other.key == task.key and self._has_name(other):
            return other.attempt
        message = f"{self._said(other)} has that name: move it away"
        raise FileExistsError(errno.EEXIST, message, name) from error

    def _said(self, event: Ended | lines.Saving | None) -> str:
        """Say whose output has a name."""
        if isinstance(event, Ended):
            return f"the output of {event.input!r}"
        if event is not None and self._has_name(event):
            return f"the output of the job with the key {event.key}"
        return "a file of yours"

    def _publish(self, task: Task, number: int, attempt: Attempt, *, overwrite: bool) -> Saved:
        """Give the output that name, after having told of the file."""
        output = attempt.output or Output.in_memory(b"", chunks=0)
        path = absolute_path(self._shard.saved_path(attempt.save))
        saving = lines.Saving(task.key, number, attempt.save, output.size)

        def tell(mark: str) -> None:
            nonlocal saving
            saving = saving._replace(mark=mark)
            self.tell(saving, sync=self._durable)

        refuse_taken(path, overwrite=overwrite)
        publish(output, path, overwrite=overwrite, sync=self._durable, ready=tell)
        if self._durable:
            self.keeper.sync_later(path)
        self._history.findings.saving[task.key] = saving
        return Saved(attempt.save, output.size)

    def _has_name(self, event: Ended | lines.Saving) -> bool:
        """Tell whether what an attempt has saved, or was about to, is what has its name."""
        if isinstance(event, Ended):
            return isinstance(event.out, Saved) and not self._shard.missing(event.out)
        known = Saved(event.path, event.size)
        if event.mark is not None and not has_mark(self._shard.saved_path(known.path), event.mark):
            return False
        return not self._shard.missing(known)

    def _is_ours(self, task: Task, path: str) -> bool:
        """Tell whether a file of that name is one that an earlier attempt of the job has saved."""
        begun = self._history.begun(task.key, self._history.table.attempts(task.row))
        known = [ended for _, ended in self._history.attempts(task.row)]
        return any(
            isinstance(event, lines.Saving | Ended)
            and name_of(event) == path
            and self._has_name(event)
            for event in [begun, *known]
        )

    def _remove(self, places: Iterable[Place | None]) -> None:
        if self.keeper.is_uncut:
            self.keeper.leaves = True
            return
        for place in places:
            if isinstance(place, Filed):
                self.keeper.remove(place.name)


def _files_of(event: Ended) -> list[str]:
    places = (event.out, event.log, event.value)
    return [place.name for place in places if isinstance(place, lines.Filed)]
