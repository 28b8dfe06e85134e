"""Make or continue a batch directory: tell what is to run, and store what has ended.

`collect(batch=)` and `collector run -o` both write through this. The calls, in their order:
`open`, for each input `task`, for each attempt that ended `put`, after one or more of them `flush`,
and in the end `close`.

Runs in:    the process that runs the batch; `task` in one thread, the rest in another one.
Owns:       the lock of one shard, and all that is written there.
Invariants: I1  each key is a task once in a run: what comes again has a key of its own.
            I2  nothing of an earlier process is left that no line speaks of, once a writer has
                opened its shard; and no run directory of a dead one, once one has opened any.
            I3  `task` waits for the disk only when 64 KiB of lines wait.
"""

import contextlib
import errno
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple, Self, final

from collector.batch import lines
from collector.batch.directory import SHARD_NAME, BatchDirectory, BatchFacts, What, refused
from collector.batch.history import History
from collector.batch.keeping import WRITER_NAME, Keeper, ShardLock
from collector.batch.keys import Keys, input_text, key_text
from collector.batch.leftovers import remove_leftovers, remove_runs
from collector.batch.remarks import compare, refuse_others, say_what_is_there
from collector.batch.shard import RUN_NAME, Shard
from collector.batch.states import Resume, State, runs
from collector.batch.storing import Attempt, Put, Storing, Task
from collector.errors import BatchError, SpillError
from collector.logger import PackageLogger
from collector.settings import VERSION
from collector.store.rundir.owner import write_owner

_logger = PackageLogger()


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
        self._table_lock = threading.RLock()
        """Is held for moments: who reads inputs never waits for the disk."""
        self._disk_lock = threading.RLock()
        self._repeated: dict[bytes, int] = {}
        self._seq = 0
        self.history = History(directory)
        self._number, self._shard = self._own_shard()
        self._storing: Storing | None = None

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
        undo = contextlib.ExitStack()
        try:
            opened = BatchDirectory.open(path, make=True, base=options.base)
            directory = undo.enter_context(opened)
            refuse_others(directory)
            facts = directory.facts() or directory.begin(what, time.time())
            compare(facts.what, what, directory.path)
            lock = ShardLock(directory, options.shard)
            undo.callback(lock.drop)
            writer = cls(directory, facts, lock, options)
            undo.callback(writer.history.close)
            undo.callback(writer.close, lines.LEFT_EARLY)
            writer._begin(what, inputs)
            return writer  # noqa: TRY300 - a Ctrl-C may come here, too
        except BaseException:
            undo.close()
            raise

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
        with self._table_lock:
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
            tells = moved and (state is not State.WAITING or table.is_lost(row))
        if tells:
            self._told(lines.Position(key, seq))
        runs = state in self._run_states
        return Task(key, row, seq, input_text(value) if runs else "", runs, state, name)

    def read(self, task: Task) -> None:
        """Have the journal know of an input before it has run, with its text.

        Raises:
            SpillError: It cannot be written.
        """
        self._told(lines.Position(task.key, task.seq, task.name, task.input))

    def refuse_taken(self, task: Task, name: str) -> None:
        """Make sure, before a job runs, that its output can get a name of the user's.

        Raises:
            OSError: It cannot: something else has that name, say.
        """
        if os.path.lexists(self._shard.saved_path(name)):
            with self._disk_lock:
                self._writing.refuse_taken(task, name)

    def attempts(self, task: Task) -> int:
        """Return how many attempts of a job have ended, in all runs."""
        return self.history.table.attempts(task.row)

    def started(self, task: Task, at: float) -> None:
        """An attempt has run for a while; never raises: the line is for people."""
        with self._disk_lock, contextlib.suppress(SpillError):
            number = self.attempts(task) + 1
            event = lines.Started(task.key, number, task.seq, at, task.name, task.input)
            self._writing.tell(event)
            with self._table_lock:
                self.history.table.started(task.row)

    def spent(self, key: str, meters: Mapping[str, float]) -> None:
        """Attempts that leave no line have counted so much; never raises, as a disk may be full."""
        with self._disk_lock, contextlib.suppress(SpillError):
            self._writing.tell(lines.Spent(key, meters))

    def store(self, task: Task, attempt: Attempt) -> None:
        """Put the bytes of an attempt in their places; with `durable` it counts after `flush`.

        Raises:
            SpillError: They cannot be written, and nothing of them is left.
            OutputLostError: They cannot be read.
            OSError: The name that the user wants the output to have cannot be had.
        """
        self.put(task, attempt)
        if not self.options.durable:
            self.flush()

    def put(self, task: Task, attempt: Attempt) -> Put:
        """Do what `store` does; it counts once `flush` has returned, or tells why not."""
        keeps = attempt.status == "done" and self.options.keep_failed
        with self._disk_lock:
            return self._writing.put(task, attempt, keeps=keeps)

    def flush(self) -> None:
        """Make what was put count; with `durable`, once it is on the disk.

        Raises:
            SpillError: Of some of it, that cannot be; nothing of that is left.
        """
        with self._disk_lock:
            group = self._writing.count()
        for put in group:
            if put.failure is not None:
                raise put.failure

    def close(self, how: str = "complete") -> None:
        """Let others write; any number of times. Never raises.

        Args:
            how: The run has ended, for people.
        """
        with self._disk_lock:
            storing, self._storing = self._storing, None
            if storing is not None:
                keeper = storing.keeper
                with contextlib.suppress(SpillError):
                    keeper.append_later()
                    if not (keeper.leaves or storing.waits):
                        storing.tell(lines.Left(time.time(), how))
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
    def _writing(self) -> Storing:
        if self._storing is None:
            raise BatchError(
                errno.EBADF, "the batch directory is not open any more", self.directory.path
            )
        return self._storing

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
        durable = self.options.durable
        keeper = Keeper(self._shard, end, pack, durable=durable)
        try:
            storing = Storing(
                keeper, history, self._shard, durable=durable, table_lock=self._table_lock
            )
            if self._number not in findings.left:
                keeper.leaves = not remove_leftovers(history, self._shard)
            remove_runs(history)
            with contextlib.suppress(OSError):
                os.unlink(WRITER_NAME, dir_fd=self._shard.fd)
            write_owner(self._shard.fd, WRITER_NAME)
            storing.tell(_run_of(what, inputs))
        except SpillError as error:
            keeper.close()
            raise refused(error, path) from error
        except BaseException:
            keeper.close()
            raise
        self._storing = storing
        say_what_is_there(history, what, path)

    def _told(self, event: lines.Position) -> None:
        keeper = self._writing.keeper
        if keeper.later(lines.encode(event)):
            with self._disk_lock:
                keeper.append_later()


def _run_of(what: What, inputs: int | None) -> lines.Run:
    python = ".".join(map(str, sys.version_info[:3]))
    host = os.uname().nodename
    return lines.Run(os.getpid(), host, time.time(), VERSION, python, inputs, what.source)
