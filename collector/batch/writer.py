"""Make or continue a batch directory: tell what is to run, and store what has ended.

`collect(batch=)` and `collector run -o` both write through this. The calls, in their order:
`open`, for each input `task`, for each attempt that ended `store`, after one or more of them
`flush`, and in the end `close`.

Runs in:    the process that runs the batch; `task` in one thread, the rest in another one.
Owns:       the lock of one shard, and all that is written there.
Invariants: I1  a result is in its place before the journal says so; what the journal does not say
                is not there.
            I2  an attempt that cannot be stored leaves no line and uses up no number.
            I3  each key is a task once in a run: what comes again has a key of its own.
            I4  nothing of an earlier process is left that no line speaks of, once a writer has
                opened its shard.
"""

import contextlib
import errno
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Self, final

from collector.batch import lines
from collector.batch.directory import SHARD_NAME, BatchDirectory, BatchFacts, What, refused
from collector.batch.history import History
from collector.batch.keeping import WRITER_NAME, Keeper, ShardLock
from collector.batch.keys import Keys, input_text, key_text
from collector.batch.leftovers import remove_leftovers
from collector.batch.lines import Ended, Saved, Where
from collector.batch.remarks import compare, refuse_others, say_what_is_there
from collector.batch.shard import RUN_NAME, Shard
from collector.batch.states import Resume, State, runs
from collector.batch.storing import Attempt, Storing
from collector.batch.table import Line
from collector.errors import BatchError, SpillError
from collector.logger import PackageLogger
from collector.settings import VERSION
from collector.store.absolute import absolute_path
from collector.store.output.digest import has_mark
from collector.store.output.output import Output, publish
from collector.store.output.target import refuse_taken
from collector.store.rundir.owner import write_owner

_logger = PackageLogger()
_POSITIONS_BYTES: Final = 64 * 1024


class Options(NamedTuple):
    """How a batch directory is written to.

    Attributes:
        resume: What is done with the results that are there.
        durable: Have everything on the disk before it counts as done.
        keep_failed: Keep the outputs of failed attempts of jobs that have succeeded.
        shard: The name of the shard to write.
        base: Where relative names of saved files begin; "" for the working directory of now.
    """

    resume: Resume = Resume.FAILED
    durable: bool = False
    keep_failed: bool = False
    shard: str = "0"
    base: str = ""


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


class _Told(NamedTuple):
    """An attempt whose line is in the journal, and where."""

    row: int
    at: int
    ended: Ended


