"""`collector kill`: end one job of a running Collector, and no other."""

import argparse

from collector.cli.asking import AskError, ask, find_run
from collector.cli.printing import DONE, NOT_DONE, complain, printable, printing
from collector.cli.roots import add_root_to
from collector.wire.questions import Question


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    kill = commands.add_parser("kill", help="end one job of a running Collector")
    kill.add_argument(
        "run",
        metavar="RUN|DIR",
        help="as `collector ls` names it, or its beginning, or the directory of its batch",
    )
    kill.add_argument("job", metavar="JOB", help="number or name of the job")
    add_root_to(kill)
    kill.set_defaults(command=_kill)


def _kill(arguments: argparse.Namespace) -> int:
    try:
        said = ask(find_run(arguments.run, arguments.root), Question("kill", arguments.job))
    except AskError as error:
        complain(printable(str(error)))
        return NOT_DONE
    with printing():
        print(f"job {said['job']} ({printable(said['name'])}) is being ended")
    return DONE
