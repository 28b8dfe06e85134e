"""The last line that a running job has printed, for whoever asks, and the end of a log.

Runs in:    the parent, in any thread.
"""

import contextlib
import threading
from collections.abc import Mapping
from typing import Any, Final

from collector.executor.job import Job
from collector.store.output.output import Output

_PATIENCE_S: Final = 0.3
"""So long one who asks waits until the output is in a file."""

_LINE_BYTES: Final = 4096
_TAIL_BYTES: Final = 2048


def last_line(jobs: Mapping[int, Job[Any]], seq: int) -> bytes:
    """Return the last line of a job's output by now; nothing if it has printed none.

    From then on its output grows in a file, as for `job.follow()`.

    Args:
        jobs: Those that run, by their numbers.
        seq: The number of one; it may have ended.
    """
    job = jobs.get(seq)
    if job is None or job.done():
        return b""
    told = threading.Event()
    unwatch = job.watch(told.set)
    try:
        job.follow()
        if not job.written()[1]:
            told.wait(_PATIENCE_S)
    finally:
        unwatch()
    size, _ = job.written()
    path = job.progress.temp_file_path
    if path is None:
        return b""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, size - _LINE_BYTES))
            tail = file.read(min(size, _LINE_BYTES))
    except OSError:  # it has ended meanwhile
        return b""
    return (tail.splitlines() or [b""])[-1]


def tail_of(log: Output | None) -> bytes:
    """Return the end of what a job wrote to stderr."""
    if log is None or not log.size:
        return b""
    with contextlib.suppress(OSError, ValueError), log.open() as file:
        file.seek(max(0, log.size - _TAIL_BYTES))
        tail: bytes = file.read()
        return tail
    return b""
