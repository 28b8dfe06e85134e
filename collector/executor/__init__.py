"""The face of the pool: `Collector`, a `concurrent.futures.Executor`, and `Job`, its `Future`."""

from collector.executor.collector import Collector
from collector.executor.job import Job

__all__ = ["Collector", "Job"]
