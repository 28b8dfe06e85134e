"""`collector follow`: print the output of a running job, or of all, from its first byte on."""

import argparse
import contextlib
import os
import sys
from dataclasses import dataclass, field
from typing import BinaryIO, final

from collector.cli.asking import AskError, Asking, find_run
from collector.cli.hearing import Hearing
from collector.cli.printing import DONE, NOT_DONE, complain, printable, printing, stdout_bytes
from collector.cli.roots import add_root_to
from collector.progress.outlet import descriptor_of
from collector.settings import READ_BLOCK_BYTES
from collector.wire.questions import NO_JOB, Question


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    follow = commands.add_parser("follow", help="print the output of a job while it runs")
    follow.add_argument(
        "run",
        metavar="RUN|DIR",
        nargs="?",
        help="as `collector ls` names it, or its beginning, or the directory of its batch; "
        "may be left out if there is only one",
    )
    follow.add_argument(
        "job", metavar="JOB", nargs="?", help="number or name of the job; all, tagged, without it"
    )
    add_root_to(follow)
    follow.set_defaults(command=_follow)


def _follow(arguments: argparse.Namespace) -> int:
    status = DONE  # also if nobody reads on
    try:
        run = find_run(arguments.run, arguments.root)
        question = Question("follow", arguments.job)
        to = descriptor_of(sys.stdout)
        with (
            contextlib.closing(Asking(run, question, to)) as asking,
            contextlib.closing(Hearing(asking)) as hearing,
            printing(),
        ):
            status = _print(hearing, asking, tagged=arguments.job is None)
    except AskError as error:
        complain(printable(str(error)))
        return NOT_DONE
    return status


@final
@dataclass(slots=True, eq=False)
class _Output:
    """The output of a job, as far as it was printed."""

    name: str
    tagged: bool
    fd: int | None = None
    printed: int = 0
    rest: list[bytes] = field(default_factory=list)
    """The pieces of a line that has no end yet."""

    def print_until(self, end: int, to: BinaryIO) -> None:
        """Print what lies before this byte.

        Raises:
            AskError: It is not all there any more.
        """
        while self.printed < end:
            size = min(READ_BLOCK_BYTES, end - self.printed)
            block = b"" if self.fd is None else os.pread(self.fd, size, self.printed)
            if not block:
                raise AskError(f"something else has cut the output of job {self.name}")
            self.printed += len(block)
            self._print(block, to)

    def close(self, to: BinaryIO) -> None:
        """Print the last line, if it has no end, and let go of the file."""
        if self.rest:
            to.write(self._tag() + b"".join(self.rest) + b"\n")
            self.rest.clear()
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def _print(self, block: bytes, to: BinaryIO) -> None:
        if not self.tagged:
            to.write(block)
            return
        first, *lines = block.split(b"\n")
        self.rest.append(first)
        if not lines:
            return
        tag, last = self._tag(), lines.pop()
        to.writelines((tag, *self.rest, b"\n"))
        to.writelines(tag + line + b"\n" for line in lines)
        self.rest = [last] if last else []

    def _tag(self) -> bytes:
        return printable(self.name).encode() + b"\t"


def _print(hearing: Hearing, asking: Asking, *, tagged: bool) -> int:
    outputs: dict[int, _Output] = {}
    status = DONE
    to = stdout_bytes()
    whole = False
    for news in hearing.news():
        if news.job == NO_JOB:
            whole = news.ended
            continue
        output = outputs.setdefault(news.job, _Output(news.name, tagged))
        if news.fd is not None:
            output.fd = news.fd
        output.print_until(news.bytes, to)
        if news.ended:
            whole = not tagged
            output.close(to)
            del outputs[news.job]
            status = max(status, _complain(output.name, news.error))
        to.flush()
    for output in outputs.values():
        output.close(to)
    to.flush()
    if whole:
        return status
    _tell_why([output.name for output in outputs.values()], goes_on=asking.goes_on())
    return NOT_DONE


def _tell_why(names: list[str], *, goes_on: bool) -> None:
    """Say why no more came.

    Args:
        names: Of the jobs whose ends did not come.
        goes_on: Whether the run does.
    """
    if goes_on:
        complain("the run goes on, but more came of it than was read in time: the rest is missing")
    elif not names:
        complain("the run has ended without saying so: what came last may be missing")
    else:
        for name in names:
            complain(f"the run has ended, and job {printable(name)} with it")


def _complain(name: str, error: str | None) -> int:
    """Say why a job has failed, if it has."""
    if error is None:
        return DONE
    complain(f"job {printable(name)}: {printable(error)}")
    return NOT_DONE
