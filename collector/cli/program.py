"""The `collector` program: its commands, and what becomes of what they could not do.

Runs in:    a process of its own.
States:     exit status 0 done, 1 something of ours could not be removed or the report not be
            printed, 2 wrong usage or a root that cannot be used, 130 interrupted. A command may
            have more; its page says which.
"""

import argparse
import atexit
import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NoReturn, final

from collector.cli.printing import (
    INTERRUPTED,
    USAGE,
    complain,
    explained,
    flush_stderr,
    printable,
    printing,
)
from collector.errors import RunDirectoryError
from collector.settings import VERSION

_COMMANDS: Final = (
    "run", "status", "cat", "export", "verify", "report", "top", "follow", "kill", "gc", "ls",
    "demo", "completion",
)  # fmt: skip
"""Each is a module here, which is loaded when it is asked for: all of them take 50 ms."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: Its arguments without its name; None for those of this process.

    Returns:
        The exit status.
    """
    if argv is None:
        _take_standard_numbers()
        gc.disable()  # modules that load leave hardly any garbage
        atexit.register(gc.freeze)  # the process ends: 15 ms of looking for garbage less
    try:
        return _do(list(sys.argv[1:] if argv is None else argv), alone=argv is None)
    except RunDirectoryError as error:
        complain(printable(explained(error)))
        return USAGE
    except KeyboardInterrupt:  # also while modules are loaded, which takes longest
        return INTERRUPTED


def _do(words: list[str], *, alone: bool) -> int:
    """Do what these words ask for; returns the exit status."""
    try:
        arguments = make_parser(_needed(words)).parse_args(words)
    except SystemExit:
        with printing():  # the help, say: whose reader may have gone
            pass
        flush_stderr()
        raise
    command = _loaded(arguments, alone=alone)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a terminal may lack letters
    return command(arguments)


def _needed(words: list[str]) -> Iterable[str]:
    """Return the commands whose modules these words need."""
    if words == ["--version"]:
        return ()
    return words[:1] if words and words[0] in _COMMANDS else _COMMANDS


def _loaded(arguments: argparse.Namespace, *, alone: bool) -> Callable[[argparse.Namespace], int]:
    """Load what a command needs before garbage is looked for, if it says that; return it.

    Args:
        arguments: What was asked for.
        alone: Whether this process does nothing else.
    """
    if "modules" in arguments:
        arguments.modules()
    if alone:
        gc.freeze()  # nor are they garbage later, here or in a process that is forked
        gc.enable()
    command: Callable[[argparse.Namespace], int] = arguments.command
    return command


def _take_standard_numbers() -> None:
    """Have no file of ours get the number of a standard stream that is closed, and its bytes."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)  # the lowest that is free


def make_parser(names: Iterable[str] = _COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of the program, with all of its commands or with some."""
    parser = _Parser(
        prog="collector",
        description="Run a command over many inputs; look into batches and at what runs left.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Command)
    for name in names:
        importlib.import_module(f"collector.cli.{name}").add_to(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser whose errors steer no terminal."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, which may quote what was typed."""
        super().error(printable(message))


@final
class _Command(_Parser):
    """The parser of one command: it says itself what it does not know."""

    _inside = False

    # `namespace` is what argparse has no type for.
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Take options between the other words too, as in `cat DIR --log INPUT`."""
        if self._inside or not self._has_words_that_may_be_left_out():
            found, unknown = super().parse_known_args(args, namespace)
        else:
            self._inside = True  # what follows calls this method
            found, unknown = self.parse_known_intermixed_args(args, namespace)
            self._inside = False
        if unknown and not self._inside:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def _has_words_that_may_be_left_out(self) -> bool:
        """Whether argparse would take such words for left out where an option comes first."""
        return any(
            action.nargs in {argparse.OPTIONAL, argparse.ZERO_OR_MORE}
            for action in self._get_positional_actions()
        )
