"""`collector export`: copy the outputs of a batch to files of their own."""

import argparse
from pathlib import Path

from collector.cli.batches import add_directory_to, opened, tell_left_out
from collector.cli.printing import DONE, NOT_DONE, USAGE, complain, explained, printable, printing


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    export = commands.add_parser(
        "export",
        help="copy outputs of a batch to files of their own",
        description="Copy the output of each job that is done to a name of its own, for example "
        "'out/{input.stem}.txt'. The fields are {input}, with {input.stem}, {input.name}, "
        "{input.suffix} and {input.parent}, {key}, {seq} and {name}.",
    )
    add_directory_to(export)
    export.add_argument("template", metavar="TEMPLATE", help="the names of the files")
    export.add_argument("--overwrite", action="store_true", help="replace files that are there")
    export.set_defaults(command=_export)


def _export(arguments: argparse.Namespace) -> int:
    saved = failed = 0
    with opened(arguments.directory) as batch, printing():
        try:
            for record, came in batch.exported(arguments.template, overwrite=arguments.overwrite):
                if isinstance(came, Path):
                    saved += 1
                else:
                    failed += 1
                    who = printable(record.name or record.key)
                    why = explained(came).replace("pass overwrite=True", "pass --overwrite")
                    complain(f"job {who}: {printable(why)}")
        except ValueError as error:  # the template is none
            complain(printable(str(error)))
            return USAGE
        were = "output was" if saved == 1 else "outputs were"
        print(f"{saved} {were} exported" + (f", {failed} not" if failed else ""))
        left_out = tell_left_out(batch)
    return NOT_DONE if failed or left_out else DONE
