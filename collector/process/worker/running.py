"""Which job runs in this process.

It is apart from the job itself: a program that imports `current_job` for its functions loads next
to nothing before its first Collector.

Runs in:    the worker.
Owns:       nothing.
"""

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import collector
    from collector.process.worker.current_job import CurrentJob
else:  # `typing.get_type_hints` has what a signature names loaded by the face, when it asks
    collector = sys.modules["collector"]


class _Running:
    """Holds the job that runs in this process."""

    def __init__(self) -> None:
        self.job: CurrentJob | None = None


running: Final = _Running()


def current_job() -> "collector.CurrentJob":
    r"""Return the job that runs in this worker process.

    It is a binary file, opened for writing: an `io.BufferedIOBase` that cannot seek. Give it to
    whatever writes to a file, or as `stdout=` to a subprocess. Closing it flushes and ends nothing.

    Raises:
        RuntimeError: No job runs here.

    Example:
        >>> from collector import Collector, current_job
        >>> def report(title):
        ...     print(title.upper(), file=current_job())
        >>> with Collector(max_workers=1) as collector:
        ...     print(collector.submit(report, "state").output().read())
        b'STATE\n'
    """
    if running.job is None:
        raise RuntimeError(
            "current_job() was called outside a job: it is there only in a worker, while a "
            "function that was given to submit, map or collect runs"
        )
    return running.job
