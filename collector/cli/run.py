"""`collector run`: any command, or any Python function, over many inputs."""

import argparse
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from collector import settings
from collector.cli.printing import USAGE, complain, explained, printable

if TYPE_CHECKING:
    from collector.batch.command.request import Request

OTHER_ERROR: Final = 255
_NICEST: Final = 40
"""From the one end of what the kernel has to the other."""

_EPILOG: Final = """\
{} {.} {/} {//} {/.} {#} {%} {1} {2} {2.} ... in COMMAND are replaced: by the input, without its
extension, without its directories, its directory, its bare name; the number of the job, its slot;
the first, the second input. Without any of them the inputs are appended. One quoted COMMAND is run
by a shell, in which inputs are variables: no input is ever read as a command.

exit status: 0; 1 to 100, the number of jobs that failed, 101 for more; with --halt ...=1 that of
the job; 2 wrong usage; 128 and the number of the signal that ended it (130: Ctrl-C); 141 if nobody
reads its output; 255 anything else."""

_REFUSED: Final = {
    ("--retries",): "peers count it differently: write --attempts N, all tries together",
    ("--pipe", "--pipepart", "--block"): "it is not built: give each job its own file",
    ("-S", "--sshlogin"): "it is not built: the jobs run on this machine",
    ("--tty",): "a job has no terminal: give it what it asks for as an input or in a file",
    ("--tmux",): "it is not built: the key t shows what each job writes",
    ("--plus", "--rpl", "--trim"): "it is not built: a shell can do it, in a quoted COMMAND",
    ("-X", "-m", "--xargs"): "it is not built: write -n N",
    ("-N", "-L", "-l", "--max-lines"): "write -n N",
    ("--link", "--xapply"): "write :::+ between the sources",
    ("--results",): "write -o DIR to keep everything, --save TEMPLATE for a file a job",
    ("--resume-failed",): "write -o DIR: the same line again runs what has failed",
    ("--bar",): "there is one",
    ("--eta", "--progress"): "it is there",
    ("--keep-going",): "it does: see --halt",
    ("--halt-on-error",): "write --halt WHEN",
    ("-P", "--max-procs"): "write -j N",
    ("-I", "-i", "--replace"): "{} is the input, also within a word",
    ("-d", "--delimiter"): "an input in a file is a line: write tr , '\\n' before it, or -0",
    ("-u", "--ungroup", "--lb"): "write --line-buffer",
    ("-t", "-v", "--verbose"): "write --show all",
    ("--tagstring",): "write --tag",
    ("--dryrun",): "write --dry-run",
    ("--tmpdir", "--tempdir"): "write --temp-root DIR",
    ("--wd", "--workdir"): "write 'cd DIR && ...', one quoted COMMAND",
    ("--env",): "a job has the environment of collector run",
    ("-q", "--quote"): "no shell reads several words, so nothing has to be quoted twice",
    ("-r", "--no-run-if-empty", "--group", "--silent", "--will-cite"): "it is so: leave it out",
}
"""What peers have, and what to write for it."""


