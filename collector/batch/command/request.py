"""What was asked of `collector run`, and what that comes to: a command, and its inputs.

Runs in:    the parent.
Owns:       nothing; files of inputs are opened when the first of them is asked for.
"""

import contextlib
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from collector.batch.command import amounts, function
from collector.batch.command.printing import say
from collector.batch.command.shell import ShellTemplate
from collector.batch.command.sources import (
    STDIN,
    Known,
    Reading,
    Row,
    Source,
    SourceError,
    may_wait,
    read,
    total,
)
from collector.batch.command.template import Finder, Inputs, Words
from collector.executor.halting import Halt

if TYPE_CHECKING:
    from collector.batch.command.stored import StoredCommand

_PLAIN_WORD: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-%@:,"
)

_SHORT_CHARS: Final = 40


class RequestError(Exception):
    """What was asked for cannot be done; the message says why, and what to write instead."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for: the options of `collector run`, under their long names."""

    words: list[str]
    arg_file: list[str]
    null: bool
    colsep: str | None
    header: str | None
    max_args: int | None
    shuf: bool
    jobs: str | None
    python: str | None
    shell: str | None
    no_shell: bool
    timeout: amounts.Share | None
    attempts: int
    delay: float
    memfree: int
    load: str | None
    nice: int
    later: float
    resource: tuple[str, int | None] | None
    halt: Halt | None
    grace: float
    dry_run: bool
    temp_root: str | None
    memory_threshold: int | None
    memory_budget: int | None
    keep_order: bool
    tag: bool
    line_buffer: bool
    max_output: int | None
    show: str
    final_show: str
    slow: float
    events: str | None
    output: str | None
    shard: tuple[int, int] | None
    retry: str | None
    resume: str
    only_new: bool
    save: str | None
    joblog: str | None


@final
@dataclass(slots=True)
class Command:
    """What each job runs.

    Attributes:
        kind: "command" or "function", as a batch directory has it.
        name: The template, or the name of the function.
        options: What else changes results.
        template: Makes the command of a job; None where a function is called.
        finder: Knows its replacement strings.
        shown: Says the command of a job.
    """

    kind: str
    name: str
    options: Mapping[str, Any]
    template: Words | ShellTemplate | None
    finder: Finder
    shown: Callable[[Inputs], str]

    def label(self, inputs: Inputs, shown: str) -> str:
        """Say a job in a few words: by its command, as shown, if that is short, or its inputs."""
        if len(self.name) <= _SHORT_CHARS and self.name.isprintable():
            return shown
        return " ".join(inputs.values)


class Given(NamedTuple):
    """What the jobs are given.

    Attributes:
        names: Of the columns, if a header has them.
        rows: The inputs of each job.
        total: How many there are, if that is known.
        waits: Whether one may come late.
        known: Of each input, if they come from a batch directory.
        whole: How many the batch has, of which a shard runs a part, if that is known.
    """

    names: list[str]
    rows: Iterator[Row]
    total: int | None
    waits: bool
    known: Sequence[Known] = ()
    whole: int | None = None


def of_directory(
    request: Request, words: list[str], sources: list[Source]
) -> tuple[Request, "StoredCommand", Given]:
    """Return what a batch directory says of the command, and its inputs."""
    if words or sources or request.python or request.output or request.arg_file:
        raise RequestError(
            "--retry DIR runs a batch as it was: leave out the command, its inputs and -o"
        )
    for option, value in (
        ("-0", request.null),
        ("--colsep", request.colsep),
        ("--header", request.header),
        ("-n", request.max_args),
        ("--shuf", request.shuf),
        ("--shell", request.shell),
        ("--no-shell", request.no_shell),
    ):
        if value:
            raise RequestError(f"--retry DIR runs a batch as it was: leave out {option}")
    from collector.batch.batch import Batch  # noqa: PLC0415 - only --retry needs it
    from collector.batch.command.stored import StoredCommand, inputs_of  # noqa: PLC0415 - as above
    from collector.batch.states import State  # noqa: PLC0415 - as above

    assert request.retry is not None
    with Batch.open(request.retry) as batch:
        stored = StoredCommand.of(batch)
        rows, known = [], []
        counts = batch.status(0)
        whole = sum(counts[state.value] for state in State)
        for row, one in inputs_of(batch):
            rows.append(row)
            known.append(one)
    return (
        replace(
            request,
            output=request.retry,
            python=stored.python,
            shell=stored.shell,
            no_shell=stored.no_shell,
            save=request.save or stored.save,
            max_output=stored.max_output if request.max_output is None else request.max_output,
            only_new=True,
        ),
        stored,
        Given(list(stored.names), iter(rows), len(rows), waits=False, known=known, whole=whole),
    )


