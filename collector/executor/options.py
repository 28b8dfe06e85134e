"""The settings of a Collector and of one job, checked.

Invariants: I1  what is wrong is said before any process is started, so this loads next to nothing:
                a named tuple spares `dataclasses`, which takes 7 ms.
"""

import os
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple, Self, SupportsIndex, final

from collector import settings

if TYPE_CHECKING:
    import collector

ProgressCallback = Callable[["collector.Job[Any]", "collector.Progress"], object]


@final
class PoolOptions(NamedTuple):
    """What all jobs of one Collector share."""

    max_workers: int
    max_tasks_per_child: int | None
    memory_budget: int
    temp_root: str | os.PathLike[str] | None
    """Judged when a run directory is made in it."""
    temp_file_base_name: str
    progress: "bool | collector.ProgressSink | None"
    verbose: bool

    def checked(self) -> Self:
        """Return these, if they make sense.

        Raises:
            ValueError: A number that makes none.
            TypeError: One of a wrong type.
        """
        whole("max_workers", self.max_workers, least=1)
        if self.max_tasks_per_child is not None:
            whole("max_tasks_per_child", self.max_tasks_per_child, least=1)
        whole("memory_budget", self.memory_budget, least=0)
        text("temp_file_base_name", self.temp_file_base_name)
        if not _is_progress(self.progress):
            raise TypeError(
                "progress must be None, a bool, or have update(event) and close(): "
                f"{self.progress!r}"
            )
        return self


@final
class Options(NamedTuple):
    """What may differ from job to job of one Collector."""

    name: str | None = None
    timeout: float | None = None
    retries: int = 0
    memory_threshold: int = settings.MEMORY_THRESHOLD_BYTES
    on_progress: ProgressCallback | None = None
    capture: bool = False

    def checked(self) -> Self:
        """Return these, if they make sense.

        Raises:
            ValueError: A number that makes none.
            TypeError: One of a wrong type.
        """
        if self.name is not None:
            text("name", self.name)
        seconds("timeout", self.timeout)
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds: {self.timeout!r}")
        whole("retries", self.retries, least=0)
        whole("memory_threshold", self.memory_threshold, least=0)
        if self.on_progress is not None and not callable(self.on_progress):
            raise TypeError(f"on_progress must be callable, not {self.on_progress!r}")
        if not isinstance(self.capture, bool):
            raise TypeError(f"capture must be True or False, not {self.capture!r}")
        return self


def whole(name: str, value: object, *, least: int) -> None:
    """Check that an argument is a whole number, of numpy's too, of at least so much."""
    if not isinstance(value, SupportsIndex) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value.__index__() < least:
        raise ValueError(f"{name} must be at least {least}; it is {value}")


def seconds(name: str, value: object) -> None:
    """Check that an argument is a time, or None."""
    if value is not None and not _is_number(value):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")


def text(name: str, value: object) -> None:
    """Check that an argument is a str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {value!r}")


def _is_progress(value: object) -> bool:
    if value is None or isinstance(value, bool):
        return True
    return all(callable(getattr(value, name, None)) for name in ("update", "close"))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
