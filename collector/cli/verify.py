"""`collector verify`: is every byte there that a batch's journals promise?"""

import argparse

from collector.cli.batches import add_directory_to, line, opened
from collector.cli.printing import DONE, NOT_DONE, printing


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    verify = commands.add_parser(
        "verify",
        help="look for every byte that a batch promises",
        description="Look for every byte that the journals of a batch promise, and print what is "
        "not there. Bytes are counted, not compared.",
    )
    add_directory_to(verify)
    verify.set_defaults(command=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    with opened(arguments.directory) as batch, printing():
        problems = batch.verify()
        for problem in problems:
            print(line(problem))
        if not problems:
            print(f"{len(batch)} job{'s' if len(batch) != 1 else ''}: every byte is there")
    return NOT_DONE if problems else DONE
