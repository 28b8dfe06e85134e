"""What a worker says of its job beside the output, as JSON: what it counts, and what it raised.

Pure. Nothing in it is believed: what has not the form that is stated here counts as not said.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

LARGEST: Final = 1e100
"""Of what is counted, either way: the sums of all jobs stay numbers that a float holds."""

_NAME_CHARS: Final = 1000
_AFTER_S: Final = 1e9
"""Longest wait that is believed, some thirty years."""


class Said(NamedTuple):
    """One remark.

    Attributes:
        meters: What is to be added to the meters of the job.
        kinds: Names of the class of what it raised, and of the bases.
        later: Seconds to wait, and the resource, if it raised `RetryLater`.
    """

    meters: Mapping[str, float] = {}
    kinds: frozenset[str] = frozenset()
    later: tuple[float, str] | None = None


def counted(meters: Mapping[str, float]) -> bytes:
    """Say what a job has counted."""
    return json.dumps({"meters": dict(meters)}).encode()


def raised(kinds: list[str], later: tuple[float, str] | None) -> bytes:
    """Say what a job has raised."""
    said: dict[str, Any] = {"kinds": kinds}
    if later is not None:
        said["later"] = list(later)
    return json.dumps(said).encode()


def read(text: bytes) -> Said:
    """Return what was said; nothing, if it has not the form."""
    try:
        said = json.loads(text)
        if not isinstance(said, dict):
            return Said()
        later = said.get("later")
        return Said(
            {_name(name): _number(value) for name, value in said.get("meters", {}).items()},
            frozenset(map(_name, said.get("kinds", ()))),
            None if later is None else (_wait(later[0]), _name(later[1])),
        )
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return Said()


def _name(value: object) -> str:
    if not isinstance(value, str) or len(value) > _NAME_CHARS:
        raise ValueError("no name")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError("no number")
    if not -LARGEST <= value <= LARGEST:
        raise ValueError("no number that anybody counts to")
    return value


def _wait(value: object) -> float:
    return min(max(_number(value), 0.0), _AFTER_S)
