"""Who ends a Ray of a Collector's own when the process is dead that had started it. Without Ray."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from collector import reclaim, settings
from collector.integrations.ray import own
from collector.store.rundir.directory import RunDirectory
from tests.support.leaks import is_running, wait_until
from tests.support.tree import kill, script, stopped

PUMP: Final = """
import os, sys, time
from collector.integrations.ray import own

place = own.hold(sys.argv[1])
os.mkdir(sys.argv[1])
guardian = own.Guardian(sys.argv[1])
print(guardian._pid, flush=True)
time.sleep(600)
"""
"""As far as a guardian can tell: a process that holds the run directory and starts a Ray below."""


@pytest.fixture(name="run")
def _run(temp_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunDirectory]:
    """The run directory of a Collector, in which a Ray has its files."""
    monkeypatch.setattr(settings, "RAY_TEMP_PATH_BYTES", 4096)
    directory = RunDirectory.create(temp_root)
    yield directory
    directory.dispose()
    assert not list(temp_root.iterdir())


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


@contextmanager
def guardian_of(directory: str) -> Iterator[None]:
    """Have one whose pump is killed, and which comes to it only after this block; wait for it."""
    with script(PUMP, directory) as pump:
        guardian = int(pump.hear())
        with stopped(guardian):
            kill(pump.process.pid)
            pump.process.wait()
            yield
        assert wait_until(lambda: not is_running(guardian), 60)


def test_a_sweep_takes_nothing_from_a_guardian_that_is_at_work(
    run: RunDirectory, temp_root: Path
) -> None:
    """It would rename the directory, by which the guardian knows what belongs to that Ray."""
    directory = own.Place(os.fspath(run.path)).path
    with ExitStack() as agents:
        with guardian_of(directory):
            agent = agents.enter_context(agent_of(directory))
            run.dispose()
            assert reclaim([temp_root]).live == 1
        assert agent.wait(60) == -signal.SIGKILL


def test_a_guardian_leaves_the_next_ray_of_its_collector_alone(run: RunDirectory) -> None:
    """That may be there before the guardian of the first has come to it."""
    with ExitStack() as agents:
        with guardian_of(own.Place(os.fspath(run.path)).path):
            directory = own.Place(os.fspath(run.path)).path
            os.makedirs(directory, exist_ok=True)
            agent = agents.enter_context(agent_of(directory))
        agent.terminate()
        assert agent.wait(60) == -signal.SIGTERM
