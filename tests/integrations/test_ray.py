"""Jobs on Ray: who dies there and here, a slow reader, several nodes, and what is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from collector import (
    Collector,
    JobKilledError,
    OutputLostError,
    WorkerCrashError,
    current_job,
    reclaim,
)
from tests.support.disks import small_disk
from tests.support.engines import alone, on_ray, opened, with_a_ray_of_its_own
from tests.support.inside import pump_pid, sink_pid
from tests.support.leaks import descendants, is_running, wait_until
from tests.support.raycluster import ray_cluster
from tests.support.sharedray import shared
from tests.support.tree import ROOT, script, stopped

MIB: Final = 1 << 20

pytestmark = on_ray
joins = pytest.mark.ray


def forever(path: str) -> Iterator[bytes]:
    """Write, say who runs it, and wait: its worker, the server that forked it, the agent."""
    yield b"begun"
    current_job().flush()
    child = subprocess.Popen(["sleep", "600"])
    server = parent_of(os.getppid())
    Path(path).write_text(f"{os.getpid()} {server} {child.pid}")
    child.wait()


def parent_of(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def square(number: int) -> int:
    return number * number


def written_to(path: str, chunks: int) -> Iterator[bytes]:
    for number in range(chunks):
        yield bytes(MIB)
        Path(path).write_text(str(number + 1))


def prints(size: int) -> None:
    sys.stdout.write("p" * size)


def read_numbers(path: Path) -> list[int]:
    assert wait_until(lambda: path.exists() and path.read_text() != "", 60)
    return list(map(int, path.read_text().split()))


def the_sink_pid(collector: Collector) -> int:
    pid = sink_pid(collector)
    assert pid is not None
    return pid


@joins
def test_when_the_process_of_ray_s_dies_its_job_ends_with_all_its_processes(
    tmp_path: Path,
) -> None:
    with opened("ray") as collector:
        job = collector.submit(forever, os.fspath(tmp_path / "pids"))
        worker, agent, child = read_numbers(tmp_path / "pids")
        os.kill(agent, signal.SIGKILL)
        error = job.exception()
        assert isinstance(error, WorkerCrashError)
        assert "its process on the cluster died" in str(error)
        assert b"begun".startswith(job.output().read())
        for pid in (worker, child):
            assert wait_until(lambda pid=pid: not is_running(pid), 20)  # type: ignore[misc]
        assert collector.submit(square, 5).result() == 25


@alone
def test_when_the_pump_dies_its_jobs_fail_and_the_next_one_runs(tmp_path: Path) -> None:
    with with_a_ray_of_its_own() as collector:
        job = collector.submit(forever, os.fspath(tmp_path / "pids"))
        worker, _, _ = read_numbers(tmp_path / "pids")
        os.kill(pump_pid(collector), signal.SIGKILL)
        error = job.exception()
        assert isinstance(error, WorkerCrashError)
        assert "the process that carries its output died" in str(error)
        assert b"begun".startswith(job.output().read())
        assert wait_until(lambda: not is_running(worker), 30)
        assert collector.submit(square, 5).result() == 25


@joins
def test_when_the_sink_dies_the_next_job_runs_with_another_one(tmp_path: Path) -> None:
    with opened("ray") as collector:
        job = collector.with_options(retries=1).submit(forever, os.fspath(tmp_path / "pids"))
        read_numbers(tmp_path / "pids")
        (tmp_path / "pids").unlink()
        os.kill(the_sink_pid(collector), signal.SIGKILL)
        read_numbers(tmp_path / "pids")
        job.kill()
        assert isinstance(job.exception(), JobKilledError)
        assert collector.submit(square, 5).result() == 25


SCRIPT: Final = """
import os, sys, time
from collector import Collector
from tests.support.inside import pump_pid

def job(path):
    yield b"begun"
    open(path, "w").write(str(os.getpid()))
    time.sleep(600)

with Collector(2, engine="ray", progress=False) as collector:
    jobs = [collector.submit(job, f"{sys.argv[1]}/{number}") for number in range(2)]
    while not all(os.path.exists(f"{sys.argv[1]}/{number}") for number in range(2)):
        time.sleep(0.05)
    print("running", pump_pid(collector), flush=True)
    jobs[0].result()
