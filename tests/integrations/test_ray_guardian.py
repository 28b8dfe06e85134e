"""Who ends a Ray of a Collector's own when the process is dead that had started it. Without Ray."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from collector import reclaim
from tests.support.leaks import is_running, wait_until
from tests.support.tree import Script, kill, script, stopped

PUMP: Final = """
import os, sys, time
from collector.integrations.ray import own
from collector.store.rundir.directory import RunDirectory

directory = os.path.join(RunDirectory.create(sys.argv[1]).path, "r")
os.mkdir(directory)
guardian = own.Guardian(directory)
print(directory, guardian._pid, flush=True)
time.sleep(600)
"""
"""As far as a guardian can tell: a process that holds the run directory and starts a Ray below."""


@pytest.fixture(name="pump")
def _pump(temp_root: Path) -> Iterator[Script]:
    with script(PUMP, os.fspath(temp_root)) as running:
        yield running


@contextmanager
def agent_of(directory: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start what has no mark in its environment, and writes to a file of that Ray, as agents do."""
    with open(os.path.join(directory, "agent.log"), "wb") as log:
        agent = subprocess.Popen(["sleep", "600"], stdout=log)
    try:
        yield agent
    finally:
        agent.kill()
        agent.wait()


def test_a_sweep_takes_nothing_from_a_guardian_that_is_at_work(
    pump: Script, temp_root: Path
) -> None:
    """It would rename the directory, by which the guardian knows what belongs to that Ray."""
    directory, guardian = pump.hear().split()
    with agent_of(directory) as agent:
        with stopped(int(guardian)):
            kill(pump.process.pid)
            pump.process.wait()
            assert reclaim([temp_root]).live == 1
        assert wait_until(lambda: not is_running(int(guardian)), 60)
        assert agent.poll() == -signal.SIGKILL
    assert not list(temp_root.iterdir())
