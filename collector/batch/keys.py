"""The key of a job: what is run, its input, and how many inputs before it were the same.

Runs in:    any process; pure.
Invariants: I1  two inputs have one key text if and only if they are of one kind and equal: `1`,
                `1.0`, `True`, `"1"`, `Path("1")`, `("1",)` and `["1"]` are seven.
            I2  a key depends on nothing else: not on positions, other inputs, the process, its
                platform or its version of Python.
            I3  a key text ends where its own first bytes say, so that no two texts joined can be
                read in two ways.
Source:     length-prefixed strings after D. J. Bernstein's netstrings; BLAKE2 is RFC 7693.
"""

import hashlib
import numbers
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

FORMAT: Final = 1
"""Version of the batch directory's format; it counts in every key."""

KEY_BYTES: Final = 16


def key_text(value: object) -> bytes:
    """Return the key text of an input.

    Raises:
        TypeError: It is, or holds, what has no key text: the caller must give `key=`.
    """
    make = _MAKERS.get(type(value), _text)
    try:
        return make(value)
    except RecursionError:
        raise TypeError("an input that contains itself has no key: give key=") from None
    except ValueError as error:  # Python's limit, against numbers that take for ever to be written
        if "integer string conversion" not in str(error):
            raise
        message = (
            f"a whole number of more than {sys.get_int_max_str_digits()} digits has no key: give "
            "key=, for example key=hex, or raise the limit with sys.set_int_max_str_digits()"
        )
        raise TypeError(message) from None


def _text(value: object) -> bytes:
    make = _MAKERS.get(type(value))
    if make is not None:
        return make(value)
    for kind, make in _KINDS:
        if isinstance(value, kind):
            # A subclass says more than its value: a named tuple is no tuple, an IntEnum no int.
            return _tagged(b"c", _class_name(value)) + make(value)
    raise TypeError(
        f"{type(value).__qualname__} is no kind of input that collector makes a key of (str, "
        "bytes, numbers, None, paths, and tuples, lists and dicts of these): give key=, a function "
        "of the input that returns one of these"
    )


def _tagged(tag: bytes, data: bytes) -> bytes:
    return b"%b%d:%b" % (tag, len(data), data)


def _many(tag: bytes, texts: Iterable[bytes]) -> bytes:
    found = list(texts)
    return b"%b%d:%b" % (tag, len(found), b"".join(found))


def _class_name(value: object) -> bytes:
    if isinstance(value, os.PathLike):
        return b"path"  # of whatever class: what counts is where it leads
    return f"{type(value).__module__}.{type(value).__qualname__}".encode(errors="surrogatepass")


def _str(value: Any) -> bytes:
    data = str.encode(value, "utf-8", "surrogatepass")
    return b"s%d:%b" % (len(data), data)


def _path(value: Any) -> bytes:
    return _tagged(b"p", os.fsencode(value))


def _dict(value: Any) -> bytes:
    items: Mapping[Any, Any] = value
    return _many(b"d", sorted(_text(key) + _text(item) for key, item in items.items()))


_MAKERS: Final[Mapping[type, Callable[[Any], bytes]]] = {
    str: _str,
    bytes: lambda value: _tagged(b"y", value),
    int: lambda value: b"i%d:%b" % (len(text := b"%d" % value), text),
    bool: lambda value: b"b1:1" if value else b"b1:0",
    float: lambda value: _tagged(b"f", float.__repr__(value).encode()),
    complex: lambda value: _tagged(b"j", complex.__repr__(value).encode()),
    type(None): lambda _value: b"n0:",
    tuple: lambda value: _many(b"t", map(_text, value)),
    list: lambda value: _many(b"l", map(_text, value)),
    dict: _dict,
}

_KINDS: Final[tuple[tuple[type, Callable[[Any], bytes]], ...]] = (
    (str, _str),
    (bytes, lambda value: _tagged(b"y", bytes(value))),
    (int, lambda value: _tagged(b"i", int.__repr__(value).encode())),
    (float, lambda value: _tagged(b"f", float.__repr__(value).encode())),
    (complex, lambda value: _tagged(b"j", complex.__repr__(value).encode())),
    (numbers.Number, lambda value: _tagged(b"x", str(value).encode())),
    (tuple, lambda value: _many(b"t", map(_text, value))),
    (list, lambda value: _many(b"l", map(_text, value))),
    (dict, _dict),
    (os.PathLike, _path),
)


class Keys:
    """Makes the keys of one batch.

    Args:
        what: What is run: the name of a function, or the template of a command.
    """

    def __init__(self, what: str) -> None:
        name = what.encode("utf-8", "surrogatepass")
        start = b"collector batch %d:%d:%b" % (FORMAT, len(name), name)
        self._start = hashlib.blake2b(start, digest_size=KEY_BYTES)

    def key(self, text: bytes, earlier: int = 0) -> str:
        """Return the key of a job, as 32 hexadecimal digits.

        Args:
            text: The key text of its input.
            earlier: How many inputs before it have the same one.
        """
        return self.digest(text, earlier).hex()

    def digest(self, text: bytes, earlier: int = 0) -> bytes:
        """Return the key of a job as bytes; for the rest as `key`."""
        made = self._start.copy()
        made.update(b"%b%d" % (text, earlier))
        return made.digest()


def part_of(key: str, parts: int) -> int:
    """Tell which of so many parts of a batch a key falls into; the first is 1.

    More inputs move none of the others.
    """
    return int(key, 16) % parts + 1


def input_text(value: object) -> str:
    """Say an input for people: a text as it is, a path as one, all else as Python writes it.

    Of what cannot be written, such as a whole number beyond Python's limit, only the class is said.
    """
    try:
        return _written(value)
    except Exception:  # noqa: BLE001 - a __repr__ of the user's: its job can run all the same
        return f"<{type(value).__qualname__} that cannot be written>"


def _written(value: object) -> str:
    if type(value) in {int, float, tuple, list}:
        return repr(value)  # of a million inputs most are of these kinds, or texts
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | os.PathLike):
        return os.fsdecode(value)
    return repr(value)