"""


@alone
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_when_the_program_dies_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    before = on_disk()
    with script(SCRIPT, os.fspath(tmp_path)) as running:
        assert running.hear().startswith("running ")
        os.kill(running.process.pid, number)
        running.process.wait()
        assert wait_until(lambda: not running.tree(), 60)
    assert on_disk() <= before


@alone
def test_when_the_program_and_the_pump_die_at_once_a_sweep_removes_what_is_left(
    tmp_path: Path,
) -> None:
    before = on_disk()
    with script(SCRIPT, os.fspath(tmp_path)) as running:
        pump = int(running.hear().removeprefix("running "))
        os.kill(pump, signal.SIGSTOP)
        os.kill(running.process.pid, signal.SIGKILL)
        os.kill(pump, signal.SIGKILL)
        running.process.wait()
        assert wait_until(lambda: not running.tree(), 60)
    reclaim(roots())
    assert on_disk() <= before


def roots() -> list[str]:
    """Where run directories of this test may lie: the second is for paths that are too long."""
    named = os.environ["COLLECTOR_TMPDIR"], f"/tmp/coll-{os.geteuid()}"
    return [path for path in named if os.path.exists(path)]


def on_disk() -> set[str]:
    """What Collectors and Rays have there now, where they would leave something."""
    by_ray = {path for path in ("/tmp/ray", os.path.expanduser("~/.ray")) if os.path.exists(path)}
    return by_ray | {os.path.join(root, name) for root in roots() for name in os.listdir(root)}


@alone
def test_what_listens_is_what_the_page_says() -> None:
    with with_a_ray_of_its_own() as collector:
        assert collector.submit(square, 3).result() == 9
        listening = {inode for table in ("tcp", "tcp6") for inode in listeners(table)}
        names = {name_of(p.pid) for p in descendants() if listening & sockets_of(p.pid)}
    ours = {"gcs_server", "raylet", "collector-ray", "ray::IDLE", "ray::serve"}
    assert names >= {"gcs_server", "raylet"}
    assert names - ours <= {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}


def listeners(table: str) -> set[str]:
    rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}


def sockets_of(pid: int) -> set[str]:
    found = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(entry.path))
    return found


def name_of(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_text()
    if "'collector-ray'" in command:
        return "collector-ray"
    return os.path.basename(command.partition("\0")[0]).strip()


@joins
def test_a_producer_waits_for_a_sink_that_does_not_read(tmp_path: Path) -> None:
    path = tmp_path / "count"
    with opened("ray", memory_budget=16 * MIB) as collector:
        assert collector.submit(square, 2).result() == 4
        with stopped(the_sink_pid(collector)):
            job = collector.submit(written_to, os.fspath(path), 400)
            (count,) = read_numbers(path)
            while True:  # until it stands still
                time.sleep(1)
                (now,) = read_numbers(path)
                if now == count:
                    break
                count = now
            # The window, what its worker and its agent hold, and what the pump holds.
            assert count <= 4 * 2 + 1 + 4 + 4
        assert job.result() is None
        assert job.output().size == 400 * MIB


@joins
def test_a_log_for_which_there_is_no_room_here_fails_its_job(tmp_path: Path) -> None:
    with small_disk(tmp_path, 4 * MIB) as disk:
        with opened("ray", capture=True, temp_root=disk) as collector:
            job = collector.submit(prints, 8 * MIB)
            error = job.exception()
            assert isinstance(error, OutputLostError)
            assert "what it printed" in str(error)
            assert not job.log().complete
            assert collector.submit(prints, 1000).log().read() == b"p" * 1000
        assert not list(disk.glob("run-*"))


@alone
def test_a_dead_node_costs_its_jobs_only(tmp_path: Path) -> None:
    with ray_cluster(2) as cluster:
        with opened("ray", address=cluster.address) as collector:
            paths = [tmp_path / "first", tmp_path / "second"]
            jobs = [collector.submit(forever, os.fspath(path)) for path in paths]
            for path in paths:
                read_numbers(path)
            cluster.remove_node(0)
            assert wait_until(lambda: any(job.done() for job in jobs), 60)
            (dead,) = [job for job in jobs if job.done()]
            (alive,) = [job for job in jobs if not job.done()]
            assert isinstance(dead.exception(), WorkerCrashError)
            assert b"begun".startswith(dead.output().read())
            assert not alive.done()
            alive.kill()
            assert isinstance(alive.exception(), JobKilledError)
            assert b"begun".startswith(alive.output().read())
            assert collector.submit(square, 4).result() == 16
        # A cluster that was joined goes on.
        with opened("ray", address=cluster.address) as collector:
            assert collector.submit(square, 5).result() == 25


MODULE: Final = "def answer():\n    yield b'from a module beside the script'\n    return 42\n"
WITH_MODULE: Final = """
import sys
from collector import Collector
import helper_beside

env = {"working_dir": sys.argv[2]}
with Collector(1, engine="ray", address=sys.argv[1], ray_options={"runtime_env": env},
               progress=False) as collector:
    job = collector.submit(helper_beside.answer)
    print(job.result(), job.output().text())
"""


@joins
def test_a_module_beside_the_script_travels_by_a_runtime_env(tmp_path: Path) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / "helper_beside.py").write_text(MODULE)
    (beside / "script.py").write_text(WITH_MODULE)
    done = subprocess.run(
        [sys.executable, os.fspath(beside / "script.py"), shared.address, os.fspath(beside)],
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert (done.returncode, done.stdout) == (0, "42 from a module beside the script\n"), (
        done.stderr
    )
