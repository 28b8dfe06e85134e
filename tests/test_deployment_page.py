"""What the page on deployment says of the places where collector runs, tried in such places."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from collector import Collector, RunDirectoryError
from collector.settings import (
    MEMORY_BUDGET_BYTES,
    MEMORY_THRESHOLD_BYTES,
    SLOT_BYTES,
    SLOT_COUNT,
)
from tests.support.inside import sink_pid, worker_pids
from tests.support.jobs import wait_for
from tests.support.leaks import is_running, wait_until
from tests.support.rundirs import needs_root
from tests.support.tiers import each_method, everyday_are
from tests.support.tree import ROOT, script
from tests.test_docs import DOCS, blocks

PAGE: Final = DOCS / "deployment.md"
MIB: Final = 1 << 20
NAMESPACES: Final = pytest.mark.skipif(
    sys.platform != "linux", reason="namespaces are those of Linux"
)


def said(pattern: str) -> tuple[int, ...]:
    """The numbers that the page gives."""
    found = re.search(pattern, PAGE.read_text())
    assert found is not None, pattern
    return tuple(map(int, found.groups()))


def in_a_namespace(before: str, source: str, *flags: str, **variables: str) -> str:
    """Run a script in namespaces of its own, after a line of shell; what it printed."""
    line = f'{before}; exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", *flags, "sh", "-c", line, sys.executable, source],
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT)} | variables,
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    return done.stdout


# -- what it needs ---------------------------------------------------------------------------------


def descriptors(pid: int | None) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@each_method
def test_descriptors_and_processes_are_as_many_as_the_page_says(
    method: str, tmp_path: Path
) -> None:
    a_worker, beside, otherwise = said(r"(\d+) a worker and (\d+) more .*; (\d+) a worker with")
    counted = {}
    for workers in (1, 3):
        until = tmp_path / f"until-{workers}"
        before = descriptors(os.getpid())
        with Collector(workers, method, progress=False) as collector:
            jobs = [collector.submit(wait_for, until) for _ in range(workers)]
            assert wait_until(lambda: all(job.running() for job in jobs))  # noqa: B023
            assert len(set(worker_pids(collector))) == workers
            counted[workers] = descriptors(os.getpid()) - before, descriptors(sink_pid(collector))
            until.touch()
    (here, sink), (here_more, sink_more) = counted[1], counted[3]
    least = a_worker if method == "forkserver" else otherwise
    assert here_more - here == 2 * least
    assert here <= beside + least
    assert sink_more - sink <= 2 * least


def test_memory_is_bounded_by_what_the_page_says() -> None:
    slots, job, all_outputs = said(r"of (\d+) MiB a worker, up to (\d+) MiB .* most (\d+) MiB")
    assert slots * MIB == SLOT_BYTES * SLOT_COUNT
    assert job * MIB == MEMORY_THRESHOLD_BYTES
    assert all_outputs * MIB == MEMORY_BUDGET_BYTES


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o1777])
def test_a_directory_that_others_may_enter_is_refused_and_one_inside_is_made(
    mode: int, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(mode)
    with pytest.raises(RunDirectoryError, match="name a directory inside it"):
        Collector(temp_root=volume)
    with Collector(1, progress=False, temp_root=volume / "collector") as collector:
        assert collector.submit(pow, 2, 3).result() == 8
    assert (volume / "collector").stat().st_mode & 0o777 == 0o700


# -- containers ------------------------------------------------------------------------------------

AS_PROCESS_1: Final = """
import os, subprocess, time
from pathlib import Path
from collector import Collector

def leave_one():
    process = subprocess.Popen(["true"], start_new_session=True)
    os._exit(process is None)  # with the object, which would wait for it as it goes

def zombies():
    lines = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
    return [line for line in lines if line.split(")")[1].split()[:2] == ["Z", "1"]]

with Collector(1, progress=False) as collector:
    assert os.getpid() == 1
    collector.submit(leave_one).exception()
    while not zombies():
        time.sleep(0.01)
    os.kill(1, 15)
