"""`collector report`: a batch as a page, as JUnit's XML, as a trace, as a table.

States:     exit status 0 all jobs are done, 1 some have failed or are not done, 2 wrong usage, or a
            report could not be made. The reports are made in each of the first two.
Invariants: I1  a report has its name when it is whole; another one of that name is replaced then.
                A link is followed, and what is no file of a directory (a pipe, a terminal, a
                device) is written to: nothing but a file is ever replaced.
            I2  memory does not grow with the sizes of outputs, logs and reports.
"""

import argparse
import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from collector.cli.batches import add_directory_to
from collector.cli.printing import (
    DONE,
    NOT_DONE,
    USAGE,
    complain,
    explained,
    printable,
    printing,
    stdout_bytes,
)
from collector.errors import BatchError

if TYPE_CHECKING:
    from collector.batch.report.source import Source

_STDOUT: Final = "-"
_BLOCK_CHARS: Final = 256 * 1024
_KINDS: Final = {
    "html": "one page to open in a browser: summary, failures, timeline, histograms, all jobs",
    "junit": "XML for CI servers: one case a job",
    "trace": "JSON for Perfetto (ui.perfetto.dev) and chrome://tracing: one track a worker",
    "csv": "a table: one row a job",
}


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    report = commands.add_parser(
        "report",
        help="make a page, JUnit's XML, a trace or a table of a batch",
        description="Make reports of a batch, also while it runs. A FILE that is there is replaced "
        "when the new one is whole, a pipe or a device is written to; - is stdout. Exit status: "
        "0 all jobs are done, 1 some have failed or are not done, 2 a report could not be made.",
    )
    add_directory_to(report)
    for kind, what in _KINDS.items():
        report.add_argument(f"--{kind}", metavar="FILE", type=_file, help=what)
    report.set_defaults(command=_report, refuse=report.error)


def _file(name: str) -> str:
    if not name:
        raise argparse.ArgumentTypeError("a report needs a file name, or - for stdout")
    return name


def _report(arguments: argparse.Namespace) -> int:
    wanted = {kind: name for kind in _KINDS if (name := getattr(arguments, kind)) is not None}
    _refuse_wrong_use(wanted, arguments.refuse)
    from collector.batch.report.source import Source  # noqa: PLC0415 - gc and ls read no batch

    try:
        source = Source(arguments.directory)
    except (BatchError, ValueError) as error:
        complain(printable(explained(error)))
        return USAGE
    with source:
        for kind, name in wanted.items():
            try:
                _make(kind, name, source)
            except OSError as error:
                where = "" if error.filename else f" ({name})"
                complain(printable(f"cannot make the report: {explained(error)}{where}"))
                return USAGE
        return DONE if source.is_all_done else NOT_DONE


def _refuse_wrong_use(wanted: dict[str, str], refuse: Callable[[str], None]) -> None:
    if not wanted:
        options = ", ".join(f"--{kind} FILE" for kind in _KINDS)
        refuse(f"say which report to make: one or more of {options}")
    places = [name if name == _STDOUT else os.path.realpath(name) for name in wanted.values()]
    for place in places:
        if places.count(place) > 1:
            refuse(f"two reports cannot be one file: {place}")


def _make(kind: str, name: str, source: "Source") -> None:
    pieces = _blocks(_pieces(kind, source))
    if name == _STDOUT:
        with printing(USAGE):
            to = stdout_bytes()
            for block in pieces:
                to.write(block)
            to.flush()
    elif (path := _replaceable(name)) is None:
        # As `printing` has it: whoever reads may go away early.
        with contextlib.suppress(BrokenPipeError), open(name, "wb") as stream:
            stream.writelines(pieces)
    else:
        from collector.store.output.publish import Publication  # noqa: PLC0415

        with Publication(path) as new:
            for block in pieces:
                new.write(block)
            new.publish(overwrite=True)


def _replaceable(name: str) -> str | None:
    """Return the path of the file that a report replaces or makes; None if it is written to."""
    path = os.path.realpath(name) if os.path.islink(name) else name
    try:
        found = os.stat(name)
        if stat.S_ISREG(found.st_mode):
            return path if os.path.samestat(found, os.stat(path)) else None
    except (FileNotFoundError, NotADirectoryError):  # a new one; or open, and without a name
        return None if os.path.exists(name) else path
    return path if stat.S_ISDIR(found.st_mode) else None


def _pieces(kind: str, source: "Source") -> Iterator[str]:
    from collector.batch.report import csv, html, junit, trace  # noqa: PLC0415

    match kind:
        case "html":
            return html.page_pieces(source.batch, source)
        case "junit":
            return junit.junit_pieces(source.batch, source)
        case "trace":
            return trace.trace_pieces(source.batch, source)
        case _:
            return csv.csv_pieces(source.batch, source)


def _blocks(pieces: Iterable[str]) -> Iterator[bytes]:
    """Join pieces to larger ones."""
    held: list[str] = []
    chars = 0
    for piece in pieces:
        held.append(piece)
        chars += len(piece)
        if chars >= _BLOCK_CHARS:
            yield "".join(held).encode()
            held, chars = [], 0
    yield "".join(held).encode()
