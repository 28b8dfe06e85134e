"""Faults 13 to 17: the parent is killed, alone or with others; nothing outlives it."""

import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest

from collector import Collector, reclaim
from tests.support.jobs import square
from tests.support.leaks import wait_until
from tests.support.tiers import each_method, everyday_are
from tests.support.tree import Script, kill_at_once, script

PARENT = """
import ctypes, os, signal, subprocess, sys, time
from collector import Collector, current_job
from tests.support.inside import sink_pid

def spilling():
    current_job().write(bytes(6 << 20))

def computing():
    spilling(); tell(); time.sleep(1000)

def in_c():
    spilling(); tell(); ctypes.PyDLL(None).sleep(1000)     # holds the GIL

def stopped():
    spilling(); tell(); os.kill(os.getpid(), signal.SIGSTOP); time.sleep(1000)

def with_a_program():
    spilling(); program = subprocess.Popen(["sleep", "1000"]); tell(); program.wait()

def with_a_grandchild():
    if not os.fork():
        time.sleep(1000)
    spilling(); tell(); time.sleep(1000)

def tell():
    current_job().flush()
    open(os.path.join(sys.argv[2], current_job().name), "w").close()

jobs = [globals()[name] for name in sys.argv[3:]]
with Collector(len(jobs), sys.argv[1]) as collector:
    for job in jobs:
        collector.with_options(name=job.__name__).submit(job)
    while len(os.listdir(sys.argv[2])) < len(jobs):
        time.sleep(0.01)
    print("ready", sink_pid(collector), flush=True)
    time.sleep(1000)
"""
ALL = ("computing", "in_c", "stopped", "with_a_program", "with_a_grandchild")


def run(root: Path) -> list[str]:
    return os.listdir(root)


@each_method
@pytest.mark.parametrize("jobs", everyday_are([ALL], of=[*zip(ALL), ALL]), ids="+".join)
def test_nothing_outlives_a_parent_that_is_killed(
    method: str, jobs: tuple[str, ...], tmp_path: Path
) -> None:
    root = Path(os.environ["COLLECTOR_TMPDIR"])
    with script(PARENT, method, os.fspath(tmp_path), *jobs) as parent:
        assert parent.hear().startswith("ready")
        assert len(run(root)) == 1
        os.kill(parent.process.pid, signal.SIGKILL)
        assert parent.gone()
        assert wait_until(lambda: not run(root))


@pytest.mark.slow
def test_the_sink_waits_for_the_locks_of_a_parent_that_is_not_yet_quite_dead(
    tmp_path: Path,
) -> None:
    """The pipes of a killed process end a moment before its locks are free; here it is a long one.

    The lock is another process's, so as to be freed late; the sink of a fork has all the patience.
    """
    root = Path(os.environ["COLLECTOR_TMPDIR"])
    patient = "from collector import settings\nsettings.WORKERS_GONE_S = 60\n"
    with script(patient + PARENT, "fork", os.fspath(tmp_path), "computing") as parent:
        sink = int(parent.hear().split()[1])
        (name,) = run(root)
        held = os.open(root / name, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_SH)
        os.kill(parent.process.pid, signal.SIGKILL)
        assert wait_until(lambda: parent.tree() == [sink])
        threading.Event().wait(0.5)  # the moment
        os.close(held)
        assert parent.gone()
        assert not run(root)


@pytest.mark.slow
@each_method
def test_workers_do_not_outlive_parent_and_sink_and_the_next_sweep_reclaims(
    method: str, tmp_path: Path
) -> None:
    _kill_some_then_sweep(method, ("computing", "in_c", "stopped"), tmp_path, everything=False)


@each_method
def test_killing_everything_leaves_one_directory_and_nothing_else(
    method: str, tmp_path: Path
) -> None:
    _kill_some_then_sweep(method, ALL, tmp_path, everything=True)


def _kill_some_then_sweep(
    method: str, jobs: tuple[str, ...], tmp_path: Path, *, everything: bool
) -> None:
    root = Path(os.environ["COLLECTOR_TMPDIR"])
    with script(PARENT, method, os.fspath(tmp_path), *jobs) as parent:
        sink = int(parent.hear().split()[1])
        shared = set(os.listdir("/dev/shm"))
        kill_at_once(parent.tree if everything else lambda: [parent.process.pid, sink])
        assert parent.gone()
        assert len(run(root)) == 1
        assert set(os.listdir("/dev/shm")) <= shared
        assert not list(Path(os.environ["TMPDIR"]).glob("pymp-*"))
    report = reclaim([root])
    assert len(report.reclaimed) == 1
    assert not run(root)


@each_method
def test_the_next_collector_reclaims_what_a_killed_tree_has_left(
    method: str, tmp_path: Path
) -> None:
    root = Path(os.environ["COLLECTOR_TMPDIR"])
    with script(PARENT, method, os.fspath(tmp_path), "computing") as parent:
        parent.hear()
        kill_at_once(parent.tree)
        assert parent.gone()
    (orphan,) = run(root)
    with Collector(1, method) as collector:
        assert wait_until(lambda: orphan not in run(root))
        assert collector.submit(square, 3).result() == 9


ENDS = """
import sys, time, signal, os
from collector import Collector
collector = Collector(2, sys.argv[1])
job = collector.submit(time.sleep, 1000)
while not job.running(): time.sleep(0.01)
print("ready", flush=True)
{how}
"""


ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT)


@pytest.mark.parametrize("number", everyday_are(ENDING[:1], of=ENDING))
@each_method
def test_a_signal_that_ends_the_parent_ends_everything_and_is_its_status(
    method: str, number: int
) -> None:
    with script(ENDS.format(how="time.sleep(1000)"), method) as parent:
        assert parent.hear() == "ready"
        os.kill(parent.process.pid, number)
        assert parent.process.wait(30) == -number
        assert parent.gone()
    assert wait_until(lambda: not run(Path(os.environ["COLLECTOR_TMPDIR"])))


HOLDS = """
import signal, time
from collector import Collector
def write():
    yield b"abc"
with Collector(1, memory_threshold=0) as collector:
    output = collector.submit(write).output()
print("ready", signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, flush=True)
{how}
print(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize(
    "number", everyday_are([signal.SIGTERM], of=[signal.SIGTERM, signal.SIGHUP])
)
def test_a_signal_after_the_shutdown_removes_what_outputs_had_left(number: int) -> None:
    root = Path(os.environ["COLLECTOR_TMPDIR"])
    with script(HOLDS.format(how="")) as parent:
        assert parent.hear() == "ready True"
        assert len(run(root)) == 1
        os.kill(parent.process.pid, number)
        assert parent.process.wait(30) == -number
    assert run(root) == []


@pytest.mark.slow
def test_handlers_go_with_the_last_output() -> None:
    with script(HOLDS.format(how="output.close()")) as parent:
        assert parent.hear() == "ready True"
        assert parent.hear() == "False"
        assert run(Path(os.environ["COLLECTOR_TMPDIR"])) == []


@pytest.mark.slow
@each_method
def test_exec_in_the_parent_frees_everything(method: str) -> None:
    with script(ENDS.format(how="os.execv('/bin/sleep', ['sleep', '1000'])"), method) as parent:
        assert parent.hear() == "ready"
        assert _only_itself(parent)
        assert wait_until(lambda: not run(Path(os.environ["COLLECTOR_TMPDIR"])))


def _only_itself(parent: Script) -> bool:
    return wait_until(lambda: parent.tree() == [parent.process.pid], 20)
