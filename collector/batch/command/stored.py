"""A batch of commands as its directory has it: to run again what is missing.

Runs in:    the parent; reads.
"""

import ast
import errno
import itertools
from collections.abc import Iterator
from typing import Final, NamedTuple, Self

from collector.batch.batch import Batch
from collector.batch.command.sources import SEVERAL, Known, Row
from collector.batch.keys import Keys, key_text
from collector.errors import BatchError

_NOTHING: Final = key_text("")


class StoredCommand(NamedTuple):
    """What each job of a batch runs."""

    words: tuple[str, ...]
    names: tuple[str, ...]
    python: str | None
    shell: str | None
    no_shell: bool
    save: str | None
    max_output: int | None

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """Return what a batch directory says.

        Raises:
            BatchError: It is not one of `collector run`.
        """
        options = batch.options
        words, python = _texts(options.get("words")), options.get("python")
        if not (words or isinstance(python, str)):
            message = "this batch was not made by `collector run`: run the program that made it"
            raise BatchError(22, message, str(batch.path))
        shell, save, most = (options.get(name) for name in ("shell", "save", "max_output"))
        return cls(
            words,
            _texts(options.get("names")),
            python if isinstance(python, str) else None,
            shell if isinstance(shell, str) else None,
            python is None and not isinstance(shell, str),
            save if isinstance(save, str) else None,
            most if isinstance(most, int) else None,
        )


def inputs_of(batch: Batch) -> Iterator[tuple[Row, Known]]:
    """Yield the inputs of every job that is known, in their order, each with its key and number.

    Others may stand between them, which shards know that have not run, and inputs of two lines may
    have had one number: then the later one has the next.

    Raises:
        BatchError: No line tells the input of a job: it was run in a shard that is not there.
    """
    keys, empty = Keys(batch.runs), 0
    number = 0
    for record in batch:
        number = max(number, record.seq) + 1
        if not record.input:
            # Empty, and so many before it: the next number nearly always, and none beyond its own.
            numbers = itertools.chain(range(empty, number), range(empty))
            found = next((n for n in numbers if keys.key(_NOTHING, n) == record.key), None)
            if found is None:
                message = (
                    f"no line tells the input of the job {record.key}, which another shard has "
                    "run: put its shard back, or give the inputs again, with -o"
                )
                raise BatchError(errno.ENODATA, message, str(batch.path))
            empty = found + 1
        yield _row(record.input), Known(record.key, number)


def _row(text: str) -> Row:
    """Return the inputs that `results.stored_text` made this text of."""
    if text.startswith(SEVERAL):
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return (text,)
        if isinstance(found, tuple) and _texts(list(found)) == found:
            return found
    return (text,)


def _texts(value: object) -> tuple[str, ...]:
    """Return the texts of a list; none if it is something else."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return ()
    return tuple(value)
