"""Who of a cluster on Ray dies while jobs run: the head, a node, and a program that joined it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from collector import Collector, Job, WorkerCrashError, current_job
from tests.integrations.test_ray import MIB, forever, name_of, read_numbers, square, the_sink_pid
from tests.support.engines import alone, on_ray, opened, with_a_ray_of_its_own
from tests.support.inside import pump_pid
from tests.support.leaks import descendants, is_running, wait_until
from tests.support.raycluster import ray_cluster
from tests.support.sharedray import shared
from tests.support.tree import kill, script, stopped

pytestmark = on_ray

CHUNKS: Final = 40
"""Of 1 MiB: several times what may be on its way."""


def gone(pid: int) -> bool:
    return wait_until(lambda: not is_running(pid), 60)


@pytest.fixture(name="soon")
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Ray wait for a head that is gone for less than a minute."""
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")


@alone
@pytest.mark.usefixtures("soon")
def test_when_the_head_of_a_cluster_dies_its_jobs_fail_and_end(tmp_path: Path) -> None:
    with ray_cluster(1) as cluster, opened("ray", address=cluster.address) as collector:
        job = collector.submit(forever, os.fspath(tmp_path / "pids"))
        pids = read_numbers(tmp_path / "pids")
        cluster.remove_head()
        error = job.exception()
        assert isinstance(error, WorkerCrashError)
        assert "of job forever-1 (attempt 1) is gone" in str(error)
        assert b"begun".startswith(job.output().read())
        assert all(map(gone, pids))


@alone
@pytest.mark.usefixtures("soon")
def test_when_the_head_of_its_own_ray_dies_the_next_job_has_another_ray(tmp_path: Path) -> None:
    with with_a_ray_of_its_own() as collector:
        job = collector.submit(forever, os.fspath(tmp_path / "pids"))
        pids = [*read_numbers(tmp_path / "pids"), pump_pid(collector)]
        (head,) = [p.pid for p in descendants() if name_of(p.pid) == "gcs_server"]
        kill(head)
        error = job.exception()
        assert isinstance(error, WorkerCrashError)
        assert b"begun".startswith(job.output().read())
        assert all(map(gone, pids))
        assert collector.submit(square, 5).result() == 25


def begins_again(directory: str) -> Iterator[bytes]:
    """Write chunks that say which attempt they are of; note that it has begun, and how far it is.

    The first attempt ends only with whoever runs it.
    """
    attempt = current_job().attempt
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/began", "a") as file:
        file.write(f"{attempt}\n")
    Path(f"{directory}/node").write_text(os.environ["RAY_RAYLET_PID"])
    while not os.path.exists(f"{directory}/../go"):
        time.sleep(0.01)
    for number in range(CHUNKS):
        yield chunk(attempt, number)
        Path(f"{directory}/count").write_text(str(number + 1))
    if attempt == 1:
        current_job().flush()
        time.sleep(60)


def said(path: Path) -> int:
    return int((path.exists() and path.read_text()) or 0)


def stands_still(path: Path) -> int:
    assert wait_until(lambda: said(path), 60)
    before, now = 0, said(path)
    while now != before:
        time.sleep(1)
        before, now = now, said(path)
    return now


def chunk(attempt: int, number: int) -> bytes:
    return (b"%d %d " % (attempt, number)).ljust(64) * (MIB // 64)


def written(attempt: int) -> bytes:
    return b"".join(chunk(attempt, number) for number in range(CHUNKS))


def store_of(pid: int) -> set[str]:
    """Return what it maps of an object store, whose raylet has the same."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "plasma" in line}


@alone
def test_what_a_dead_node_had_yielded_is_not_yielded_again(tmp_path: Path) -> None:
    """Ray itself would run the task again for it: the objects that nobody has got died, too."""
    with ray_cluster(2) as cluster, opened("ray", address=cluster.address) as collector:
        assert collector.submit(square, 3).result() == 9
        dead, said_bytes, began = a_node_dies(collector, tmp_path / "fails")
        assert isinstance(dead.exception(), WorkerCrashError)
        assert "carries its output" not in str(dead.exception())  # which is on the other node
        kept = dead.output().read()
        assert written(1).startswith(kept)
        assert len(kept) < said_bytes
        assert began == ["1"]
        cluster.add_node()
        again, _, began = a_node_dies(collector.with_options(retries=1), tmp_path / "is run again")
        assert again.exception() is None
        assert again.output().read() == written(2)
        assert began == ["1", "2"]


def a_node_dies(collector: Collector, where: Path) -> tuple[Job[None], int, list[str]]:
    """Have two nodes run a job each, and the one die to which the pump is not connected.

    Returns:
        The job that ran there, how much it had yielded, and the attempts that have begun.
    """
    paths = [where / name for name in ("first", "second")]
    where.mkdir()
    jobs = {path: collector.submit(begins_again, os.fspath(path)) for path in paths}
    assert wait_until(lambda: all(said(path / "node") for path in paths), 60)
    with stopped(the_sink_pid(collector)):
        (where / "go").touch()
        counts = {path: stands_still(path / "count") for path in paths}
        assert max(counts.values()) < CHUNKS  # some of what they have said is in Ray
        here = store_of(pump_pid(collector))
        assert here
        path, *_ = [p for p in paths if not here & store_of(said(p / "node"))]
        kill(said(path / "node"))
    jobs[next(other for other in paths if other != path)].kill()
    jobs[path].exception()
    return jobs[path], counts[path] * MIB, (path / "began").read_text().split()


JOINS: Final = """
import os, sys, time
from collector import Collector

def job(path):
    yield b"begun"
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)

with Collector(1, engine="ray", address=sys.argv[1], progress=False) as collector:
    collector.submit(job, sys.argv[2]).result()
"""


@pytest.mark.ray
def test_when_a_program_dies_that_has_joined_a_cluster_its_jobs_end(tmp_path: Path) -> None:
    with script(JOINS, shared.address, os.fspath(tmp_path / "pid")) as running:
        (worker,) = read_numbers(tmp_path / "pid")
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait()
        assert wait_until(lambda: not running.tree(), 60)
        assert gone(worker)
    with opened("ray") as collector:  # the cluster goes on
        assert collector.submit(square, 5).result() == 25
