"""The names that outputs are saved under: templates, filled with what a job is.

Runs in:    any process; pure.
Invariants: I1  no input leads out of the directory that the template names.
"""

import os
import string
from pathlib import PurePath
from typing import Any, Final, final

FIELDS: Final = ("input", "key", "seq", "name")


class _Text(str):
    """An input that is a text, and may be asked for the parts of a path."""

    __slots__ = ()

    @property
    def stem(self) -> str:
        return PurePath(self).stem

    @property
    def name(self) -> str:
        return PurePath(self).name

    @property
    def suffix(self) -> str:
        return PurePath(self).suffix

    @property
    def parent(self) -> str:
        return str(PurePath(self).parent)


@final
class Template:
    """A name with fields, as of `str.format`: `input`, `key`, `seq` and `name`.

    Args:
        text: For example "out/{input.stem}.txt".

    Raises:
        ValueError: It is no template, or has a field that there is not.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"{text!r} is no template: {error}") from None
        for _, field, _, _ in parts:
            first = field and field.partition(".")[0].partition("[")[0]
            if first is not None and first not in FIELDS:
                known = ", ".join(f"{{{name}}}" for name in FIELDS)
                raise ValueError(f"{text!r} has a field {{{field}}}: there are {known}")
        if not text or text.endswith("/"):
            raise ValueError(f"{text!r} names no file")
        fixed = parts[0][0] if parts else ""
        self._directory = directory_of(fixed)

    def name(self, value: object, *, key: str, seq: int, name: str) -> str:
        """Fill the template.

        Raises:
            ValueError: The name leads out of the template's directory, or names no file; or the
                input has not what a field asks for.
        """
        text: Any = value
        if isinstance(value, str):
            text = _Text(value)
        elif isinstance(value, os.PathLike):
            text = _Text(os.fsdecode(value))
        try:
            filled = self.text.format(input=text, key=key, seq=seq, name=name)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{self.text!r} cannot be filled for {value!r}: {error}") from None
        if not names_a_file(filled):
            raise ValueError(f"{filled!r}, of {self.text!r}, names no file")
        found = name_below(self._directory, filled)
        if found is None:
            raise ValueError(
                f"{filled!r}, of {self.text!r}, leads out of the template's directory "
                f"{self._directory or os.curdir!r}"
            )
        return found


def names_a_file(name: str) -> bool:
    """Tell whether a file can have such a name, on any file system."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # half a character of UTF-16
        return False
    return "\0" not in name and os.path.basename(name) not in {"", os.curdir, os.pardir}


def directory_of(fixed: str) -> str:
    """Return the directory that a template names: up to the last "/" before its first field."""
    return fixed[: fixed.rfind(os.sep) + 1]


def name_below(directory: str, filled: str) -> str | None:
    """Return the name in a template's directory, or None if that leads out of it.

    What the user has written stays as it is; in what is filled in, ".." is taken for what stands
    before it, so that an input leads through no link to another place.

    Args:
        directory: As `directory_of` returns it.
        filled: The template, filled.
    """
    below = filled[len(directory) :]
    below = os.path.normpath(below.lstrip(os.sep) if directory else below)
    leads_out = os.path.isabs(below) or below.split(os.sep, 1)[0] == os.pardir
    return None if leads_out else directory + below
