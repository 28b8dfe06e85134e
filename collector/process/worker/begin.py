"""How a worker begins: what it is told, and what its process runs.

The parent has this alone, as of the sink (`collector/process/sink/begin.py`).

Runs in:    `main` and `run_group` in the worker.
"""

import pickle
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from collector.process.start.lineage import Ancestor
from collector.process.worker.running import current_job
from collector.wire.messages import LoadPart, RunDirectoryAt

MODULE = "collector.process.worker.main"
"""The rest of a worker, which whatever forks it loads beforehand."""


class WorkerArguments(NamedTuple):
    """What a worker is told when it starts."""

    run_directory: RunDirectoryAt
    scratch_prefix: str
    number: int
    parent_pid: int
    ancestors: list[Ancestor]
    trackers: list[str]
    queue_descriptors: int
    initializer: bytes
    parts: list[LoadPart]
    """What the initializer needs of the script."""
    log_levels: dict[str, int]
    dies_with_its_parent: bool
    """True where a long-lived thread of the parent itself starts workers."""
    forked: bool
    """From the parent itself."""


def main(descriptors: Sequence[int], arguments: bytes) -> None:
    """Run a worker.

    Args:
        descriptors: The job pipe, the parent's life, the recall pipe, the ends of the queue's
            writer, the resource trackers, and what comes along with the initializer.
        arguments: A pickled `WorkerArguments`.
    """
    import_module(MODULE).run(descriptors, pickle.loads(arguments))


def run_group(fn: Callable[..., Any], group: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Make several calls in one job, for `map`; returns their values."""
    current, finish = current_job(), import_module(MODULE).finish
    return [finish(fn(*args), current) for args in group]
