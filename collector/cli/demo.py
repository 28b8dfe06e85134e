"""`collector demo`: tokenize the standard library, crash, compare."""

import argparse
import sys

from collector.cli.printing import DONE, NOT_DONE, complain, turn_off


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    demo = commands.add_parser("demo", help="tokenize the standard library, crash, compare")
    demo.set_defaults(command=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from collector.demo import run_demo  # noqa: PLC0415 - gc and ls start no processes

    try:
        status = run_demo(arguments)
        print(end="", flush=True)
    except BrokenPipeError:
        turn_off(sys.stdout)
        return DONE
    except OSError as error:
        if error.filename is not None:  # of a file, not of stdout
            raise
        turn_off(sys.stdout)
        complain(f"cannot print: {error.strerror}")
        return NOT_DONE
    return status
