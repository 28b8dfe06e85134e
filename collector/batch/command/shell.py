"""A script for a shell in which inputs are variables: they never become text of it.

A replacement string becomes a reference to a variable, written as the place asks for it: `"$V"`
outside quotes, `${V}` within double ones, `'"$V"'` within single ones. So whatever an input holds,
the shell reads it after it has read the script. Where it would read a variable's value as more than
data, or where a reference cannot be written, the template is refused.

Runs in:    any process; pure.
States:     BARE, INNER (a subshell, `$(`), DOUBLE, PARAMETER (`${`)
Invariants: I1  the text of the script depends on the number of inputs, never on what they are.
            I2  a misread template may give a wrong reference, but a reference is all it can give.
Source:     POSIX.1-2017, Shell Command Language, 2.2 to 2.6.
"""

import enum
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn, final

from collector.batch.command.template import ALL, Field, Finder, Inputs, TemplateError

_VARIABLE: Final = "COLLECTOR_V"
_BLANK: Final = " \t\n"
_ENDS_WORD: Final = " \t\n;|&()<>"
_SUBSCRIPT: Final = re.compile(r"(?:^|[\s;&|(])[A-Za-z_][A-Za-z0-9_]*\+?\[[^\]\s]*\Z")
_SPECIAL: Final = re.compile(r'[\\"$`]')
_ARITHMETIC_TEST: Final = re.compile(r"\s-(?:eq|ne|lt|le|gt|ge|v)\s")
_DELIMITER: Final = re.compile(r"<<(-?)[ \t]*((?:'[^'\n]*'|\"[^\"\n]*\"|\\.|[^\s;|&<>()'\"\\])+)")


class Style(enum.Enum):
    """How a reference is written."""

    WORD = "word"
    """Outside quotes, a word by itself: several values are several words."""
    PART = "part"
    """Outside quotes, joined to other text."""
    DOUBLE = "double"
    SINGLE = "single"


class _Place(enum.Enum):
    """Where the scanner is."""

    BARE = enum.auto()
    INNER = enum.auto()
    DOUBLE = enum.auto()
    PARAMETER = enum.auto()


@final
@dataclass(slots=True)
class _Frame:
    place: _Place
    opened_at: int


class Reference(NamedTuple):
    """A replacement string and where it stands."""

    field: Field
    style: Style


class Script(NamedTuple):
    """What the shell is given for so many inputs."""

    text: str
    variables: tuple[tuple[str, Field], ...]

    def environment(self, inputs: Inputs) -> dict[str, str]:
        """Return the variables with their values."""
        return {name: field.values(inputs)[0] for name, field in self.variables}


@final
class ShellTemplate:
    """One text for a shell.

    Args:
        text: As it was given, with replacement strings.
        finder: Knows those.

    Raises:
        TemplateError: It cannot be run so that inputs stay data.
    """

    def __init__(self, text: str, finder: Finder) -> None:
        self._parts = _Scanner(text, finder).parts()
        self._scripts: dict[int, Script] = {}

    def script(self, count: int) -> Script:
        """Return the script for so many inputs."""
        made = self._scripts.get(count)
        if made is None:
            made = self._scripts[count] = self._make(count)
        return made

    def shown(self, inputs: Inputs) -> str:
        """Return the text with the inputs in it, quoted as a shell wants it: to be read."""
        return "".join(
            part if isinstance(part, str) else _quoted(part.field.values(inputs), part.style)
            for part in self._parts
        )

    def _make(self, count: int) -> Script:
        names: dict[Field, str] = {}
        text: list[str] = []
        for part in self._parts:
            if isinstance(part, str):
                text.append(part)
                continue
            fields = part.field.one_each(count)
            for field in fields:
                names.setdefault(field, f"{_VARIABLE}{len(names) + 1}")
            text.append(_written([names[field] for field in fields], part.style))
        return Script("".join(text), tuple((name, field) for field, name in names.items()))


def _written(names: Sequence[str], style: Style) -> str:
    references = [f"${{{name}}}" for name in names]
    joined = " ".join(references)
    match style:
        case Style.WORD:
            return " ".join(f'"{reference}"' for reference in references)
        case Style.PART:
            return f'"{joined}"'
        case Style.DOUBLE:
            return joined
        case Style.SINGLE:
            return f"'\"{joined}\"'"


def _quoted(values: Sequence[str], style: Style) -> str:
    match style:
        case Style.WORD:
            return " ".join(map(shlex.quote, values))
        case Style.PART:
            return shlex.quote(" ".join(values))
        case Style.DOUBLE:
            return _SPECIAL.sub(r"\\\g<0>", " ".join(values))
        case Style.SINGLE:
            return " ".join(values).replace("'", "'\"'\"'")


