"""The settings of a Collector and of one job, checked.

Invariants: I1  what is wrong is said before any process is started, so this loads next to nothing:
                a named tuple spares `dataclasses`, which takes 7 ms.
"""

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, SupportsIndex, final

from collector import settings
from collector.checks import seconds, text, whole
from collector.process.scheduler.retries import Retry
from collector.wire.capture import Capture

if TYPE_CHECKING:
    import collector

ENGINES: Final = ("local", "ray")

ProgressCallback = Callable[["collector.Job[Any]", "collector.Progress"], object]


@final
class PoolOptions(NamedTuple):
    """What all jobs of one Collector share."""

    max_workers: int | None
    max_tasks_per_child: int | None
    memory_budget: int
    temp_root: str | os.PathLike[str] | None
    """Judged when a run directory is made in it."""
    temp_file_base_name: str
    progress: "bool | collector.ProgressSink | None"
    verbose: bool
    ask: bool
    engine: str = "local"
    address: str | None = None
    ray_options: Mapping[str, Any] | None = None
    resources: Mapping[str, int] = {}

    def checked(self) -> Self:
        """Return these, if they make sense.

        Raises:
            ValueError: A number that makes none.
            TypeError: One of a wrong type.
        """
        workers = self.max_workers
        if workers is not None:
            workers = whole("max_workers", workers, least=1)
        tasks = self.max_tasks_per_child
        if tasks is not None:
            tasks = whole("max_tasks_per_child", tasks, least=1)
        budget = whole("memory_budget", self.memory_budget, least=0)
        base_name = text("temp_file_base_name", self.temp_file_base_name)
        self._check_engine()
        if not isinstance(self.ask, bool):
            raise TypeError(f"ask must be True or False, not {self.ask!r}")
        if not isinstance(self.resources, Mapping):
            raise TypeError(f"resources must be a mapping of names, not {self.resources!r}")
        limits = {_resource(name): _limit(name, limit) for name, limit in self.resources.items()}
        if not _is_progress(self.progress):
            raise TypeError(
                "progress must be None, a bool, or have update(event) and close(): "
                f"{self.progress!r}"
            )
        return self._replace(
            max_workers=workers,
            max_tasks_per_child=tasks,
            memory_budget=budget,
            temp_file_base_name=base_name,
            resources=limits,
        )

    def _check_engine(self) -> None:
        text("engine", self.engine)
        if self.engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {self.engine!r}")
        for name in ("address", "ray_options"):
            if self.engine == "local" and getattr(self, name) is not None:
                raise TypeError(f'{name}= is about a cluster: give engine="ray" too')
        if self.address is not None:
            text("address", self.address)
        if self.ray_options is not None and not isinstance(self.ray_options, Mapping):
            raise TypeError(f"ray_options must be a dict, not {self.ray_options!r}")


@final
class Options(NamedTuple):
    """What may differ from job to job of one Collector."""

    name: str | None = None
    timeout: float | None = None
    retries: int | Retry = 0
    memory_threshold: int = settings.MEMORY_THRESHOLD_BYTES
    on_progress: ProgressCallback | None = None
    capture: bool | Capture = Capture.NOTHING
    resource: str | None = None

    def checked(self) -> Self:
        """Return these, if they make sense.

        Raises:
            ValueError: A number that makes none.
            TypeError: One of a wrong type.
        """
        name = None if self.name is None else text("name", self.name)
        retries = self.retries
        if not isinstance(retries, Retry):
            if not isinstance(retries, SupportsIndex):
                raise TypeError(f"retries must be a whole number or a Retry, not {retries!r}")
            retries = whole("retries", retries, least=0)
        resource = None if self.resource is None else _resource(self.resource)
        threshold = whole("memory_threshold", self.memory_threshold, least=0)
        if self.on_progress is not None and not callable(self.on_progress):
            raise TypeError(f"on_progress must be callable, not {self.on_progress!r}")
        if not isinstance(self.capture, bool | Capture):
            raise TypeError(f"capture must be True or False, not {self.capture!r}")
        return self._replace(
            name=name,
            timeout=_time_limit(self.timeout),
            retries=retries,
            memory_threshold=threshold,
            resource=resource,
        )


@final
class BatchOptions(NamedTuple):
    """How `collect` keeps a batch in a directory."""

    batch: str | os.PathLike[str] | None = None
    key: Callable[[Any], object] | None = None
    save: str | Callable[[Any], str | os.PathLike[str]] | None = None
    resume: str = "failed"
    durable: bool = False
    keep_failed: bool = False
    shard: tuple[int, int] | None = None

    def checked(self) -> Self:
        """Return these, if they make sense.

        Raises:
            ValueError: A value that makes none.
            TypeError: One of a wrong type, or an option of a batch directory without one.
        """
        if self.batch is None:
            for name, value in self._asdict().items():
                if value != self._field_defaults[name]:
                    raise TypeError(f"{name}= is about a batch directory: give batch= too")
            return self
        for name, right, kinds in (
            ("batch", isinstance(self.batch, str | os.PathLike), "the path of a directory"),
            ("key", self.key is None or callable(self.key), "callable"),
            (
                "save",
                self.save is None or isinstance(self.save, str) or callable(self.save),
                "a template or callable",
            ),
            ("resume", isinstance(self.resume, str), "'failed', 'new', 'all' or 'never'"),
            ("durable", isinstance(self.durable, bool), "True or False"),
            ("keep_failed", isinstance(self.keep_failed, bool), "True or False"),
            ("shard", self.shard is None or isinstance(self.shard, tuple), "(i, n)"),
        ):
            if not right:
                raise TypeError(f"{name} must be {kinds}, not {getattr(self, name)!r}")
        return self._replace(shard=self._checked_shard())

    def _checked_shard(self) -> tuple[int, int] | None:
        if self.shard is None:
            return None
        if len(self.shard) != 2:  # noqa: PLR2004 - one of how many
            raise ValueError(f"shard must be (i, n), not {self.shard!r}")
        part = whole("the first number of shard", self.shard[0], least=1)
        parts = whole("the second number of shard", self.shard[1], least=1)
        if part > parts:
            raise ValueError(f"shard must be (i, n) with i from 1 to n, not {self.shard!r}")
        return part, parts


def _time_limit(value: object) -> float | None:
    if value is None:
        return None
    limit = seconds("timeout", value)
    if not limit > 0:
        raise ValueError(f"timeout must be more than 0 seconds: {value!r}")
    return limit


def _resource(name: object) -> str:
    found = text("the name of a resource", name)
    if not found:
        raise ValueError("the name of a resource must not be empty")
    return found


def _limit(name: str, limit: object) -> int:
    return whole(f"the limit of resource {name!r}", limit, least=1)


def _is_progress(value: object) -> bool:
    if value is None or isinstance(value, bool):
        return True
    return all(callable(getattr(value, name, None)) for name in ("update", "close"))
