"""What the commands share that look into a batch directory."""

import argparse
import contextlib
from collections.abc import Iterator
from typing import Any

from collector.batch.batch import Batch
from collector.cli.printing import USAGE, complain, explained, printable
from collector.errors import BatchError


def add_directory_to(command: argparse.ArgumentParser) -> None:
    """Add the directory, which each of these commands needs."""
    command.add_argument("directory", metavar="DIR", help="a batch directory")


@contextlib.contextmanager
def opened(directory: str) -> Iterator[Batch]:
    """Open a batch directory; one that cannot be read ends the command."""
    try:
        batch = Batch.open(directory)
    except (BatchError, ValueError) as error:
        complain(printable(explained(error)))
        raise SystemExit(USAGE) from error
    with batch:
        yield batch


def tell_left_out(batch: Batch) -> int:
    """Tell on stderr how many jobs have no result, in which state; return their number."""
    counts = batch.status(0)
    states = ("failed", "interrupted", "waiting")
    found = {state: int(counts[state]) for state in states if counts[state]}
    if found:
        told = ", ".join(f"{count} {state}" for state, count in found.items())
        complain(f"left out: {told}; see collector status DIR --failed")
    return sum(found.values())


def line(text: Any) -> str:
    """Escape what could steer a terminal."""
    return printable(str(text))