@final
class _Scanner:
    """Reads a template once, from the left."""

    def __init__(self, text: str, finder: Finder) -> None:
        self._text = text
        self._finder = finder
        self._at = 0
        self._parts: list[str | Reference] = []
        self._stack = [_Frame(_Place.BARE, 0)]
        self._documents: list[tuple[str, bool]] = []
        self._in_comment = False
        self._case_inside = False
        """Whether a `case` stood in $(...): its patterns end in parentheses that open nowhere."""

    def parts(self) -> list[str | Reference]:
        while self._at < len(self._text):
            self._step()
        if self._documents:
            self._refuse(f"the here-document that ends with {self._documents[0][0]!r} never begins")
        frame = self._stack[-1]
        if frame.place is not _Place.BARE:
            opened = self._text[frame.opened_at : frame.opened_at + 20]
            self._refuse(f"what opens at {opened!r} is never closed")
        if not any(isinstance(part, Reference) for part in self._parts):
            self._append()
        return self._parts

    def _append(self) -> None:
        """Without a replacement string the inputs come last."""
        if self._in_comment or self._text.rstrip(" \t").endswith(("\n", ";", "&", "|", "(", ")")):
            self._refuse("there is no place at its end for the input")
        self._parts += [" ", Reference(ALL, Style.WORD)]

    def _step(self) -> None:
        found = self._finder.at(self._text, self._at)
        frame = self._stack[-1]
        if found and self._case_inside:
            self._refuse("behind a `case` in $(...) or (...) its place is unclear", "v={}; $(...)")
        if found and frame.place is not _Place.DOUBLE:
            self._bare_reference(*found)
        elif found:
            self._parts.append(Reference(found[0], Style.DOUBLE))
            self._at = found[1]
        elif frame.place is _Place.DOUBLE:
            self._step_quoted()
        elif frame.place is _Place.PARAMETER:
            self._step_parameter()
        else:
            self._step_bare()

    def _bare_reference(self, field: Field, end: int) -> None:
        if self._stack[-1].place is _Place.PARAMETER:
            self._refuse("inside ${...} it is not taken as data by every shell", "v={}; ... ${v}")
        if _SUBSCRIPT.search(self._text, 0, self._at):
            self._refuse("in the subscript of an array bash would run it", "v={}; ... and then $v")
        before = self._text[self._at - 1] if self._at else " "
        behind = self._text[end] if end < len(self._text) else " "
        alone = before in " \t\n;|&(" and behind in _ENDS_WORD
        self._parts.append(Reference(field, Style.WORD if alone else Style.PART))
        self._at = end

    def _step_quoted(self) -> None:
        """Within double quotes."""
        if self._text[self._at] == '"':
            self._stack.pop()
            self._copy(1)
        elif not self._step_anywhere():
            self._copy(1)

    def _step_parameter(self) -> None:
        """Within `${...}`."""
        text, at = self._text, self._at
        if text[at] == "}":
            self._stack.pop()
            self._copy(1)
        elif text[at] == "'" and not self._is_quoted():
            self.single()
        elif text[at] == '"':
            self._open(_Place.DOUBLE, 1)
        elif not self._step_anywhere():
            self._copy(1)

    def _step_bare(self) -> None:
        """Outside of quotes."""
        for opening, take in _OUTSIDE_QUOTES:
            if self._text.startswith(opening, self._at):
                take(self)
                return
        if not self._step_anywhere():
            self._word_or_char()

    def newline(self) -> None:
        """Take the end of a line, and the here-documents behind it."""
        self._copy(1)
        self._read_documents()

    def comment(self) -> None:
        """Take a comment, if it is one."""
        text, at = self._text, self._at
        if at and text[at - 1] not in " \t\n;|&()":
            self._copy(1)
            return
        end = text.find("\n", at)
        self._in_comment = end < 0
        self._copy((end if end >= 0 else len(text)) - at)

    def ansi(self) -> None:
        """Take a text in `$'...'`."""
        self._region(self._end_of_ansi(), "inside $'...'", "$'...'{}")

    def double(self) -> None:
        """Enter double quotes."""
        self._open(_Place.DOUBLE, 1)

    def arithmetic(self) -> None:
        """Take what stands in `((...))`."""
        self._region(self._end_of_parentheses(self._at), "inside ((...))", "test {} -gt 1")

    def inner(self) -> None:
        """Enter a subshell."""
        self._open(_Place.INNER, 1 if self._text[self._at] == "(" else 2)

    def closing(self) -> None:
        """Leave a subshell, if one was entered; else it is the end of a pattern."""
        if self._stack[-1].place is _Place.INNER:
            self._stack.pop()
        self._copy(1)

    def here_string(self) -> None:
        """Take `<<<`."""
        self._copy(3)

    def _step_anywhere(self) -> bool:
        """Take what means the same outside of quotes and within double ones."""
        text, at = self._text, self._at
        if text[at] == "\\":
            if self._finder.at(text, at + 1):
                self._refuse("a backslash stands before it", "it without the backslash")
            self._copy(2)
        elif text.startswith(("$((", "$["), at):
            opens = at + 1
            end = (
                self._end_of_parentheses(opens)
                if text[opens] == "("
                else self._find("]", opens) + 1
            )
            self._region(end, "inside $((...))", "v={}; ... and check it first")
        elif text.startswith("$(", at):
            self._open(_Place.INNER, 2)
        elif text.startswith("${", at):
            self._open(_Place.PARAMETER, 2)
        elif text[at] == "`":
            self._region(self._end_of_backquotes(), "inside backquotes", "$(...)")
        else:
            return False
        return True

    def _word_or_char(self) -> None:
        """Take a whole word if it is one that changes how the rest is read."""
        text, at = self._text, self._at
        if not at or text[at - 1] in _ENDS_WORD:
            if re.compile(r"case(?=[ \t\n])").match(text, at):
                self._case_inside |= len(self._stack) > 1
            elif re.compile(r"\[\[(?=[ \t\n])").match(text, at):
                end = text.find("]]", at)
                region = text[at:end] if end >= 0 else text[at:]
                if self._finder.within(region) and _ARITHMETIC_TEST.search(region):
                    self._refuse("in such a [[ ... ]] bash would run it", "[ {} -eq 1 ]")
        self._copy(1)

    def single(self) -> None:
        """Take a text in single quotes."""
        end = self._find("'", self._at + 1)
        for part in self._finder.parts(self._text[self._at : end + 1]):
            self._parts.append(part if isinstance(part, str) else Reference(part, Style.SINGLE))
        self._at = end + 1

    def document(self) -> None:
        """Take `<<` and the word behind it."""
        found = _DELIMITER.match(self._text, self._at)
        if found is None:
            self._refuse("the word behind << is missing")
        if self._finder.within(found[2]):
            self._refuse("it ends a here-document")
        self._documents.append((re.sub(r"['\"\\]", "", found[2]), found[1] == "-"))
        self._copy(found.end() - self._at)

    def _read_documents(self) -> None:
        while self._documents:
            delimiter, tabs = self._documents.pop(0)
            end = self._at
            while True:
                line, newline, _ = self._text[end:].partition("\n")
                end += len(line) + len(newline)
                if (line.lstrip("\t") if tabs else line) == delimiter or not newline:
                    break
            self._region(end, "inside a here-document", "printf '%s\\n' {} | ...")

    def _region(self, end: int, where: str, instead: str) -> None:
        """Copy a part of the text in which no reference can be written."""
        if self._finder.within(self._text[self._at : end]):
            self._refuse(f"{where} it is not taken as data by every shell", instead)
        self._copy(end - self._at)

    def _end_of_ansi(self) -> int:
        found = re.compile(r"\$'(?:[^'\\]|\\.)*'", re.DOTALL).match(self._text, self._at)
        return found.end() if found else len(self._text)

    def _end_of_backquotes(self) -> int:
        found = re.compile(r"`(?:[^`\\]|\\.)*`", re.DOTALL).match(self._text, self._at)
        if found is None:
            self._refuse("a backquote is never closed")
        return found.end()

    def _end_of_parentheses(self, start: int) -> int:
        depth = 0
        for at in range(start, len(self._text)):
            depth += {"(": 1, ")": -1}.get(self._text[at], 0)
            if not depth:
                return at + 1
        return self._refuse("a parenthesis is never closed")

    def _find(self, char: str, start: int) -> int:
        end = self._text.find(char, start)
        if end < 0:
            self._refuse(f"what opens at {self._text[self._at : self._at + 20]!r} is never closed")
        return end

    def _is_quoted(self) -> bool:
        return any(frame.place is _Place.DOUBLE for frame in self._stack)

    def _open(self, place: _Place, length: int) -> None:
        self._stack.append(_Frame(place, self._at))
        self._copy(length)

    def _copy(self, length: int) -> None:
        text = self._text[self._at : self._at + length]
        self._at += length
        if self._parts and isinstance(self._parts[-1], str):
            self._parts[-1] += text
        else:
            self._parts.append(text)

    def _refuse(self, why: str, instead: str = "") -> NoReturn:
        more = f"; write {instead} instead" if instead else ""
        raise TemplateError(
            f"the replacement string cannot stand there: {why}{more}"
            if instead
            else f"cannot run this text with a shell: {why}"
        )


_OUTSIDE_QUOTES: Final[tuple[tuple[str, Callable[[_Scanner], None]], ...]] = (
    ("\n", _Scanner.newline),
    ("#", _Scanner.comment),
    ("$'", _Scanner.ansi),
    ("'", _Scanner.single),
    ('"', _Scanner.double),
    ("((", _Scanner.arithmetic),
    ("<(", _Scanner.inner),
    (">(", _Scanner.inner),
    ("(", _Scanner.inner),
    (")", _Scanner.closing),
    ("<<<", _Scanner.here_string),
    ("<<", _Scanner.document),
)
"""What begins with what; the first that fits."""
