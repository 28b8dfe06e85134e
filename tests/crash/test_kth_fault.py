"""Fault 11 at one system call after the other: strace has the sink killed at its k-th one."""

import shutil
from pathlib import Path
from typing import Final

import pytest

from collector import BrokenCollectorError, Collector
from tests.support.injection import injected
from tests.support.inside import sink_pid
from tests.support.jobs import MIB, numbered, sha256, square
from tests.support.tiers import each_method, each_method_in_one_tier

SIZE: Final = 8 * MIB
pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


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


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 3, 5, 9, 17, 25])
@each_method
def test_a_sink_that_is_killed_at_some_system_call_costs_one_job(
    method: str, k: int, tmp_path: Path
) -> None:
    assert killed_with(k, method, tmp_path / "log")


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@each_method_in_one_tier
def test_a_sink_that_is_killed_at_each_system_call_costs_one_job(
    method: str, tmp_path: Path
) -> None:
    """Until five runs in a row came to their end before it."""
    missed = k = 0
    while missed < 5:
        k += 1
        missed = 0 if killed_with(k, method, tmp_path / f"log-{k}") else missed + 1
    assert k > 20
