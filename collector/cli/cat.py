"""`collector cat`: print outputs of a batch, byte for byte."""

import argparse
import itertools
import os
from collections.abc import Iterable, Iterator

from collector.batch.batch import Batch
from collector.batch.keys import Keys, key_text
from collector.batch.record import Record, with_output
from collector.cli.batches import add_directory_to, opened, tell_left_out
from collector.cli.printing import (
    DONE,
    NOT_DONE,
    complain,
    explained,
    printable,
    printing,
    stdout_bytes,
)
from collector.store.output.output import Output


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    cat = commands.add_parser(
        "cat",
        help="print outputs of a batch",
        description="Print the outputs of all jobs that are done, in the order of the inputs; or "
        "those of the inputs and keys that are named, in that order.",
    )
    add_directory_to(cat)
    cat.add_argument(
        "wanted", metavar="INPUT|KEY", nargs="*", default=[], help="an input, or a job's key"
    )
    cat.add_argument("--log", action="store_true", help="print logs, not outputs")
    cat.add_argument(
        "--failed", action="store_true", help="print what failed jobs left, not what others wrote"
    )
    cat.set_defaults(command=_cat)


def _cat(arguments: argparse.Namespace) -> int:
    status = DONE
    with opened(arguments.directory) as batch, printing():
        for wanted, records in _chosen(batch, arguments.wanted, failed=arguments.failed):
            if not records:
                complain(
                    f"no job has the input or key {printable(wanted)}, or it has not begun: "
                    "collector report DIR --csv - lists those that have"
                )
                status = NOT_DONE
            for record in records:
                if arguments.failed and record.status != "failed":
                    who = printable(record.input)
                    complain(f"the job of {who} has not failed: it is {record.status}")
                    status = NOT_DONE
                elif not _print(record, log=arguments.log):
                    status = NOT_DONE
        if not arguments.wanted and not arguments.failed and tell_left_out(batch):
            status = NOT_DONE
    return status


def _chosen(
    batch: Batch, wanted: list[str], *, failed: bool
) -> Iterator[tuple[str, Iterable[Record]]]:
    state = "failed" if failed else "done"
    if not wanted:
        for record in batch:
            if record.status == state:
                yield record.input, [record]
        return
    by_input: dict[str, list[Record]] = {text: [] for text in wanted}
    for record in batch:
        if record.input in by_input:
            by_input[record.input].append(record)
    for text in wanted:
        found = by_input[text] or list(_of_text(batch, text))
        by_key = batch.find(text)
        if by_key is not None:
            found = [*found, by_key]
        yield text, found


def _of_text(batch: Batch, text: str) -> Iterator[Record]:
    """Yield the jobs of a text that is told in another form, as `sources.SEVERAL` says."""
    keys = Keys(batch.runs)
    for earlier in itertools.count():
        record = batch.find(keys.key(key_text(text), earlier))
        if record is None:
            return
        yield record


def _blocks(record: Record, *, log: bool) -> Iterator[bytes]:
    with with_output(record, Output.open, log=log) as file:
        while block := file.read(1 << 20):
            yield block


def _print(record: Record, *, log: bool) -> bool:
    """Print an output or a log; returns whether it is one of a job that is done, and whole."""
    out, blocks = stdout_bytes(), _blocks(record, log=log)
    while True:
        try:
            block = next(blocks, b"")
        except OSError as error:
            complain(f"job {printable(record.name or record.key)}: {printable(explained(error))}")
            return False
        if not block:
            break
        out.write(block)  # what that says is of stdout, and not of the job
    out.flush()
    if record.status == "done":
        return True
    if record.attempts:
        return False
    who = printable(os.fspath(record.input))
    complain(f"the job of {who} has no output: it is {record.status}")
    return False
