"""Faults that strace puts into the system calls of a process that runs."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.leaks import is_running, wait_until


@contextlib.contextmanager
def injected(
    pid: int, fault: str, log: Path, *where: str, only_main: bool = False
) -> Iterator[None]:
    """Have system calls of a process fail; its log tells afterwards what was injected.

    Of a worker only those of its main thread: strace 6.1 may wait for ever when it is to let go of
    a process with several that it traces.
    """
    threads = [] if only_main else ["-f"]
    tracer = subprocess.Popen(
        ["strace", *threads, "-qq", "-o", log, *where, "-e", f"inject={fault}", "-p", str(pid)]
    )
    try:
        assert wait_until(lambda: _is_traced(pid, tracer.pid) or not is_running(pid))
        yield
    finally:
        if is_running(pid):
            tracer.send_signal(signal.SIGINT)
        tracer.wait()  # of a process that was killed it writes so, and ends


def _is_traced(pid: int, tracer: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # killed at its first call
        return f"\nTracerPid:\t{tracer}\n" in Path(f"/proc/{pid}/status").read_text()
    return False