def given(request: Request, sources: list[Source]) -> Given:
    """Return the inputs, from where the command line says.

    Raises:
        RequestError: They cannot be had.
    """
    sources = [Source((name,), are_files=True) for name in request.arg_file] + sources
    if not sources:
        if sys.stdin is not None and sys.stdin.isatty():
            say("the inputs are read from the terminal: one a line, Ctrl-D ends them")
        sources = [Source((STDIN,), are_files=True)]
    if [item for one in sources if one.are_files for item in one.items].count(STDIN) > 1:
        raise RequestError("stdin (-) can be read once only: put what comes from it into a file")
    reading = Reading(
        b"\0" if request.null else b"\n",
        request.colsep,
        request.header is not None,
        request.max_args or 0,
        request.shuf,
    )
    try:
        names, rows = read(sources, reading)
    except SourceError as error:
        raise RequestError(str(error)) from None
    count = total(sources, reading)
    return Given(names, rows, count, waits=any(map(_may_wait, sources)), whole=count)


def _may_wait(source: Source) -> bool:
    """Whether inputs of this source may come late."""
    if not source.are_files:
        return False
    for name in source.items:
        with contextlib.suppress(OSError):
            if may_wait(name):
                return True
    return False


def command_of(request: Request, words: list[str], names: list[str]) -> Command:
    """Return what each job runs.

    Raises:
        RequestError: That cannot be.
        TemplateError: No shell can run it so that inputs stay data.
    """
    finder = Finder(names)
    if request.python is not None:
        return _function(request, words, names, finder)
    if not words:
        raise RequestError(
            "there is no COMMAND: write for example collector run wc -l ::: *.txt, or, where each "
            "input is a command itself, collector run sh -c"
        )
    shell = request.shell or "/bin/sh"
    options: dict[str, Any] = {"words": words, "names": names, "save": request.save}
    options["max_output"] = request.max_output
    if request.no_shell or len(words) > 1 or _is_program(words[0]):
        if request.shell:
            raise RequestError(
                "--shell is for one quoted COMMAND; this one is run without a shell: quote it as "
                "one word, or leave out --shell"
            )
        plain = Words(words, finder)
        options["shell"] = None
        return Command("command", shlex.join(words), options, plain, finder, plain.shown)
    if shutil.which(shell) is None:
        raise RequestError(f"there is no shell {shell!r}: write --shell /bin/sh")
    script = ShellTemplate(words[0], finder)
    options["shell"] = shell
    return Command("command", words[0], options, script, finder, script.shown)


def _is_program(word: str) -> bool:
    """Whether one word is nothing but the name of a program: then it needs no shell."""
    return set(word) <= _PLAIN_WORD and shutil.which(word) is not None


def _function(request: Request, words: list[str], names: list[str], finder: Finder) -> Command:
    assert request.python is not None
    if words:
        raise RequestError(
            f"--python calls a function, and {words[0]!r} would be a command: inputs stand "
            "behind :::"
        )
    for option, value in (("--shell", request.shell), ("--max-output", request.max_output)):
        if value:
            raise RequestError(f"{option} is for commands, and --python runs none")
    try:
        function.split_target(request.python)
    except ValueError as error:
        raise RequestError(str(error)) from None
    name = request.python
    options: dict[str, Any] = {"python": name, "names": names, "save": request.save}
    return Command(
        "function",
        name,
        options,
        None,
        finder,
        lambda inputs: f"{name}({', '.join(map(repr, inputs.values))})",
    )


def key_of(values: tuple[str, ...]) -> str | tuple[str, ...]:
    """Return what the key of a job is made of: its input, or all of several."""
    return values[0] if len(values) == 1 else values
