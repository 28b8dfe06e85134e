"""`collector completion`: print what completes the command line in a shell."""

import argparse
from typing import Any, Final

from collector.cli.printing import DONE, USAGE, complain, printing
from collector.cli.program import make_parser

_FILES: Final = {"FILE", "TEMPLATE"}
_DIRECTORIES: Final = {"DIR", "PATH", "RUN|DIR"}

_BASH_PREAMBLE: Final = """\
_collector_commands() {
    compgen -A command -- "$1"
    compgen -A file -- "$1"
}"""

_COMMAND: Final = {
    "bash": "_collector_commands",
    "zsh": "_normal",
    "fish": "(__fish_complete_command; __fish_complete_path)",
}


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    completion = commands.add_parser(
        "completion",
        help="print what completes this command line in a shell (needs the extra completion)",
        description="Print what completes the command line of collector in a shell. In bash: "
        'eval "$(collector completion bash)". In zsh: save it as _collector in a directory of '
        "$fpath. In fish: save it as ~/.config/fish/completions/collector.fish.",
    )
    completion.add_argument("shell", choices=["bash", "zsh", "fish"], help="the shell")
    completion.set_defaults(command=_completion)


def _completion(arguments: argparse.Namespace) -> int:
    try:
        import shtab  # noqa: PLC0415 - an extra
    except ImportError:
        complain("collector completion needs shtab: pip install shtab, or the extra completion")
        return USAGE
    parser = make_parser()
    _mark(parser, shtab)
    with printing():
        preamble = _BASH_PREAMBLE if arguments.shell == "bash" else ""
        print(shtab.complete(parser, arguments.shell, preamble=preamble))
    return DONE


def _mark(parser: argparse.ArgumentParser, shtab: Any) -> None:
    """Say which words are names of files, of directories and of programs."""
    for action in parser._actions:  # noqa: SLF001 - argparse shows them nowhere else
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            for command in action.choices.values():
                _mark(command, shtab)
            continue
        completed: Any = None
        if action.metavar in _FILES:
            completed = shtab.FILE
        elif action.metavar in _DIRECTORIES:
            completed = shtab.DIRECTORY
        elif action.nargs == argparse.REMAINDER:
            action.help = "what is run"  # hidden, since the usage has it; shtab passes over that
            completed = _COMMAND
        if completed is not None:
            vars(action)["complete"] = completed  # where shtab looks
