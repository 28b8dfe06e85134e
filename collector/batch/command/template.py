"""Replacement strings, and a command without a shell made of them.

Runs in:    any process; pure.
Invariants: I1  an input stays one argument, or a part of one: it is never split, and never read as
                text of a command.
Source:     the names are those of GNU parallel.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

_FORMS: Final = r"(?P<form>//|/\.|/|\.)?"
_SPECIAL: Final = "#%"


class TemplateError(ValueError):
    """A template that cannot be run as it is written; the message says what to write."""


class Inputs(NamedTuple):
    """What one job is given, and which job it is."""

    values: tuple[str, ...]
    seq: int
    """From 1, in the order in which the inputs are read."""
    slot: int = 1
    """From 1 to the number of jobs at a time."""


class Field(NamedTuple):
    """One replacement string.

    Attributes:
        which: Which input, from 1, or from -1 backwards; 0 for all; or "#" for the job's number,
            "%" for its slot.
        form: What of it: "" all, "." without extension, "/" without directories, "//" the
            directory, "/." without both.
    """

    which: int | str
    form: str = ""

    def values(self, inputs: Inputs) -> tuple[str, ...]:
        """Return what stands for it: a text for each input that it means, none if none is there."""
        if self.which == "#":
            return (str(inputs.seq),)
        if self.which == "%":
            return (str(inputs.slot),)
        return tuple(
            _CHANGES[self.form](inputs.values[at]) for at in self._places(len(inputs.values))
        )

    def one_each(self, count: int) -> "tuple[Field, ...]":
        """Return what means the same of so many inputs, one by one."""
        if isinstance(self.which, str):
            return (self,)
        return tuple(Field(at + 1, self.form) for at in self._places(count))

    def _places(self, count: int) -> range:
        """Return which inputs of so many it means, from 0."""
        assert isinstance(self.which, int)
        if not self.which:
            return range(count)
        at = self.which - 1 if self.which > 0 else count + self.which
        return range(at, at + 1) if 0 <= at < count else range(0)


ALL: Final = Field(0)


def without_directories(text: str) -> str:
    """Return what stands behind the last slash."""
    return text.rpartition("/")[2]


def without_extension(text: str) -> str:
    """Return a path without its last extension."""
    directory, slash, name = text.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return f"{directory}{slash}{stem}" if dot else text


def directory_of(text: str) -> str:
    """Return the directory in which a path is; "." if it names none."""
    stripped = text.rstrip("/")
    if not stripped:
        return "/" if text else "."
    directory, slash, _ = stripped.rpartition("/")
    return directory.rstrip("/") or "/" if slash else "."


_CHANGES: Final[Mapping[str, Callable[[str], str]]] = {
    "": str,
    ".": without_extension,
    "/": without_directories,
    "//": directory_of,
    "/.": lambda text: without_extension(without_directories(text)),
}


class Finder:
    """Finds replacement strings in a text.

    Args:
        names: Of the inputs, if a header has given them some.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._numbers = {name: number for number, name in enumerate(names, 1)}
        which = "|".join([r"-?[1-9][0-9]{0,8}", *map(re.escape, filter(None, names))])
        self._pattern = re.compile(rf"\{{(?:(?P<which>{which})?{_FORMS}|(?P<special>[#%]))\}}")

    def at(self, text: str, start: int) -> tuple[Field, int] | None:
        """Return the replacement string that begins there, and where it ends."""
        found = self._pattern.match(text, start)
        return (self._field(found), found.end()) if found else None

    def within(self, text: str) -> bool:
        """Whether there is one."""
        return self._pattern.search(text) is not None

    def parts(self, text: str) -> tuple[str | Field, ...]:
        """Return the text in parts: what stays, and replacement strings."""
        parts: list[str | Field] = []
        end = 0
        for found in self._pattern.finditer(text):
            if found.start() > end:
                parts.append(text[end : found.start()])
            parts.append(self._field(found))
            end = found.end()
        if end < len(text):
            parts.append(text[end:])
        return tuple(parts)

    def _field(self, found: re.Match[str]) -> Field:
        which, form = found["which"], found["form"] or ""
        if found["special"]:
            return Field(found["special"])
        if which is None:
            return Field(0, form)
        return Field(self._numbers[which] if which in self._numbers else int(which), form)


def filled(parts: Iterable[str | Field], inputs: Inputs) -> str:
    """Return the text with the values in it; those of several inputs with a space between them."""
    return "".join(
        part if isinstance(part, str) else " ".join(part.values(inputs)) for part in parts
    )


class Words:
    """A command and its arguments, without a shell.

    Args:
        words: As they were given.
        finder: Knows the replacement strings.
    """

    def __init__(self, words: Sequence[str], finder: Finder) -> None:
        self._words = [finder.parts(word) for word in words]
        if not any(isinstance(part, Field) for word in self._words for part in word):
            self._words.append((ALL,))

    def render(self, inputs: Inputs) -> list[str]:
        """Return the arguments, the program first.

        A word that is one replacement string becomes as many arguments as it has values.
        """
        found: list[str] = []
        for parts in self._words:
            if len(parts) == 1 and isinstance(parts[0], Field):
                found.extend(parts[0].values(inputs))
            else:
                found.append(filled(parts, inputs))
        return found

    def shown(self, inputs: Inputs) -> str:
        """Return the command with its inputs as a shell would take it: to be read."""
        return shlex.join(self.render(inputs))
