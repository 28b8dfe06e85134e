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
        self._directory = os.path.normpath(os.path.dirname(fixed) or os.curdir)

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
        if "\0" in filled or os.path.basename(filled) in {"", os.curdir, os.pardir}:
            raise ValueError(f"{filled!r}, of {self.text!r}, names no file")
        if not _is_below(os.path.normpath(filled), self._directory):
            raise ValueError(
                f"{filled!r}, of {self.text!r}, leads out of the template's directory "
                f"{self._directory!r}"
            )
        return filled


def _is_below(path: str, directory: str) -> bool:
    if directory == os.curdir:
        return not os.path.isabs(path) and path.split(os.sep, 1)[0] != os.pardir
    return path.startswith(directory if directory.endswith(os.sep) else directory + os.sep)
