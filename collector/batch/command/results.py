"""The batch directory of a batch of commands, as the runner needs it.

Runs in:    the parent, in the main thread.
Owns:       the writer of its shard.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import final

from collector.batch.command.outcome import Outcome
from collector.batch.command.request import Command, key_of
from collector.batch.command.sources import Row
from collector.batch.directory import What
from collector.batch.keys import Keys, key_text, part_of
from collector.batch.lines import Error
from collector.batch.parts import shard_name
from collector.batch.record import AttemptRecord
from collector.batch.states import Resume
from collector.batch.storing import Attempt
from collector.batch.writer import BatchWriter, Options, Task
from collector.store.output.output import Output


def open_writer(
    path: str, command: Command, resume: str, shard: tuple[int, int] | None
) -> BatchWriter:
    """Make or continue a batch directory for a command.

    Raises:
        BatchError: That cannot be.
    """
    what = What(command.kind, command.name, options=command.options)
    return BatchWriter.open(path, what, Options(Resume(resume), shard=shard_name(shard)))


def of_shard(name: str, shard: tuple[int, int], rows: Iterable[Row]) -> Iterator[bool]:
    """Tell of each input whether it falls into this shard.

    Args:
        name: Of the command.
        shard: `(i, n)`: the i-th of n parts, from 1.
        rows: All inputs of the batch, in their order.
    """
    keys, repeated = Keys(name), Counter[bytes]()
    for row in rows:
        text = key_text(key_of(row))
        yield part_of(keys.key(text, repeated[text]), shard[1]) == shard[0]
        repeated[text] += 1


@final
class Results:
    """What earlier runs have left, and what this one adds.

    Args:
        writer: Of the batch directory.
        shard: Which part of it this run has; None for everything.
    """

    def __init__(self, writer: BatchWriter, shard: tuple[int, int] | None) -> None:
        self._writer = writer
        self._shard = shard

    def task(self, values: Row, name: str) -> Task | None:
        """Tell what becomes of the inputs of a job; each once, in their order.

        Returns:
            None if they fall into another shard.

        Raises:
            SpillError: They cannot be stored.
        """
        task = self._writer.task(key_of(values), name=name)
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

    def attempts(self, task: Task) -> int:
        """Return how many attempts have ended, in all runs."""
        return self._writer.attempts(task)

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
            exitcode=outcome.exitcode,
            meters=outcome.meters,
            error=Error(*outcome.error, "") if outcome.error else None,
            output=output,
            log=log,
            value=outcome.value,
            save=save if outcome.status == "done" else "",
        )
        self._writer.store(task, attempt)
        self._writer.flush()


def stored_text(values: Row) -> str:
    """Return the inputs of a job as the journal has them."""
    alone = len(values) == 1 and not values[0].startswith("(")
    return values[0] if alone else repr(values)
