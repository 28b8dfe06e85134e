"""Run the jobs of a batch in worker processes and collect what they write while they run.

`Collector` is an executor of `concurrent.futures` whose jobs also have an output: what they yield
or write arrives while they run, in memory up to 5 MiB and beyond it in a file. `SpillManager` is
such an output for use on its own.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    __version__: str
    from collector.batch.batch import Batch as Batch
    from collector.crash_errors import BrokenCollectorError as BrokenCollectorError
    from collector.crash_errors import WorkerCrashError as WorkerCrashError
    from collector.errors import BatchError as BatchError
    from collector.errors import BatchHaltedError as BatchHaltedError
    from collector.errors import ClosedError as ClosedError
    from collector.errors import CollectorError as CollectorError
    from collector.errors import JobError as JobError
    from collector.errors import JobKilledError as JobKilledError
    from collector.errors import JobTimeoutError as JobTimeoutError
    from collector.errors import OutputLostError as OutputLostError
    from collector.errors import ProtocolError as ProtocolError
    from collector.errors import RetryLater as RetryLater
    from collector.errors import RunDirectoryError as RunDirectoryError
    from collector.errors import SpillError as SpillError
    from collector.executor.collector import Collector as Collector
    from collector.executor.job import Job as Job
    from collector.process.pool.statistics import RunningJob as RunningJob
    from collector.process.pool.statistics import Statistics as Statistics
    from collector.process.scheduler.retries import Retry as Retry
    from collector.process.worker.current_job import CurrentJob as CurrentJob
    from collector.process.worker.running import current_job as current_job
    from collector.progress.event import ProgressEvent as ProgressEvent
    from collector.progress.event import ProgressSink as ProgressSink
    from collector.store.output.output import Output as Output
    from collector.store.output.progress import Mode as Mode
    from collector.store.output.progress import Progress as Progress
    from collector.store.output.spill_file import cleanup_temp_files as cleanup_temp_files
    from collector.store.output.spill_file import temp_file_count as temp_file_count
    from collector.store.rundir.reclaim import list_runs as list_runs
    from collector.store.rundir.reclaim import reclaim as reclaim
    from collector.store.spill import SpillManager as SpillManager

_HOMES: Final = {
    "Batch": "collector.batch.batch",
    "BatchError": "collector.errors",
    "BatchHaltedError": "collector.errors",
    "BrokenCollectorError": "collector.crash_errors",
    "ClosedError": "collector.errors",
    "Collector": "collector.executor.collector",
    "CollectorError": "collector.errors",
    "Job": "collector.executor.job",
    "JobError": "collector.errors",
    "JobKilledError": "collector.errors",
    "JobTimeoutError": "collector.errors",
    "Mode": "collector.store.output.progress",
    "Output": "collector.store.output.output",
    "OutputLostError": "collector.errors",
    "Progress": "collector.store.output.progress",
    "ProgressEvent": "collector.progress.event",
    "ProtocolError": "collector.errors",
    "Retry": "collector.process.scheduler.retries",
    "RetryLater": "collector.errors",
    "RunDirectoryError": "collector.errors",
    "RunningJob": "collector.process.pool.statistics",
    "SpillError": "collector.errors",
    "SpillManager": "collector.store.spill",
    "Statistics": "collector.process.pool.statistics",
    "WorkerCrashError": "collector.crash_errors",
    "cleanup_temp_files": "collector.store.output.spill_file",
    "current_job": "collector.process.worker.running",
    "list_runs": "collector.store.rundir.reclaim",
    "reclaim": "collector.store.rundir.reclaim",
    "temp_file_count": "collector.store.output.spill_file",
}

_HOMES_FOR_HINTS: Final = {
    "CurrentJob": "collector.process.worker.current_job",
    "ProgressSink": "collector.progress.event",
}
"""Where `typing.get_type_hints` finds the types that stand in the signatures of public names."""

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    """Load a public name when it is first used: importing collector alone costs next to nothing."""
    if name == "__version__":
        return import_module("collector.settings").VERSION
    home = _HOMES.get(name) or _HOMES_FOR_HINTS.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__all__"]
