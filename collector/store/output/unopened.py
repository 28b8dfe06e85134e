"""Tell whoever takes an output for an open file that there is `open`.

An output has `read`, so many take it for a file, and then ask for a part, or for a position.

Runs in:    any process.
"""

from typing import TYPE_CHECKING, Final, NoReturn

_OF_FILES: Final = frozenset(
    ("detach", "fileno", "peek", "read1", "readable", "readinto", "readlines", "seekable", "tell")
)
_ASKED_FOR_BEFORE_READING: Final = frozenset(("readline", "seek"))
"""Polars and pickle say themselves that these are missing, and then nobody hears of `open`."""


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
                raise AttributeError(f"an Output has no {name}(): use open(), whose file has")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def refuse_size(size: int | None) -> None:
    """Let `read(size)` be an error, but for a size that means all.

    Raises:
        TypeError: It is to be opened first.
    """
    if size is not None and size >= 0:
        _refuse()


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