@final
class BatchWriter:
    """Writes one shard of a batch. A context manager.

    Attributes:
        directory: The batch's.
        history: What was known when it was opened, and what has been stored since.
    """

    def __init__(
        self, directory: BatchDirectory, facts: BatchFacts, lock: ShardLock, options: Options
    ) -> None:
        self.directory = directory
        self.facts = facts
        self.options = options
        self._lock = lock
        self._keys = Keys(facts.what.name)
        self._run_states = frozenset(state for state in State if runs(state, options.resume))
        self._mutex = threading.RLock()
        self._repeated: dict[bytes, int] = {}
        self._positions = bytearray()
        self._waiting: list[tuple[int, Ended]] = []
        self._seq = 0
        self.history = History(directory)
        self._number, self._shard = self._own_shard()
        self._keeper: Keeper | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        what: What,
        options: Options = Options(),  # noqa: B008 - nobody can change it
        *,
        inputs: int | None = None,
    ) -> Self:
        """Make or continue a batch directory.

        Args:
            path: Of the directory; it is made if it is missing or empty.
            what: Is run.
            options: How it is written to.
            inputs: How many there are, if that is known.

        Raises:
            BatchError: It is no batch directory, or another's, or runs something else, or another
                process writes into that shard, or it cannot be written to.
            ValueError: The shard has no name that a directory can have.
        """
        if not SHARD_NAME.fullmatch(options.shard):
            raise ValueError(f"a shard cannot be called {options.shard!r}")
        with contextlib.ExitStack() as undo:
            opened = BatchDirectory.open(path, make=True, base=options.base)
            directory = undo.enter_context(opened)
            refuse_others(directory)
            facts = directory.facts() or directory.begin(what, time.time())
            compare(facts.what, what, directory.path)
            lock = ShardLock(directory, options.shard)
            undo.callback(lock.drop)
            writer = cls(directory, facts, lock, options)
            undo.callback(writer.history.close)
            writer._begin(what, inputs)
            undo.pop_all()
        return writer

    @property
    def run_root(self) -> str:
        """Path of a temp root in this shard: what lies there is stored by a rename.

        Raises:
            BatchError: It cannot be made.
        """
        path = os.path.join(self._shard.path, RUN_NAME)
        try:
            os.makedirs(path, 0o700, exist_ok=True)
        except OSError as error:
            raise refused(error, path) from error
        return path

    def task(
        self,
        value: object,
        text: bytes | None = None,
        name: str = "",
        place: tuple[str, int] | None = None,
    ) -> Task:
        """Tell what becomes of an input; each input of the run once, in their order.

        Args:
            value: The input.
            text: Its key text, if that is not to be made of the input itself.
            name: Of its job, for people.
            place: The key of its job and its position, where they are known: of inputs that the
                directory has told itself.

        Raises:
            TypeError: The input has no key text.
        """
        with self._mutex:
            table = self.history.table
            if place is None:
                text = key_text(value) if text is None else text
                seq, self._seq = self._seq, self._seq + 1
                digest = first = self._keys.digest(text)
                met = table.meet(int.from_bytes(digest, "big"), seq)
                while met is None:
                    earlier = self._repeated[first] = self._repeated.get(first, 0) + 1
                    digest = self._keys.digest(text, earlier)
                    met = table.meet(int.from_bytes(digest, "big"), seq)
                key = digest.hex()
            else:
                key, seq = place
                met = table.meet(int(key, 16), seq)
                assert met is not None  # a directory tells of each job once
            row, state, moved = met
            if moved and (state is not State.WAITING or table.is_lost(row)):
                self._told(lines.Position(key, seq))
        runs = state in self._run_states
        return Task(key, row, seq, input_text(value) if runs else "", runs, state, name)

    def read(self, task: Task) -> None:
        """Have the journal know of an input before it has run, with its text.

        Raises:
            SpillError: It cannot be written.
        """
        with self._mutex:
            self._told(lines.Position(task.key, task.seq, task.name, task.input))

    def attempts(self, task: Task) -> int:
        """Return how many attempts of a job have ended, in all runs."""
        return self.history.table.attempts(task.row)

    def started(self, task: Task, at: float) -> None:
        """An attempt has run for a while; never raises: the line is for people."""
        with self._mutex, contextlib.suppress(SpillError):
            number = self.attempts(task) + 1
            event = lines.Started(task.key, number, task.seq, at, task.name, task.input)
            self._append(event)
            self.history.table.started(task.row)

    def spent(self, key: str, meters: Mapping[str, float]) -> None:
        """Attempts that leave no line have counted so much; never raises, as a disk may be full."""
        with self._mutex, contextlib.suppress(SpillError):
            self._append(lines.Spent(key, meters))

    def store(self, task: Task, attempt: Attempt) -> None:
        """Put the bytes of an attempt in their places; it counts once `flush` has returned.

        Raises:
            SpillError: They cannot be written, and nothing of them is left.
            OutputLostError: They cannot be read.
            OSError: The name that the user wants the output to have cannot be had.
        """
        with self._mutex:
            with Storing(self._writing) as storing:
                ended = self._put(storing, task, attempt)
                told = [] if self.options.durable else self._tell([(task.row, ended)])
            if self.options.durable:
                self._waiting.append((task.row, ended))
            self._take_in(told)

    def flush(self) -> None:
        """Make what was stored count; with `durable`, once it is on the disk.

        Raises:
            SpillError: It cannot be; none of it counts, and nothing of it is left.
        """
        with self._mutex:
            waiting, self._waiting = self._waiting, []
            if not waiting:
                return
            try:
                with Storing(self._writing) as storing:
                    for _, ended in waiting:
                        storing.take_back(ended.out, ended.log, ended.value)
                    self._writing.sync()
                    told = self._tell(waiting)
            except SpillError:
                for _, ended in waiting:
                    if ended.meters:
                        self.spent(ended.key, ended.meters)
                raise
            self._take_in(told)

    def close(self, how: str = "complete") -> None:
        """Let others write; any number of times. Never raises.

        Args:
            how: The run has ended, for people.
        """
        with self._mutex:
            keeper, self._keeper = self._keeper, None
            if keeper is not None:
                left = b"" if keeper.leaves else lines.encode(lines.Left(time.time(), how))
                with contextlib.suppress(SpillError):
                    keeper.append(bytes(self._positions) + left)
                with contextlib.suppress(OSError):
                    os.unlink(WRITER_NAME, dir_fd=self._shard.fd)
                keeper.close()
            self.directory.close()
            self._lock.drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        self.close("complete" if kind is None else "broken off")

    @property
    def _writing(self) -> Keeper:
        if self._keeper is None:
            raise BatchError(
                errno.EBADF, "the batch directory is not open any more", self.directory.path
            )
        return self._keeper

    def _own_shard(self) -> tuple[int, Shard]:
        for number, shard in enumerate(self.history.shards):
            if shard.name == self.options.shard:
                shard.keep()
                return number, shard
        raise BatchError(errno.ENOENT, "others remove its shard", self.directory.path)

    def _begin(self, what: What, inputs: int | None) -> None:
        history, findings, path = self.history, self.history.findings, self.directory.path
        counts = history.table.counts()
        results = counts[State.DONE] + counts[State.FAILED]
        if self.options.resume is Resume.NEVER and results:
            message = "it has results already: take another directory, or another resume"
            raise BatchError(errno.EEXIST, message, path)
        # In a pack that is gone, or was cut, others' bytes would stand where lines promise theirs.
        pack = findings.short_packs.get(self._number, 0) + 1
        pack = max([pack, *self._shard.packs()]) + bool(findings.bad)
        end = history.ends[self._shard.name]
        keeper = self._keeper = Keeper(self._shard, end, pack, durable=self.options.durable)
        try:
            if self._number not in findings.left:
                keeper.leaves = not remove_leftovers(history, self._shard)
            with contextlib.suppress(OSError):
                os.unlink(WRITER_NAME, dir_fd=self._shard.fd)
            write_owner(self._shard.fd, WRITER_NAME)
            self._append(_run_of(what, inputs))
        except SpillError as error:
            keeper.close()
            raise refused(error, path) from error
        except BaseException:
            keeper.close()
            raise
        say_what_is_there(history, what, path)

    def _told(self, event: lines.Position) -> None:
        self._positions += lines.encode(event)
        if len(self._positions) > _POSITIONS_BYTES:
            self._append(None)

    def _append(self, event: lines.Event | None, *, sync: bool = False) -> int:
        """Write an event, and the positions that wait, which must come before it."""
        line = b"" if event is None else lines.encode(event)
        if self._positions:
            self._writing.append(bytes(self._positions))
            self._positions.clear()
        return self._writing.append(line, sync=sync) if line else 0

    def _put(self, storing: Storing, task: Task, attempt: Attempt) -> Ended:
        """Put the bytes of an attempt in their places; returns the event that is to be told."""
        waiting = sum(row == task.row for row, _ in self._waiting)
        number = self.attempts(task) + waiting + 1
        out = self._save(task, number, attempt) if attempt.save else None
        return Ended(
            task.key,
            number,
            attempt.status,
            task.seq,
            attempt.start,
            attempt.end,
            attempt.worker,
            attempt.exitcode,
            *storing.put(task.key, number, attempt, saved=out),
            attempt.meters or {},
            attempt.status == "done" and self.options.keep_failed,
            error=attempt.error,
            name=task.name,
            input=task.input,
        )

    def _tell(self, ended: list[tuple[int, Ended]]) -> list[_Told]:
        """Write the lines of attempts, all or none; with `durable`, to the disk."""
        self._append(None)
        begin = self._writing.end
        data = bytearray()
        told: list[_Told] = []
        before = {row: self._before(row) for row, _ in ended}
        for row, one in ended:
            event = one._replace(before=before[row])
            told.append(_Told(row, begin + len(data), event))
            before[row] = Where(self._shard.name, begin + len(data))
            data += lines.encode(event)
        moved = self._writing.append(bytes(data), sync=self.options.durable) - begin
        # Where locks are refused another process may have appended: the file knows.
        return [one._replace(at=one.at + moved) for one in told] if moved else told

    def _take_in(self, told: list[_Told]) -> None:
        """Believe what was told, and remove what it puts in its place."""
        for row, at, event in told:
            outdone = [] if event.attempt == 1 or event.keeps else self._outdone(row, event)
            self.history.table.ended(
                row,
                Line(self._number, at),
                event.attempt,
                succeeded=event.status == "done",
                size=event.out.size if event.out else 0,
                lost=False,
                run=len(self.history.findings.runs) + 1,
            )
            self.history.findings.ended(event.key, event.attempt)
            for name in outdone:
                self._writing.remove(name)

    def _outdone(self, row: int, event: Ended) -> list[str]:
        """Name the files of this shard that a result puts in its place, none of its own."""
        if event.status != "done":
            return []
        own = _files_of(event)
        try:
            return [
                name
                for shard, ended in self.history.attempts(row)
                if shard is self._shard
                for name in _files_of(ended)
                if name not in own
            ]
        except OSError:  # the result counts already; they go when the directory is opened next
            self._writing.leaves = True
            return []

    def _before(self, row: int) -> Where | None:
        line = self.history.table.line(row)
        return None if line is None else Where(self.history.shards[line.shard].name, line.at)

    def _save(self, task: Task, number: int, attempt: Attempt) -> Saved:
        """Give the output the name that the user wants, after having told of the file."""
        output = attempt.output or Output.in_memory(b"", chunks=0)
        ours = self._is_ours(task, attempt.save)
        path = absolute_path(self._shard.saved_path(attempt.save))
        saving = lines.Saving(task.key, number, attempt.save, output.size)

        def tell(mark: str) -> None:
            nonlocal saving
            saving = saving._replace(mark=mark)
            self._append(saving, sync=self.options.durable)

        try:
            refuse_taken(path, overwrite=ours)
            publish(output, path, overwrite=ours, sync=self.options.durable, ready=tell)
        except FileExistsError as error:
            message = f"{self._saved_by(attempt.save)} has that name: move it away"
            raise FileExistsError(errno.EEXIST, message, attempt.save) from error
        if self.options.durable:
            self._writing.sync_later(path)
        self.history.findings.saving[task.key] = saving
        return Saved(attempt.save, output.size)

    def _saved_by(self, path: str) -> str:
        """Say whose output has a name."""
        other = self.history.saved_as(path)
        return "a file of yours" if other is None else f"the output of {other.input!r}"

    def _is_ours(self, task: Task, path: str) -> bool:
        """Tell whether a file of that name is one that an earlier attempt of the job has saved."""
        begun = self.history.begun(task.key, self.attempts(task))
        known = [
            ended.out
            for _, ended in self.history.attempts(task.row)
            if isinstance(ended.out, Saved)
        ]
        where = self._shard.saved_path(path)
        if begun is not None and (begun.mark is None or has_mark(where, begun.mark)):
            known.append(Saved(begun.path, begun.size))
        return any(place.path == path and not self._shard.missing(place) for place in known)


def _files_of(event: Ended) -> list[str]:
    places = (event.out, event.log, event.value)
    return [place.name for place in places if isinstance(place, lines.Filed)]


def _run_of(what: What, inputs: int | None) -> lines.Run:
    python = ".".join(map(str, sys.version_info[:3]))
    host = os.uname().nodename
    return lines.Run(os.getpid(), host, time.time(), VERSION, python, inputs, what.source)
