"""The page of the command line, made from the parser; `python -m tests.support.command_line`."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from collector.cli.program import make_parser

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"

_HEAD: Final = """\
# The command line

`collector` and `python -m collector` are one program. This page is made from its parser
(`python -m tests.support.command_line`); a test compares the two. `collector COMMAND --help` says
the same.
"""


def page() -> str:
    """Return the page."""
    texts = [_HEAD]
    for name, help_text, parser in _commands(make_parser()):
        texts.append(f"## collector {name}\n")
        texts.append(f"{_sentence(help_text)}\n")
        usage = parser.format_usage().removeprefix("usage: ").strip() if parser.usage else ""
        if usage:
            texts.append(f"```text\n{_aligned(usage)}\n```\n")
        for title, rows in _groups(parser):
            texts.append(f"| {title} | |\n|---|---|")
            texts.extend(f"| {option} | {_cell(text)} |" for option, text in rows)
            texts.append("")
        if parser.epilog:
            texts.append(f"```text\n{parser.epilog.strip()}\n```\n")
    return "\n".join(texts).rstrip() + "\n"


def _commands(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            told = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield name, told.get(name, ""), command


def _groups(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for group in parser._action_groups:
        rows = [
            (_names(action), action.help or "")
            for action in group._group_actions
            if action.help != argparse.SUPPRESS
        ]
        if rows:
            yield group.title or "options", rows


def _names(action: argparse.Action) -> str:
    value = action.metavar or (f"{{{','.join(action.choices)}}}" if action.choices else "")
    if not action.option_strings:
        return f"`{value or action.dest}`"
    takes = f" {value or action.dest.upper()}" if action.nargs != 0 else ""
    return (
        ", ".join(f"`{option}`" for option in action.option_strings[:-1])
        + (", " if action.option_strings[1:] else "")
        + f"`{action.option_strings[-1]}{takes}`"
    )


def _cell(text: str) -> str:
    return text.replace("%%", "%").replace("|", "\\|").replace("\n", " ")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _aligned(usage: str) -> str:
    return "\n".join(line.strip() for line in usage.splitlines())


if __name__ == "__main__":
    PAGE.write_text(page())