print("goes on")
"""


@pytest.mark.slow
@needs_root
@NAMESPACES
def test_process_1_keeps_zombies_and_does_not_heed_sigterm() -> None:
    flags = ("--pid", "--fork", "--mount-proc", "--kill-child")
    assert in_a_namespace("true", AS_PROCESS_1, *flags) == "goes on\n"


def test_slots_are_memory_without_a_name(tmp_path: Path) -> None:
    until = tmp_path / "until"
    with Collector(1, progress=False) as collector:
        job = collector.submit(wait_for, until)
        assert wait_until(job.running)
        (worker,) = worker_pids(collector)
        found = [os.readlink(path) for path in Path(f"/proc/{worker}/fd").iterdir()]
        maps = Path(f"/proc/{worker}/maps").read_text()
        until.touch()
    assert "/memfd:" in maps + "".join(found)
    assert "/dev/shm" not in maps + "".join(found)


WHERE_NOTHING_CAN_BE_WRITTEN: Final = """
import os
from collector import Collector

def large():
    yield bytes(6 << 20)

with Collector(1, progress=False, capture=True) as collector:
    job = collector.submit(large)
    print(job.output().size, job.output().mode.value, os.access("/", os.W_OK))
"""


@pytest.mark.slow
@needs_root
@NAMESPACES
def test_only_the_temp_root_must_be_writable(tmp_path: Path) -> None:
    before = (
        f"mount -o remount,bind,ro / && mount -t tmpfs tmpfs {tmp_path}"
        f" && mkdir -m 700 {tmp_path}/root"
    )
    root = os.fspath(tmp_path / "root")
    said = in_a_namespace(
        before, WHERE_NOTHING_CAN_BE_WRITTEN, "--mount", COLLECTOR_TMPDIR=root, TMPDIR="/nowhere"
    )
    assert said == f"{6 << 20} streaming False\n"


# -- systemd ---------------------------------------------------------------------------------------

A_SERVICE: Final = """
import sys, time
from collector import Collector

def large():
    yield bytes(6 << 20)
    time.sleep(600)

collector = Collector(2, progress=False, temp_root=sys.argv[1])
jobs = [collector.submit(large) for _ in range(2)]
for job in jobs:
    next(iter(job.follow()))
print("ready", flush=True)
jobs[0].result()
"""


@pytest.mark.parametrize("order", everyday_are([1], of=[1, -1]))
def test_a_stop_of_every_process_leaves_nothing(order: int, tmp_path: Path) -> None:
    with script(A_SERVICE, os.fspath(tmp_path / "root")) as running:
        assert running.hear() == "ready"
        for pid in sorted(running.tree())[::order]:
            if is_running(pid):
                os.kill(pid, signal.SIGTERM)
        assert running.process.wait() == -signal.SIGTERM
        assert running.gone()
    assert wait_until(lambda: os.listdir(tmp_path / "root") == [])


# -- coverage and debuggers ------------------------------------------------------------------------

MEASURED: Final = """
from collector import Collector
from work import halve

{example}

with Collector(max_workers=1, initializer=measure, progress=False) as collector:
    print(collector.submit(halve, 8).result())
"""


@pytest.mark.slow
def test_coverage_sees_what_a_worker_runs(tmp_path: Path) -> None:
    (example,) = blocks("python", PAGE)
    (tmp_path / "work.py").write_text("def halve(number):\n    return number // 2\n")
    (tmp_path / "program.py").write_text(MEASURED.format(example=example))

    def coverage(*arguments: str) -> str:
        return subprocess.check_output(
            [sys.executable, "-m", "coverage", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
            text=True,
        )

    assert coverage("run", "--parallel-mode", "--include=*/work.py", "program.py") == "4\n"
    coverage("combine")
    assert re.search(r"^work\.py +2 +0 +100%", coverage("report"), re.MULTILINE)


def stop_here() -> None:
    breakpoint()  # noqa: T100 - what comes of it is the test


def test_a_breakpoint_fails_its_job_and_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONBREAKPOINT", raising=False)
    with Collector(1, progress=False, capture=True) as collector:
        error = collector.submit(stop_here).exception()
        assert type(error).__name__ == "BdbQuit"
        assert collector.submit(pow, 2, 3).result() == 8
