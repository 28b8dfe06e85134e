"""Where the inputs of a batch of commands come from, and how they are combined.

Runs in:    any process; reads files and stdin, each as late as it can.
Invariants: I1  of the first source no more is read than was asked for: a million lines on stdin
                take no memory, and one that comes late is used when it comes.
            I2  an input is exactly what stands between two separators, whatever its bytes.
"""

import errno
import itertools
import math
import os
import random
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, Final, NamedTuple

_READ_BYTES: Final = 65536
STDIN: Final = "-"
_STDIN_FD: Final = 0
_WORDS: Final = {":::": (False, False), ":::+": (False, True), "::::": (True, False)}
SEPARATORS: Final = {**_WORDS, "::::+": (True, True)}
"""What begins a source on the command line: whether files follow, and whether it is linked."""

Row = tuple[str, ...]

SEVERAL: Final = ("('", '("')
"""In a journal, the text of a row of several inputs begins with one of these; a single input that
does is told as a row, too."""


class Known(NamedTuple):
    """What a batch directory knows of the inputs of a job: its key, and its number from 1."""

    key: str
    number: int


class SourceError(Exception):
    """Inputs that cannot be had; the message says which, and why."""


class Source(NamedTuple):
    """Inputs of one kind.

    Attributes:
        items: The inputs themselves, or names of files with one on each line; "-" for stdin.
        are_files: Which of the two.
        linked: Whether each goes with one of the source before, instead of with all.
    """

    items: tuple[str, ...]
    are_files: bool
    linked: bool = False


class Reading(NamedTuple):
    """How sources are read.

    Attributes:
        separator: What ends an input in a file.
        columns: A regular expression that separates columns, or None.
        header: Whether the first input of each source is its name.
        group: So many inputs make one job; 0 for one of each source.
        shuffled: Whether their order is left to chance.
    """

    separator: bytes = b"\n"
    columns: str | None = None
    header: bool = False
    group: int = 0
    shuffled: bool = False


def split_command_line(words: Sequence[str]) -> tuple[list[str], list[Source]]:
    """Return the words of the command, and the sources behind it."""
    command: list[str] = []
    sources: list[Source] = []
    items: list[str] | None = None
    kind = (False, False)

    def finish() -> None:
        if items is None:
            return
        are_files, linked = kind
        if not are_files:
            sources.append(Source(tuple(items), are_files, linked))
            return
        for number, item in enumerate(items):
            sources.append(Source((item,), are_files, linked and not number))

    for word in words:
        if word in SEPARATORS:
            finish()
            kind, items = SEPARATORS[word], []
        elif items is None:
            command.append(word)
        else:
            items.append(word)
    finish()
    return command, sources


def total(sources: Sequence[Source], reading: Reading) -> int | None:
    """Return how many jobs there will be; None where inputs may come late, or cannot be read."""
    counts: list[int] = []
    for source in sources:
        found = _in_files(source, reading) if source.are_files else len(source.items)
        if found is None:
            return None
        count = max(0, found - reading.header)
        if source.linked and counts:
            counts[-1] = min(counts[-1], count)
        else:
            counts.append(count)
    jobs = math.prod(counts)
    return -(-jobs // reading.group) if reading.group else jobs


def _in_files(source: Source, reading: Reading) -> int | None:
    """Count the inputs in files; of stdin those that are still to be read."""
    count = 0
    for name in source.items:
        try:
            if may_wait(name):
                return None
            with _open(name) as file:
                start, data = file.tell(), b""
                while more := file.read(_READ_BYTES):
                    data = more
                    count += data.count(reading.separator)
                file.seek(start)
        except OSError:
            return None
        count += not data.endswith(reading.separator) and bool(data)
    return count


def may_wait(name: str) -> bool:
    """Whether inputs in a file may come late: it is a pipe or a terminal.

    Raises:
        OSError: There is none.
    """
    status = os.fstat(_STDIN_FD) if name == STDIN else os.stat(name)
    return not stat.S_ISREG(status.st_mode)


def read(sources: Sequence[Source], reading: Reading) -> "tuple[list[str], Iterator[Row]]":
    """Return the names of the inputs, if a header has them, and what each job is given.

    Raises:
        SourceError: A file cannot be opened; while iterating also: cannot be read.
    """
    opened = [_columns(_items(source, reading), reading) for source in sources]
    names: list[str] = []
    if reading.header:
        for rows in opened:
            names.extend(next(rows, ()))
    rows = _combined(opened, [source.linked for source in sources])
    if reading.group:
        rows = _grouped(rows, reading.group)
    if reading.shuffled:
        everything = list(rows)
        random.shuffle(everything)
        rows = iter(everything)
    return names, rows


def _items(source: Source, reading: Reading) -> Iterator[str]:
    if not source.are_files:
        return iter(source.items)
    for name in source.items:
        _check(name)
    return itertools.chain.from_iterable(_lines(name, reading.separator) for name in source.items)


def _check(name: str) -> None:
    """Say now what would be said when the file is opened, which is later."""
    if name == STDIN:
        return
    try:
        if stat.S_ISDIR(os.stat(name).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise _cannot_read(name, error) from error


def _cannot_read(name: str, error: OSError) -> SourceError:
    return SourceError(f"cannot read the inputs in {name!r}: {error.strerror}")


def _open(name: str) -> BinaryIO:
    return open(os.dup(_STDIN_FD) if name == STDIN else name, "rb", buffering=0)


def _lines(name: str, separator: bytes) -> Iterator[str]:
    """Yield what stands between separators; the last one may be missing."""
    rest: list[bytes] = []
    try:
        with _open(name) as file:
            while data := file.read(_READ_BYTES):
                *whole, last = data.split(separator)
                for item in whole:
                    if rest:
                        item = b"".join((*rest, item))  # noqa: PLW2901 - it began in what was read before
                        rest.clear()
                    yield os.fsdecode(item)
                if last:
                    rest.append(last)
    except OSError as error:
        raise _cannot_read(name, error) from error
    if rest:
        yield os.fsdecode(b"".join(rest))


def _columns(items: Iterator[str], reading: Reading) -> Iterator[Row]:
    if reading.columns is None:
        return ((item,) for item in items)
    split = re.compile(reading.columns).split
    return (tuple(part or "" for part in split(item)) for item in items)


def _combined(opened: Sequence[Iterator[Row]], linked: Sequence[bool]) -> Iterator[Row]:
    """Combine each with each, the last varying fastest; those that are linked go side by side."""
    groups: list[Iterator[Row]] = []
    for rows, is_linked in zip(opened, linked, strict=True):
        if is_linked and groups:
            groups[-1] = _side_by_side(groups[-1], rows)
        else:
            groups.append(rows)
    first, *others = groups
    if not others:
        return first
    kept = [list(rows) for rows in others]
    return (
        tuple(itertools.chain(row, *more)) for row in first for more in itertools.product(*kept)
    )


def _side_by_side(left: Iterable[Row], right: Iterable[Row]) -> Iterator[Row]:
    return (one + other for one, other in zip(left, right, strict=False))


def _grouped(rows: Iterator[Row], size: int) -> Iterator[Row]:
    size = min(size, sys.maxsize)
    while group := tuple(itertools.chain.from_iterable(itertools.islice(rows, size))):
        yield group
