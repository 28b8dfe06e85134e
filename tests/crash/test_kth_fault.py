"""Fault 11 at one system call after the other: strace has the sink killed at its k-th one."""

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from collector import BrokenCollectorError, Collector
from tests.support.jobs import METHODS, MIB, numbered, sha256, square
from tests.support.leaks import is_running, wait_until
from tests.support.tree import sink_pid

SIZE: Final = 8 * MIB
each_method = pytest.mark.parametrize("method", METHODS)
pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


@contextlib.contextmanager
def injected(pid: int, fault: str, log: Path, *where: str) -> Iterator[None]:
    """Have system calls of a process fail; its log tells afterwards what was injected."""
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", log, *where, "-e", f"inject={fault}", "-p", str(pid)]
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


def killed_with(k: int, method: str, log: Path) -> bool:
    """Have the sink killed at its k-th system call of a spilling job; whether it came so far."""
    with Collector(1, method) as collector:
        assert collector.submit(square, 2).result() == 4
        sink = sink_pid(collector)
        assert sink is not None
        with injected(sink, f"all:signal=KILL:when={k}", log):
            job = collector.submit(numbered, SIZE)
            error = job.exception(60)
        assert error is None or isinstance(error, BrokenCollectorError), error
        if error is None:
            assert sha256(job.output()) == sha256(numbered(SIZE))
        job.output().close()
        again = collector.submit(numbered, SIZE)
        assert sha256(again.output(60)) == sha256(numbered(SIZE))
        again.output().close()
        return "killed by SIGKILL" in log.read_text()


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9, 17, 40])
@each_method
def test_a_sink_that_is_killed_at_some_system_call_costs_one_job(
    method: str, k: int, tmp_path: Path
) -> None:
    assert killed_with(k, method, tmp_path / "log")


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@each_method
def test_a_sink_that_is_killed_at_each_system_call_costs_one_job(
    method: str, tmp_path: Path
) -> None:
    """Until five runs in a row came to their end before it."""
    missed = k = 0
    while missed < 5:
        k += 1
        missed = 0 if killed_with(k, method, tmp_path / f"log-{k}") else missed + 1
    assert k > 20
