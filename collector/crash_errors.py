"""The errors of a dead process, which are `BrokenProcessPool` too.

They are apart from the others since that takes 11 ms to import: no worker pays for it, and a parent
only while it waits for its forkserver.

Invariants: as in `errors`.
"""

from concurrent.futures.process import BrokenProcessPool

from collector.errors import CollectorError, JobError


class WorkerCrashError(JobError, BrokenProcessPool):
    """The worker that ran the job died: killed, out of memory, a crash in C, or `os._exit`.

    Attributes:
        exitcode: As `multiprocessing.Process.exitcode`; None if it could not be learned.
        signal: Number of the signal that ended the worker, or None.
    """

    def __init__(
        self,
        message: str,
        job_id: int = 0,
        name: str = "",
        attempt: int = 1,
        exitcode: int | None = None,
    ) -> None:
        super().__init__(message, job_id, name, attempt)
        self.args = (message, job_id, name, attempt, exitcode)
        self.exitcode = exitcode
        self.signal = -exitcode if exitcode is not None and exitcode < 0 else None


class BrokenCollectorError(CollectorError, BrokenProcessPool):
    """The sink died while the job was open, or the Collector cannot keep its processes alive."""
