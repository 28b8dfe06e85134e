"""Checks of what people give: each error names the argument and what it must be.

Pure.
"""

import math
from numbers import Real
from typing import SupportsIndex


def text(name: str, value: object) -> str:
    """Return a str, of a subclass as what it holds: other processes have no enum of the script's.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {value!r}")
    return str.__str__(value)  # a subclass may have a __str__ of its own


def whole(name: str, value: object, *, least: int) -> int:
    """Return a whole number, of numpy's too, of at least so much.

    Raises:
        TypeError: It is none.
        ValueError: It is less.
    """
    if not isinstance(value, SupportsIndex) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value.__index__() < least:
        raise ValueError(f"{name} must be at least {least}; it is {value}")
    return value.__index__()


def number(name: str, value: object, *, least: float = 0.0, kind: str = "a number") -> float:
    """Return a finite number of at least so much, as a float.

    Raises:
        TypeError: It is none.
        ValueError: It is less, or more than a float can be.
    """
    found = as_float(name, value, kind)
    if not least <= found < math.inf:
        raise ValueError(f"{name} must be at least {least:g}, and finite; it is {value}")
    return found


def seconds(name: str, value: object) -> float:
    """Return a time; infinite, or less than 0, it may be.

    Raises:
        TypeError: It is none.
    """
    return as_float(name, value, "a number of seconds")


def as_float(name: str, value: object, kind: str = "a number") -> float:
    """Return any number as a float; infinite, if it is more than a float can be.

    Raises:
        TypeError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {kind}, not {value!r}")
    try:
        return float(value)
    except OverflowError:  # a whole number or a fraction
        return -math.inf if value < 0 else math.inf
