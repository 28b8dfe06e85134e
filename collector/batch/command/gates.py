"""Whether the next job may start now: `--delay`, `--memfree`, `--load`.

Runs in:    the parent.
Owns:       nothing.
"""

import os
from typing import Final, NamedTuple, final

from collector.progress.text import size_text

LOOK_AGAIN_S: Final = 0.5
"""So often the system is asked while a job waits for it."""


class Limits(NamedTuple):
    """What must hold when a job starts.

    Attributes:
        delay_s: Seconds since the last start.
        memfree: Bytes of memory that are free.
        load: The load average is below this.
    """

    delay_s: float = 0.0
    memfree: int = 0
    load: float | None = None

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self.delay_s or self.memfree or self.load is not None)


class Closed(NamedTuple):
    """A job may not start yet: ask again after so many seconds; why."""

    seconds: float
    why: str


@final
class Gate:
    """Knows when the last job has started."""

    def __init__(self, limits: Limits) -> None:
        self.limits: Final = limits
        self._opens_s = 0.0

    def closed(self, now_s: float) -> Closed | None:
        """Return why no job may start now; None if one may."""
        limits = self.limits
        if now_s < self._opens_s:
            return Closed(self._opens_s - now_s, "")  # as was asked for: nothing to be said
        if limits.memfree:
            free = free_memory()
            if free is not None and free < limits.memfree:
                return Closed(
                    LOOK_AGAIN_S,
                    f"memory: {size_text(free)} of {size_text(limits.memfree)} are free",
                )
        if limits.load is not None:
            load = os.getloadavg()[0]
            if load >= limits.load:
                return Closed(LOOK_AGAIN_S, f"load: it is {load:.2f}, not below {limits.load:g}")
        return None

    def started(self, now_s: float) -> None:
        """A job has started."""
        self._opens_s = now_s + self.limits.delay_s


def free_memory() -> int | None:
    """Return the bytes that a new process could have; None where that is not known."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None