def add_to(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the command to the program's."""
    parser = commands.add_parser(
        "run",
        help="run a command, or a Python function, over many inputs",
        usage="collector run [OPTIONS] COMMAND [ARG]... [::: INPUT...] [:::: FILE...]\n"
        "       collector run [OPTIONS] --python MODULE:FUNCTION [::: INPUT...] [:::: FILE...]\n"
        "       collector run [OPTIONS] --retry DIR",
        description="Run a command over many inputs, some at a time, and collect what they write.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(command=_run, modules=_load)
    _add_inputs(parser.add_argument_group("inputs"))
    _add_running(parser.add_argument_group("running"))
    _add_output(parser.add_argument_group("what is printed"))
    _add_keeping(parser.add_argument_group("what is kept"))
    for options, why in _REFUSED.items():
        parser.add_argument(*options, action=_Refused, why=why)
    parser.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="COMMAND", help=argparse.SUPPRESS
    )
    # As there is -0, argparse would take the -1 of `-j -1` for an option, too.
    parser._has_negative_number_optionals.clear()  # noqa: SLF001 - it has no other way


class _Refused(argparse.Action):
    """An option of peers that means something else here, or nothing."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, why: str) -> None:
        super().__init__(
            option_strings, dest, nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        self._why = why

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,  # noqa: ARG002 - as argparse calls it
        values: object,  # noqa: ARG002 - as above
        option: str | None = None,
    ) -> None:
        parser.error(f"{option} is refused: {self._why}")


def _read_by(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Have argparse print what a reader says is wrong."""

    def reading(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return reading


def _lazily(name: str) -> Callable[[str], Any]:
    """Return a reader of `amounts`, which is loaded when it is needed."""

    def read(text: str) -> Any:
        from collector.batch.command import amounts  # noqa: PLC0415 - `collector gc` needs none

        return getattr(amounts, name)(text)

    return _read_by(read)


def _halt(text: str) -> Any:
    from collector.executor.halting import Halt  # noqa: PLC0415 - as above

    return Halt.parse(text)


def _shard(text: str) -> tuple[int, int]:
    from collector.batch.parts import parse_shard  # noqa: PLC0415 - as above

    return parse_shard(text, os.environ)


def _resource(text: str) -> tuple[str, int | None]:
    name, equals, number = text.partition("=")
    if not name:
        raise ValueError(f"{text!r} names no resource: write api or api=4")
    return name, _count(number) if equals else None


def _name(text: str) -> str:
    if not text:
        raise ValueError("it must be a name, not an empty one: is a variable not set?")
    return text


def _niceness(text: str) -> int:
    digits = text[1:] if text.startswith(("+", "-")) else text
    if not (digits.isascii() and digits.isdecimal()):
        raise ValueError(f"{text!r} is no niceness: write 10")
    return max(-_NICEST, min(int(text), _NICEST))


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not int(text):
        raise ValueError(f"{text!r} must be a whole number from 1 on")
    return int(text)


def _add_inputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-a",
        "--arg-file",
        action="append",
        default=[],
        metavar="FILE",
        help="read the inputs from FILE, one a line; - is stdin. Several files are combined",
    )
    group.add_argument(
        "-0", "--null", action="store_true", help="inputs in files end in a NUL, not in a newline"
    )
    group.add_argument(
        "-C",
        "--colsep",
        metavar="REGEXP",
        type=_read_by(_regexp),
        help="split each input at REGEXP into columns {1}, {2}, ...",
    )
    group.add_argument(
        "--header",
        choices=[":"],
        metavar=":",
        help="the first input of each source is its name: {name} is replaced",
    )
    group.add_argument(
        "-n",
        "--max-args",
        type=_read_by(_count),
        metavar="N",
        help="give each job N inputs",
    )
    group.add_argument("--shuf", action="store_true", help="take the inputs in random order")


def _regexp(text: str) -> str:
    import re  # noqa: PLC0415 - argparse has it

    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


def _add_running(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "-j",
        "--jobs",
        metavar="N",
        help="run N at a time: 4, 50%% of the CPUs, +2 more, -1 less (100%%)",
    )
    add("--python", metavar="MODULE:FUNCTION", help="call a Python function, not a command")
    add(
        "--shell",
        type=_read_by(_name),
        metavar="PROGRAM",
        help="the shell for a quoted COMMAND (/bin/sh)",
    )
    add("--no-shell", action="store_true", help="never use one: COMMAND is a program")
    add(
        "--timeout",
        type=_lazily("time_limit"),
        metavar="TIME",
        help="end a job that runs longer: seconds, 5m, 2h, or 200%% of the median",
    )
    add(
        "--attempts",
        type=_read_by(_count),
        default=1,
        metavar="N",
        help="try a job that fails again, N tries all together",
    )
    add(
        "--delay", type=_lazily("duration_s"), default=0.0, metavar="S", help="pause between starts"
    )
    add(
        "--memfree",
        type=_lazily("size"),
        default=0,
        metavar="SIZE",
        help="start while so much is free",
    )
    add("--load", metavar="N", help="start while the load average is below N, or N%% of the CPUs")
    add(
        "--nice",
        type=_read_by(_niceness),
        default=0,
        metavar="N",
        help="run jobs with this niceness added",
    )
    add(
        "--halt",
        type=_read_by(_halt),
        metavar="WHEN",
        help="stop early: now or soon, a comma, fail=N, success=N or done=N (N may be "
        "N%%), or same=N, equal failures in a row",
    )
    add(
        "--later",
        type=_lazily("duration_s"),
        default=60.0,
        metavar="S",
        help="what ends with exit status 75 has not failed: it is run again after S seconds (60)",
    )
    add(
        "--resource",
        type=_read_by(_resource),
        metavar="NAME[=N]",
        help="the jobs share this: N at a time, and all wait when one has asked to be run later",
    )
    add(
        "--grace",
        type=_lazily("duration_s"),
        default=5.0,
        metavar="S",
        help="what is ended gets SIGTERM, and SIGKILL after S seconds (5)",
    )
    add("--dry-run", action="store_true", help="print what would run, and with -o why")
    add(
        "--temp-root", type=_read_by(_name), metavar="DIR", help="where outputs lie while they grow"
    )
    add(
        "--memory-threshold",
        type=_lazily("size"),
        metavar="SIZE",
        help="larger outputs lie in files (5MiB)",
    )
    add(
        "--memory-budget",
        type=_lazily("size"),
        metavar="SIZE",
        help="all outputs in memory (256MiB)",
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("-k", "--keep-order", action="store_true", help="print in the order of the inputs")
    add("--tag", action="store_true", help="begin each line with the input and a tab")
    add(
        "--line-buffer", action="store_true", help="print each line when it comes, not whole blocks"
    )
    add(
        "--max-output",
        type=_lazily("size"),
        metavar="SIZE",
        help="end a job that writes more to stdout; SIZE bytes of it are kept",
    )
    levels = ("none", "fail", "retry", "slow", "pass", "all")
    add(
        "--show",
        choices=levels,
        default="slow",
        help="which events have a line on stderr, each level with those before it (slow)",
    )
    add("--final-show", choices=levels, default="slow", help="the same for the end (slow)")
    add(
        "--slow",
        type=_lazily("duration_s"),
        default=settings.SLOW_S,
        metavar="S",
        help="a job is slow, or quiet, after so long (60)",
    )
    add("--events", type=_read_by(_name), metavar="FILE", help="write each event as a line of JSON")


def _add_keeping(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "-o",
        "--output",
        type=_read_by(_name),
        metavar="DIR",
        help="keep everything in a batch directory, or continue it",
    )
    add(
        "--shard",
        type=_read_by(_shard),
        metavar="I/N",
        help="run the I-th of N parts of the batch, which share its directory; slurm: as the task "
        "of a SLURM array says, env: as COLLECTOR_SHARD says",
    )
    add(
        "--retry",
        type=_read_by(_name),
        metavar="DIR",
        help="run what failed or never ran of a batch directory",
    )
    add(
        "--resume",
        choices=("failed", "new", "all", "never"),
        default="failed",
        help="what runs of a batch that is continued: what has not succeeded (failed), what has no "
        "result, all, or refuse to continue",
    )
    add("--only-new", action="store_true", help="do not print what earlier runs have finished")
    add(
        "--save",
        type=_read_by(_name),
        metavar="TEMPLATE",
        help="write the stdout of each job to a file of that name instead of printing it; with the "
        "replacement strings of COMMAND",
    )
    add("--joblog", type=_read_by(_name), metavar="FILE", help="write GNU parallel's log of jobs")


def _load() -> None:
    """Load what a run needs, before garbage is looked for."""
    import collector.batch.command.batch_run  # noqa: PLC0415, F401 - `gc` needs none of it


def _run(arguments: argparse.Namespace) -> int:
    from collector.batch.command.batch_run import run_batch  # noqa: PLC0415 - `gc` needs none of it
    from collector.batch.command.request import RequestError  # noqa: PLC0415 - nor of this

    try:
        return run_batch(_request(arguments))
    except RequestError as error:
        complain(printable(str(error)))
        return USAGE
    except OSError as error:
        complain(printable(explained(error)))
        return OTHER_ERROR


def _request(arguments: argparse.Namespace) -> "Request":
    from collector.batch.command.request import Request  # noqa: PLC0415 - as above

    given = dict(vars(arguments))
    del given["command"], given["modules"]
    return Request(**given)
