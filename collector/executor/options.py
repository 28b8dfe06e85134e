"""The settings of one job, checked."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, SupportsIndex, final

from collector import settings
from collector.executor.job import Job
from collector.store.spill import Progress

ProgressCallback = Callable[[Job[Any], Progress], object]


@final
@dataclass(frozen=True, slots=True)
class Options:
    """What may differ from job to job of one Collector."""

    name: str | None = None
    timeout: float | None = None
    retries: int = 0
    memory_threshold: int = settings.MEMORY_THRESHOLD_BYTES
    on_progress: ProgressCallback | None = None
    capture: bool = False

    def __post_init__(self) -> None:
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"name must be a str, not {self.name!r}")
        if self.timeout is not None and not _is_number(self.timeout):
            raise TypeError(f"timeout must be a number of seconds, not {self.timeout!r}")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds: {self.timeout!r}")
        whole("retries", self.retries, least=0)
        whole("memory_threshold", self.memory_threshold, least=0)
        if self.on_progress is not None and not callable(self.on_progress):
            raise TypeError(f"on_progress must be callable, not {self.on_progress!r}")
        if not isinstance(self.capture, bool):
            raise TypeError(f"capture must be True or False, not {self.capture!r}")


def whole(name: str, value: object, *, least: int) -> None:
    """Check that an argument is a whole number, of numpy's too, of at least so much."""
    if not isinstance(value, SupportsIndex) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value.__index__() < least:
        raise ValueError(f"{name} must be at least {least}; it is {value}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
