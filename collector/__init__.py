"""Run the jobs of a batch in worker processes and collect what they write while they run.

`Collector` is an executor of `concurrent.futures` whose jobs also have an output: what they yield
or write arrives while they run, in memory up to 5 MiB and beyond it in a file. `SpillManager` is
such an output for use on its own.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collector.broken import BrokenCollectorError as BrokenCollectorError
    from collector.broken import WorkerCrashError as WorkerCrashError
    from collector.errors import ClosedError as ClosedError
    from collector.errors import CollectorError as CollectorError
    from collector.errors import JobError as JobError
    from collector.errors import JobKilledError as JobKilledError
    from collector.errors import JobTimeoutError as JobTimeoutError
    from collector.errors import OutputLostError as OutputLostError
    from collector.errors import ProtocolError as ProtocolError
    from collector.errors import RunDirectoryError as RunDirectoryError
    from collector.errors import SpillError as SpillError
    from collector.executor.collector import Collector as Collector
    from collector.executor.job import Job as Job
    from collector.process.current import CurrentJob as CurrentJob
    from collector.process.running import current_job as current_job
    from collector.progress.event import ProgressEvent as ProgressEvent
    from collector.progress.event import ProgressSink as ProgressSink
    from collector.store.mode import Mode as Mode
    from collector.store.output import Output as Output
    from collector.store.reclaim import list_runs as list_runs
    from collector.store.reclaim import reclaim as reclaim
    from collector.store.spill import Progress as Progress
    from collector.store.spill import SpillManager as SpillManager
    from collector.store.spill import cleanup_temp_files as cleanup_temp_files
    from collector.store.spill import temp_file_count as temp_file_count

_HOMES: Final = {
    "BrokenCollectorError": "collector.broken",
    "ClosedError": "collector.errors",
    "Collector": "collector.executor.collector",
    "CollectorError": "collector.errors",
    "Job": "collector.executor.job",
    "JobError": "collector.errors",
    "JobKilledError": "collector.errors",
    "JobTimeoutError": "collector.errors",
    "Mode": "collector.store.mode",
    "Output": "collector.store.output",
    "OutputLostError": "collector.errors",
    "Progress": "collector.store.spill",
    "ProgressEvent": "collector.progress.event",
    "ProtocolError": "collector.errors",
    "RunDirectoryError": "collector.errors",
    "SpillError": "collector.errors",
    "SpillManager": "collector.store.spill",
    "WorkerCrashError": "collector.broken",
    "cleanup_temp_files": "collector.store.spill",
    "current_job": "collector.process.running",
    "list_runs": "collector.store.reclaim",
    "reclaim": "collector.store.reclaim",
    "temp_file_count": "collector.store.spill",
}

_HOMES_FOR_HINTS: Final = {
    "CurrentJob": "collector.process.current",
    "ProgressSink": "collector.progress.event",
}
"""Where `typing.get_type_hints` finds the types that stand in the signatures of public names."""

__all__ = [
    "BrokenCollectorError",
    "ClosedError",
    "Collector",
    "CollectorError",
    "Job",
    "JobError",
    "JobKilledError",
    "JobTimeoutError",
    "Mode",
    "Output",
    "OutputLostError",
    "Progress",
    "ProgressEvent",
    "ProtocolError",
    "RunDirectoryError",
    "SpillError",
    "SpillManager",
    "WorkerCrashError",
    "cleanup_temp_files",
    "current_job",
    "list_runs",
    "reclaim",
    "temp_file_count",
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first used: importing collector alone costs next to nothing."""
    home = _HOMES.get(name) or _HOMES_FOR_HINTS.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__all__"]
