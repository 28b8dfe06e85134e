"""Threads and children that a job leaves running, and programs that reap every child."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from collector import Collector, JobError, current_job
from collector.store.rundir.directory import RunDirectory
from tests.support.jobs import KIB, MIB, square
from tests.support.outputs import files
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")


def leave_a_thread(begun: str, until: str) -> None:
    """Leave a thread that writes to the job when it is over and another one runs."""
    job = current_job()
    job.write("mine ")

    def late() -> None:
        from tests.support.jobs import wait_for

        wait_for(begun)
        for chunk in ("late", b"x" * 100 * KIB):
            try:
                job.write(chunk)
            except Exception as error:  # noqa: BLE001 - told by the file
                Path(f"{until}.error").write_text(f"{type(error).__name__}: {error}")
        Path(until).touch()

    threading.Thread(target=late).start()


def write_around(begun: str, until: str) -> None:
    from tests.support.jobs import begun_then_wait

    current_job().write("yours ")
    begun_then_wait(begun, until)
    current_job().write("alone")


@each_method
def test_a_thread_that_outlives_its_job_cannot_write_into_the_next_one(
    method: str, tmp_path: Path
) -> None:
    begun, until = os.fspath(tmp_path / "begun"), os.fspath(tmp_path / "until")
    with Collector(1, method) as collector:
        first = collector.submit(leave_a_thread, begun, until)
        second = collector.submit(write_around, begun, until)
        assert first.output().read() == b"mine "
        assert second.output().read() == b"yours alone"
    assert (tmp_path / "until").exists()


def test_a_large_value_that_cannot_be_read_leaves_no_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused: list[str] = []

    def refuse(_directory: RunDirectory, name: str) -> NoReturn:
        refused.append(name)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), name)

    with Collector(1) as collector:
        with monkeypatch.context() as patched:
            patched.setattr(RunDirectory, "open_file", refuse)
            error = collector.submit(bytes, 6 * MIB).exception()
        assert len(refused) == 1
        assert "Too many open files" in str(error)
        assert files() == []


def fork_and_return() -> str:
    scratch = current_job().scratch_dir
    (scratch / "file").write_text("mine")
    pid = os.fork()
    if not pid:
        raise RuntimeError("the child leaves by an exception, into our loop")
    os.waitpid(pid, 0)
    current_job().write("after the child")
    return (scratch / "file").read_text()


def leave_scratch_and_exit() -> None:
    (current_job().scratch_dir / "file").write_text("mine")
    os._exit(3)


def test_the_end_of_a_worker_does_not_look_through_the_files_of_all_outputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With 100,000 outputs that are kept, and as many workers that end, that took hours."""
    looked_through: list[object] = []
    listdir = os.listdir

    def listed(path: object = ".") -> list[str]:
        looked_through.append(path)
        return listdir(path)  # type: ignore[call-overload, no-any-return]

    root = Path(os.environ["COLLECTOR_TMPDIR"])
    with Collector(1, max_tasks_per_child=1) as collector:
        assert collector.submit(square, 2).result() == 4
        monkeypatch.setattr(os, "listdir", listed)
        for _ in range(2):
            assert isinstance(collector.submit(leave_scratch_and_exit).exception(), JobError)
            assert list(root.glob("run-*/lock"))
            assert not list(root.glob("run-*/scratch-*"))
    assert not [place for place in looked_through if place != "/proc"]


@each_method
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_that_a_job_forks_and_lets_go_harms_nothing(method: str) -> None:
    with Collector(1, method) as collector:
        job = collector.submit(fork_and_return)
        assert job.result() == "mine"
        assert job.output().read() == b"after the child"
        assert collector.submit(square, 2).result() == 4


def files_of_a_child(generations: int, told: str) -> None:
    """Open files and fork, so many times; the last child tells which of its parent's it lacks."""
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(40)]
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        for fd in files:
            os.close(fd)
        return
    if generations > 1:
        files_of_a_child(generations - 1, told)
    else:
        there = {int(name) for name in os.listdir("/proc/self/fd")}
        Path(told).write_text(f"lacks {sorted(set(files) - there)}")
    os._exit(0)


@each_method
@pytest.mark.parametrize("generations", [1, 2])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_that_a_job_forks_has_the_files_of_its_parent(
    method: str, generations: int, tmp_path: Path
) -> None:
    """In the second generation too: so forks a program that becomes a daemon."""
    told = tmp_path / "told"
    with Collector(1, method) as collector:
        collector.submit(files_of_a_child, generations, os.fspath(told)).result()
    assert told.read_text() == "lacks []"


IGNORES = """
import os, signal, sys
from collector import Collector, WorkerCrashError
def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
signal.signal(signal.SIGCHLD, {"ignore": signal.SIG_IGN, "reap": reap}[sys.argv[1]])
with Collector(2, sys.argv[2]) as collector:
    assert collector.submit(pow, 3, 2).result() == 9
    assert isinstance(collector.submit(os._exit, 3).exception(), WorkerCrashError)
    assert collector.submit(pow, 3, 2).result() == 9
"""


@each_method
@pytest.mark.parametrize("way", ["ignore", pytest.param("reap", marks=pytest.mark.slow)])
def test_a_program_that_ignores_sigchld_or_reaps_every_child_can_use_a_collector(
    method: str, way: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IGNORES, way, method],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


CLOSES_OURS = """
import os, stat
from collector import Collector
collector = Collector(1, progress=False)
collector.submit(len, "abc").result()
closed = 0
for name in os.listdir("/proc/self/fd"):
    fd = int(name)
    try:
        if fd > 2 and stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            closed += 1
    except OSError:  # of the list itself
        pass
collector.shutdown()
print(closed > 0)
"""


@pytest.mark.slow
def test_shutdown_returns_also_where_the_program_has_closed_our_directories(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o700)
    done = subprocess.run(
        [sys.executable, "-c", CLOSES_OURS],
        env=os.environ | {"COLLECTOR_TMPDIR": os.fspath(tmp_path)},  # what it leaves is for `gc`
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "True\n", done.stderr
