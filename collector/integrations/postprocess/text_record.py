"""What the record beside a finished text says: counts, a digest, and the caller's result as JSON.

Invariants: I1  counting holds one block of the text, and makes no object for each word or line.
"""

import dataclasses
import datetime as dt
import enum
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, final

from collector.store.output.output import Output

_SPACE: Final = b" \t\n\r\x0b\x0c"
_SPACE_OR_X: Final = bytes(0x20 if byte in _SPACE else 0x78 for byte in range(256))


@final
class TextCount:
    """Counts and digests bytes as they go by.

    Attributes:
        bytes: How many there were.
        words: Runs of bytes between ASCII white space, as `wc -w` counts.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.words = 0
        self._line_feeds = 0
        self._last = b"\n"
        self._digest = hashlib.sha256()

    @property
    def lines(self) -> int:
        """Line feeds, and a last line without one."""
        return self._line_feeds + (self._last != b"\n")

    @property
    def sha256(self) -> str:
        """The digest in hexadecimal."""
        return self._digest.hexdigest()

    def add(self, block: bytes) -> None:
        """Count a block."""
        if not block:
            return
        self._digest.update(block)
        # A word begins where white space is followed by something else. This is ten times as fast
        # as split(), and makes no object for each word (I1).
        self.words += block.translate(_SPACE_OR_X).count(b" x")
        self.words += self._last in _SPACE and block[0] not in _SPACE
        self._line_feeds += block.count(b"\n")
        self.bytes += len(block)
        self._last = block[-1:]


def as_plain_json(value: Any) -> Any:
    """Make of a result what `json` can write; dataclasses, paths, enums and dates are made plain.

    Raises:
        TypeError: Something in it has no JSON form.
    """
    try:
        text = json.dumps(value, default=_plain, allow_nan=False)
        plain = json.loads(text, object_pairs_hook=_one_of_each_key)
        record_bytes({"base_result": plain})  # it takes less depth than the encoder before
    except RecursionError:
        why = "it is nested too deep, or in itself"
        raise TypeError(f"base_result cannot be written as JSON: {why}") from None
    except (TypeError, ValueError) as error:
        raise TypeError(f"base_result cannot be written as JSON: {error}") from error
    return plain


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """Make the bytes of a record."""
    text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
    return text.encode(
        "utf-8", "backslashreplace"
    )  # a file name that is not UTF-8: \\udc.. is JSON


def _one_of_each_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of what JSON has; of two keys as 1 and "1" one would be lost."""
    made = dict(pairs)
    if len(made) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"two keys of a dict are both {twice!r} there")
    return made


def _plain(value: object) -> Any:
    """Turn what `json` does not know into what it does."""
    if isinstance(value, Output):  # before PathLike: asking for its path could write a file
        return {"size": value.size, "complete": value.complete}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value))
        return {name: _field(value, name) for name in names if not name.startswith("_")}
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (dt.datetime, dt.date)):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _field(value: object, name: str) -> Any:
    try:
        return getattr(value, name)
    except AttributeError as error:  # a slot to which nothing was assigned
        message = f"{type(value).__name__} has no value for its field {name}"
        raise TypeError(message) from error
