"""What a sandbox refuses is done without: no pidfds, no shared memory that has no name."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from collector import Batch
from tests.support.jobs import METHODS
from tests.support.leaks import wait_until
from tests.support.person import ROOT
from tests.support.tree import script

each_method = pytest.mark.parametrize(
    "method",
    ["the default one", *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS)],
)

REFUSED: Final = """
import os, sys, threading
from collector import BrokenCollectorError, Collector, JobKilledError, WorkerCrashError
from tests.support.jobs import MIB, begun_then_wait, kill_self, numbered, sha256, square
from tests.support.sandbox import refuse
from tests.support.inside import sink_pid
from tests.support.tree import kill
refuse("memfd_create", "pidfd_open")
method = None if sys.argv[1] == "the default one" else sys.argv[1]
"""


@each_method
def test_without_pidfds_and_shared_memory_outputs_are_exact_and_deaths_are_noticed(
    method: str, tmp_path: Path
) -> None:
    source = f"""{REFUSED}
begun, until = sys.argv[2:]
with Collector(2, method) as collector:
    outputs = [collector.submit(numbered, 6 * MIB).output() for _ in range(4)]
    assert {{sha256(output) for output in outputs}} == {{sha256(numbered(6 * MIB))}}
    error = collector.submit(kill_self).exception(60)
    assert isinstance(error, WorkerCrashError) and error.signal == 9, error
    job = collector.submit(begun_then_wait, begun, until)
    while not os.path.exists(begun):
        threading.Event().wait(0.002)
    job.kill()
    assert isinstance(job.exception(60), JobKilledError)
    kill(sink_pid(collector))
    assert collector.with_options(retries=1).submit(square, 3).result(60) == 9
    for output in outputs:
        output.close()
print("fine", flush=True)
"""
    begun, until = os.fspath(tmp_path / "begun"), os.fspath(tmp_path / "until")
    with script(source, method, begun, until) as running:
        assert running.hear() == "fine"
        assert running.process.wait() == 0
        assert running.gone()


RUN_COMMANDS: Final = """
import os, sys
from tests.support.sandbox import refuse
refuse("pidfd_open")
os.execv(sys.executable, [sys.executable, "-m", "collector", "run", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_without_pidfds_commands_are_run_and_ended_too(tmp_path: Path) -> None:
    """One leaves a process that holds its stdout: its own end counts all the same."""
    command = (
        "case {} in slow) sleep 1000;; fails) exit 7;; back) sleep 1000 & echo $! > pid;; esac; "
        "echo {}"
    )
    words = ["--show", "none", "-k", "-o", "batch", "--timeout", "2", command]
    inputs = ["first", "fails", "slow", "back", "last"]
    try:
        done = subprocess.run(
            [sys.executable, "-c", RUN_COMMANDS, *words, ":::", *inputs],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
        )
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert (done.stdout, done.returncode) == (b"first\nback\nlast\n", 2)
    with Batch.open(tmp_path / "batch") as batch:
        ends = {record.input: record.last and record.last.status for record in batch}
    assert ends.pop("slow") == "timeout"
    assert ends.pop("fails") == "error"
    assert set(ends.values()) == {"done"}


@pytest.mark.slow
@each_method
def test_without_pidfds_nothing_outlives_a_parent_that_is_killed(
    method: str, tmp_path: Path
) -> None:
    source = f"""{REFUSED}
begun, until = sys.argv[2:]
with Collector(2, method) as collector:
    kept = collector.submit(numbered, 6 * MIB).output()
    job = collector.submit(begun_then_wait, begun, until)
    while not os.path.exists(begun):
        threading.Event().wait(0.002)
    print("ready", flush=True)
    job.result()
"""
    root = Path(os.environ["COLLECTOR_TMPDIR"])
    begun, until = os.fspath(tmp_path / "begun"), os.fspath(tmp_path / "until")
    with script(source, method, begun, until) as running:
        assert running.hear() == "ready"
        os.kill(running.process.pid, signal.SIGKILL)
        assert running.gone()
        assert wait_until(lambda: not os.listdir(root))
