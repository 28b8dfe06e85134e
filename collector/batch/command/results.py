"""The batch directory of a batch of commands, as the runner needs it.

Runs in:    the parent, in the main thread.
Owns:       the writer of its shard.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Self, final

from collector import settings
from collector.batch.command.outcome import Outcome
from collector.batch.command.request import Command, Given, key_of
from collector.batch.command.sources import SEVERAL, Known, Row
from collector.batch.directory import BatchDirectory, What
from collector.batch.history import History
from collector.batch.keys import Keys, key_text, part_of
from collector.batch.lines import LEFT_EARLY, Error
from collector.batch.parts import shard_name
from collector.batch.record import AttemptRecord, why_of
from collector.batch.remarks import compare
from collector.batch.saved_later import save_stored, unsaved
from collector.batch.states import Resume
from collector.batch.storing import Attempt, Task
from collector.batch.writer import BatchWriter, Options
from collector.store.absolute import absolute_path
from collector.store.output.output import Output


def open_writer(
    path: str,
    command: Command,
    resume: str,
    shard: tuple[int, int] | None,
    inputs: int | None,
) -> BatchWriter:
    """Make or continue a batch directory for a command, with so many inputs if that is known.

    Raises:
        BatchError: That cannot be.
    """
    options = Options(Resume(resume), shard=shard_name(shard))
    return BatchWriter.open(path, _what(command), options, inputs=inputs)


def _what(command: Command) -> What:
    return What(command.kind, command.name, options=command.options)


@contextlib.contextmanager
def told(path: str, command: Command, resume: str) -> Iterator[Callable[[str], str]]:
    """Give what says of a key whether its job would run, and why. Nothing is written.

    Raises:
        BatchError: It is no batch directory, or runs something else.
    """
    with BatchDirectory.open(path) as directory:
        facts = directory.facts()
        if facts is not None:
            compare(facts.what, _what(command), directory.path)
        with contextlib.closing(History(directory)) as history:
            yield lambda key: why_of(history, key, Resume(resume))


def of_shard(
    name: str, shard: tuple[int, int] | None, inputs: Given
) -> Iterator[tuple[Row, Known]]:
    """Yield the inputs that fall into a shard, each with its key and its number.

    Args:
        name: Of the command.
        shard: `(i, n)`: the i-th of n parts, from 1; None for everything.
        inputs: All of the batch, in their order.
    """
    keys, repeated, known = Keys(name), Counter[bytes](), iter(inputs.known)
    for number, row in enumerate(inputs.rows, 1):
        one = next(known, None)
        if one is None:
            text = key_text(key_of(row))
            one = Known(keys.key(text, repeated[text]), number)
            repeated[text] += 1
        if shard is None or part_of(one.key, shard[1]) == shard[0]:
            yield row, one


@final
class Results:
    """What earlier runs have left, and what this one adds.

    Args:
        writer: Of the batch directory.
        shard: Which part of it this run has; None for everything.
        known: What it knows of the inputs, if they come from there.
    """

    def __init__(
        self, writer: BatchWriter, shard: tuple[int, int] | None, known: Iterable[Known]
    ) -> None:
        self._writer = writer
        self._shard = shard
        self._known = iter(known)
        self._next: Known | None = None
        self._running: dict[int, tuple[Task, float]] = {}
        """Of the attempts that the journal does not tell of yet, and when each began."""
        self.complete = False
        """Whether all inputs have been read, and what was to run has ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._writer.close("complete" if self.complete else LEFT_EARLY)

    def number(self, last: int) -> int:
        """Return the number of the inputs that come next; the last ones had that one."""
        self._next = next(self._known, None)
        return last + 1 if self._next is None else self._next.number

    def task(self, values: Row, name: str) -> Task | None:
        """Tell what becomes of the inputs of a job, once their number was asked for.

        Returns:
            None if they fall into another shard.

        Raises:
            SpillError: They cannot be stored.
        """
        one = self._next
        place = None if one is None else (one.key, one.number - 1)
        task = self._writer.task(key_of(values), name=name, place=place)
        if self._shard is not None and part_of(task.key, self._shard[1]) != self._shard[0]:
            return None
        if task.runs:
            task.input = stored_text(values)
            self._writer.read(task)
        return task

    def last(self, task: Task) -> AttemptRecord:
        """Return the result that is there."""
        shard, ended, kept = next(iter(self._writer.history.kept(task.row)))
        return AttemptRecord(shard, ended, kept=kept)

    def save_again(self, task: Task, name: Callable[[], str]) -> None:
        """Give the output of a job that is done a name, if it has none of the user's yet.

        Raises:
            OSError: That cannot be.
        """
        found = unsaved(self._writer.history, task.row)
        if found is not None:
            save_stored(*found, absolute_path(name()), sync=self._writer.options.durable)

    def refuse_taken(self, task: Task, name: str) -> None:
        """See `BatchWriter.refuse_taken`."""
        self._writer.refuse_taken(task, name)

    def attempt(self, task: Task) -> int:
        """Return the number of the attempt that comes next, counted over all runs."""
        return self._writer.attempts(task) + 1

    def began(self, seq: int, task: Task, at: float) -> None:
        """An attempt of the job of that number begins."""
        self._running[seq] = task, at

    def over(self, seq: int) -> None:
        """It has ended, or is to be made later."""
        self._running.pop(seq, None)

    def tell_of_long_ones(self) -> float | None:
        """Write of those that have run for a while; return seconds until the next will have."""
        now = time.time()
        for seq, (task, at) in list(self._running.items()):
            due_s = at + settings.TOLD_AFTER_S - now
            if due_s > 0:
                # They are in the order in which they began. A clock that is set back delays it.
                return min(due_s, settings.TOLD_AFTER_S)
            del self._running[seq]
            self._writer.started(task, at)
        return None

    def spent(self, task: Task, meters: Mapping[str, float]) -> None:
        """A job has counted so much and leaves no line of its own."""
        if meters:
            self._writer.spent(task.key, meters)

    def store(
        self, task: Task, outcome: Outcome, output: Output, log: Output | None, save: str
    ) -> None:
        """Store what came of an attempt.

        Raises:
            SpillError: It cannot be written.
            OSError: The name that the output is to have cannot be had.
        """
        attempt = Attempt(
            status=outcome.status,
            start=outcome.start,
            end=outcome.start + outcome.seconds,
            worker=outcome.slot,
            exitcode=outcome.exitcode,
            meters=outcome.meters,
            error=Error(*outcome.error, "") if outcome.error else None,
            output=output,
            log=log,
            value=outcome.value,
            save=save if outcome.status == "done" else "",
        )
        self._writer.put(task, attempt)
        self._writer.flush()


def stored_text(values: Row) -> str:
    """Return the inputs of a job as the journal has them."""
    alone = len(values) == 1 and not values[0].startswith(SEVERAL)
    return values[0] if alone else repr(values)
