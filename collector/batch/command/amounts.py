"""Numbers as people write them on a command line: sizes, times, shares.

Runs in:    any process; pure.
"""

import re
from collections import deque
from typing import Final, NamedTuple, final

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtpKMGTP]?)(i?)(B?)", re.ASCII)
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)
_LOAD: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(%?)", re.ASCII)
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_S: Final = 36500 * 86400
"""Not much more can be waited for: nanoseconds are counted in 64 bits."""
MOST_BYTES: Final = 1 << 60
"""Of any amount: the kernel counts bytes in 63 bits."""
_SHOWN: Final = 40
_STEPS: Final = "kmgtp"
_HUNDRED: Final = 100
_DURATIONS: Final = 1001
_FEW: Final = 3
"""A share of the median is known once so many jobs have ended well."""


def size(text: str) -> int:
    """Return a number of bytes: "4096", "64K", "5MiB", "1.5G".

    Powers of 1000 are k, m, g and so on, as in GNU parallel, and kB, MB; K and KiB are of 1024.

    Raises:
        ValueError: It is none, or more than any machine has.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size: write 4096, 64K, 5MiB or 1.5G")
    number, prefix, binary, byte = found.groups()
    decimal = prefix.islower() or (byte and not binary)
    power = _STEPS.index(prefix.lower()) + 1 if prefix else 0
    step = 1000 if decimal and not binary else 1024
    amount = float(number) * float(step**power)
    if amount > MOST_BYTES:
        raise ValueError(f"{text.strip()[:_SHOWN]!r} is more than {MOST_BYTES >> 40} TiB")
    return round(amount)


def duration_s(text: str) -> float:
    """Return seconds: "10", "0.5", "90s", "5m", "2h", "1d".

    Raises:
        ValueError: It is none, or longer than what can be waited for.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no time: write 10, 0.5, 5m or 2h")
    seconds = float(found[1]) * _SECONDS[found[2]]
    if seconds > LONGEST_S:
        raise ValueError(f"{text!r} is longer than {LONGEST_S / _SECONDS['d']:.0f} days")
    return seconds


class Share(NamedTuple):
    """A number, or so many percent of something."""

    number: float
    percent: bool

    def of(self, whole: float) -> float:
        """Return the number."""
        return whole * self.number / _HUNDRED if self.percent else self.number


def time_limit(text: str) -> Share:
    """Return seconds, or percent of the median.

    Raises:
        ValueError: It is neither, or nothing.
    """
    if text.endswith("%"):
        number = _number(text[:-1], text)
        share = Share(number, percent=True)
    else:
        share = Share(duration_s(text), percent=False)
    if share.number <= 0:
        raise ValueError(f"{text!r}: a time limit must be more than 0")
    return share


@final
class Limit:
    """The time limit of an attempt.

    Args:
        share: In seconds, or of the median of what has ended well; None for none.

    Attributes:
        seconds: What it is now; None for none.
    """

    def __init__(self, share: Share | None) -> None:
        self._share = share if share is not None and share.percent else None
        self._durations: deque[float] = deque(maxlen=_DURATIONS)
        self.seconds = share.number if share is not None and not share.percent else None

    def took(self, seconds: float) -> None:
        """An attempt has ended well after so long."""
        if self._share is not None:
            self._durations.append(seconds)
            if len(self._durations) >= _FEW:
                self.seconds = self._share.of(sorted(self._durations)[len(self._durations) // 2])


def jobs(text: str, cpus: int) -> int:
    """Return how many jobs run at a time: "4", "50%" of the CPUs, "+2" more than those, "-1" less.

    Raises:
        ValueError: It is no number, or makes less than one.
    """
    if text.endswith("%"):
        return max(1, int(cpus * _number(text[:-1], text) / _HUNDRED))
    found = re.fullmatch(r"([+-]?)([0-9]{1,6})", text, re.ASCII)
    if found is None:
        _check_size(text.lstrip("+-"), text)
        raise ValueError(f"{text!r} is no number of jobs: write 4, 50% or +2")
    number = int(found[2])
    if found[1]:
        return max(1, cpus + number if found[1] == "+" else cpus - number)
    if not number:
        raise ValueError("0 jobs at a time run nothing: write 4, 50% or +2")
    return number


def load(text: str, cpus: int) -> float:
    """Return a load average: "4", or "80%" of the CPUs.

    Raises:
        ValueError: It is none, or one that no machine is below.
    """
    found = _LOAD.fullmatch(text)
    if found is None or not float(found[1]):
        raise ValueError(f"{text!r} is no load that can be waited for: write 4 or 80%")
    return Share(float(found[1]), percent=bool(found[2])).of(cpus)


def _number(text: str, whole: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]{1,6})?", text, re.ASCII):
        _check_size(text, whole)
        raise ValueError(f"{whole!r} is no percentage: write 50%")
    return float(text)


def _check_size(number: str, whole: str) -> None:
    if re.fullmatch(r"[0-9]{7,}", number, re.ASCII):
        raise ValueError(f"{whole[:_SHOWN]} is too large: write 4 or 50%, and at most 999999")
