"""Fault 6: the kernel kills a worker that its control group has no memory for."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector import Collector, WorkerCrashError, current_job
from tests.support.jobs import METHODS, MIB, pid, square
from tests.support.leaks import wait_until

MEMORY = Path("/sys/fs/cgroup/memory")  # of version 1


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """Make a control group of so much memory."""
    group = MEMORY / f"collector-test-{os.urandom(4).hex()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
    except OSError as error:
        pytest.skip(f"no control group for memory is to be had here: {error}")
    try:
        yield group
    finally:
        assert wait_until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def eat() -> None:
    current_job().write(b"kept")
    current_job().flush()
    eaten = [bytes([1]) * MIB for _ in range(1024)]
    del eaten


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_that_is_killed_for_memory_fails_its_job_only_and_says_so(method: str) -> None:
    with memory_group(128 * MIB) as group, Collector(1, method) as collector:
        (group / "cgroup.procs").write_text(str(collector.submit(pid).result()))
        job = collector.submit(eat)
        error = job.exception(60)
        assert isinstance(error, WorkerCrashError), error
        assert error.signal == 9
        assert "possibly out of memory" in str(error)
        assert "oom_kill 1" in (group / "memory.oom_control").read_text()
        assert job.output().read() == b"kept"
        assert collector.submit(square, 3).result(60) == 9
