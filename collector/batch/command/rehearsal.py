"""`--dry-run`: print what would run, and with a batch directory why.

Runs in:    the parent; nothing runs, and nothing is written but to stdout.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import BinaryIO

from collector.batch.command.exit_status import OTHER_ERROR
from collector.batch.command.finishing import CLOSED_STDOUT
from collector.batch.command.printing import bytes_of, say
from collector.batch.command.request import Command, Request
from collector.batch.command.sources import Known, Row, SourceError
from collector.batch.command.template import Inputs
from collector.escapes import escaped


def rehearse(request: Request, command: Command, rows: Iterator[tuple[Row, Known]]) -> int:
    """Print the command of each job; returns the exit status."""
    why = None
    with contextlib.ExitStack() as stack:
        if request.output is not None and os.path.exists(f"{request.output}/batch.json"):
            from collector.batch.command.results import told  # noqa: PLC0415 - as above

            why = stack.enter_context(told(request.output, command, request.resume))
        try:
            with _stdout_that_may_fail() as stdout:
                shown = _for_person if stdout.isatty() else str
                for row, one in rows:
                    text = shown(command.shown(Inputs(row, one.number)))
                    if request.output is not None:
                        # On one line: what stands on the next would be a command of the shell.
                        text += f"  # {escaped(why(one.key)) if why else 'it has never run'}"
                    with _naming_stdout():
                        stdout.write(bytes_of(text) + b"\n")
        except BrokenPipeError:
            return CLOSED_STDOUT
        except SourceError as error:
            say(str(error))
            return OTHER_ERROR
    return 0


def _for_person(text: str) -> str:
    """Escape what could steer a terminal, and so hide what would run."""
    return "".join(char if char in "\n\t" else escaped(char) for char in text)


@contextlib.contextmanager
def _stdout_that_may_fail() -> Iterator[BinaryIO]:
    """Give stdout; if it fails, Python must not write the rest to it when it leaves."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, f"cannot write to stdout: {os.strerror(errno.EBADF)}")
    try:
        yield sys.stdout.buffer  # a shell is to read the same bytes
        with _naming_stdout():
            sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise


@contextlib.contextmanager
def _naming_stdout() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        number = error.errno or errno.EIO
        raise OSError(number, f"cannot write to stdout: {os.strerror(number)}") from error
