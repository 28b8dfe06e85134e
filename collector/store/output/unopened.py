"""Tell whoever takes an output for an open file that there is `open`.

An output has `read`, so many take it for a file, and then ask for a part, or for a position.

Runs in:    any process.
"""

import sys
from typing import TYPE_CHECKING, Final, NoReturn

_OF_FILES: Final = frozenset(
    (
        *("closed", "detach", "fileno", "mode", "name", "peek", "read1", "readable", "readinto"),
        *("readlines", "seekable", "tell"),
    )
)
_ASKED_FOR_BEFORE_READING: Final = frozenset(("readline", "seek"))
"""Polars and pickle say themselves that these are missing, and then nobody hears of `open`."""

_TAKE_FILES: Final = frozenset(
    (
        *("aifc", "asyncio.base_events", "codecs", "gzip", "shutil", "socket", "sunau", "wave"),
        "xml.dom.pulldom",
    )
)
"""Modules whose code takes an output for a file in spite of all this: some call `read()` or
`read(-1)` until nothing comes, which never ends; some take its mode for that of a file."""


class Unopened:
    """What can be read as a whole, and piece by piece only once it is opened."""

    __slots__ = ()

    __reversed__ = None

    def __contains__(self, part: object) -> NoReturn:
        # Without it, `in` compares what is sought with whole blocks, and hardly ever finds it.
        raise TypeError("an Output cannot be searched with in: use read(), or its lines()")

    if not TYPE_CHECKING:  # a type checker is to report what is not there

        def __getattr__(self, name: str) -> object:
            if name in _ASKED_FOR_BEFORE_READING:
                return _refuse
            if name in _OF_FILES:
                raise AttributeError(f"an Output has no {name}: use open(), whose file has")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def refuse_part(size: int | None) -> None:
    """Let `read(size)` be an error, but for a size that means all; and so by who reads on and on.

    Raises:
        TypeError: It is to be opened first.
    """
    if (size is not None and size >= 0) or _taken_for_a_file():
        _refuse()


def refuse_mode() -> None:
    """Have no mode for what takes it for that of a file.

    Raises:
        AttributeError: It has none.
    """
    if _taken_for_a_file():
        raise AttributeError("an Output has no mode of a file: use open(), whose file has")


def _taken_for_a_file() -> bool:
    """Tell whether the method that asks this, by a function, is called by such a module."""
    caller = sys._getframe(2).f_back  # noqa: SLF001 - there is no public way
    return caller is not None and caller.f_globals.get("__name__") in _TAKE_FILES


def refuse_index() -> NoReturn:
    """Say what has parts.

    Raises:
        TypeError: Always.
    """
    raise TypeError("an Output has no parts by index: use view()[...], or open() and seek")


def _refuse(*_arguments: object) -> NoReturn:
    raise TypeError(
        "an Output is no open file: its read() takes no size, and it has no position. Use open(), "
        "and give what that returns to whoever asks for a file"
    )
