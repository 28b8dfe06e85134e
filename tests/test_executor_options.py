"""What is set or asked for one job or worker: options, time-outs, kills, progress, scratch."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from collector import Collector, JobKilledError, JobTimeoutError, Mode, current_job
from tests.support.jobs import (
    MIB,
    begun_then_wait,
    fail,
    kept_busy,
    nothing,
    numbered,
    pid,
    square,
    wait_for,
)
from tests.support.leaks import is_running, wait_until
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")

NOBODY: Final = 65534


@each_method
def test_with_options_changes_the_settings_of_its_own_jobs_only(method: str) -> None:
    def who() -> tuple[str, int, int]:
        job = current_job()
        return job.name, job.id, job.attempt

    with Collector(1, method) as collector:
        named = collector.with_options(name="my job", memory_threshold=10)
        assert named.submit(who).result() == ("my job", 1, 1)
        assert named.submit(numbered, 10).output().mode is Mode.STREAMING
        assert collector.submit(numbered, 10).output().mode is Mode.MEMORY
        assert collector.submit(who).result() == ("who-4", 4, 1)
        both = named.with_options(retries=1)
        job = both.submit(fail, ValueError())
        assert isinstance(job.exception(), ValueError)
        assert (job.name, job.attempt) == ("my job", 2)
        # The pool is the same one: what ends it ends it for all.
        assert both.submit(pid).result() == collector.submit(pid).result()
        named.shutdown()
        with pytest.raises(RuntimeError):
            collector.submit(nothing)


@each_method
def test_a_job_that_runs_out_of_time_is_killed_and_keeps_what_it_wrote(
    method: str, tmp_path: Path
) -> None:
    def write_and_hang() -> Iterator[bytes]:
        yield b"x" * MIB
        wait_for("/nowhere")

    with Collector(1, method) as collector:
        collector.submit(nothing).result()
        job = collector.with_options(timeout=0.5).submit(write_and_hang)
        error = job.exception()
        assert isinstance(error, JobTimeoutError)
        assert isinstance(error, TimeoutError)
        assert "0.5 s" in str(error)
        assert job.output().read() == b"x" * MIB
        assert not job.output().complete
        assert collector.submit(square, 2).result() == 4


@each_method
def test_a_running_job_can_be_killed_with_its_subprocesses(method: str, tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    def start_a_program() -> None:
        current_job().write("kept")
        current_job().flush()
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        partial = begun.with_suffix(".part")
        partial.write_text(f"{os.getpid()} {child.pid}")
        partial.rename(begun)
        child.wait()

    with Collector(1, method, retries=3) as collector:
        job = collector.submit(start_a_program)
        wait_for(begun)
        pids = [int(number) for number in begun.read_text().split()]
        assert job.kill()
        error = job.exception()
        assert isinstance(error, JobKilledError)
        assert job.attempt == 1
        assert job.output().read() == b"kept"
        assert wait_until(lambda: not any(is_running(pid) for pid in pids))
        assert job.kill() is False
        assert collector.submit(square, 2).result() == 4


def test_killing_a_job_that_waits_cancels_it(tmp_path: Path) -> None:
    with Collector(1) as collector, kept_busy(collector, 1, tmp_path):
        job = collector.submit(square, 2)
        assert job.kill()
        assert job.cancelled()


@each_method
def test_a_worker_is_replaced_after_so_many_jobs(method: str) -> None:
    with Collector(1, method, max_tasks_per_child=3) as collector:
        pids = [collector.submit(pid).result() for _ in range(7)]
    assert [pids.count(one) for one in dict.fromkeys(pids)] == [3, 3, 1]


@each_method
def test_replacing_workers_costs_the_others_nothing(method: str) -> None:
    with Collector(2, method, max_tasks_per_child=1) as collector:
        jobs = [collector.submit(square, number) for number in range(20)]
        assert [job.exception() for job in jobs] == [None] * 20


SETTING: dict[str, str] = {}


def set_up(value: str) -> None:
    SETTING["value"] = value


def setting() -> str | None:
    return SETTING.get("value")


@each_method
def test_an_initializer_runs_in_each_worker_before_its_first_job(method: str) -> None:
    with Collector(2, method, set_up, ("ready",)) as collector:
        assert set(collector.map(lambda _: setting(), range(20))) == {"ready"}
    assert setting() is None


@each_method
def test_the_progress_of_a_job_is_told_while_it_runs_and_exact_at_its_end(
    method: str, tmp_path: Path
) -> None:
    until = tmp_path / "until"

    def write_and_wait() -> Iterator[bytes]:
        yield b"x" * 6 * MIB
        wait_for(until)
        yield b"yz"

    with Collector(1, method) as collector:
        job = collector.submit(write_and_wait)
        assert wait_until(lambda: job.progress.bytes_written == 6 * MIB, 60)
        progress = job.progress
        assert (progress.mode, progress.chunks_processed) == (Mode.STREAMING, 1)
        assert progress.temp_file_path is not None
        assert progress.temp_file_path.stat().st_size == 6 * MIB
        until.touch()
        job.result()
        assert (job.progress.bytes_written, job.progress.chunks_processed) == (6 * MIB + 2, 2)
        job.output().close()


def test_a_small_chunk_is_seen_while_the_job_computes(tmp_path: Path) -> None:
    until = tmp_path / "until"

    def write_and_compute() -> Iterator[bytes]:
        yield b"x"
        while not until.exists():  # never writes, never waits for long
            pass

    with Collector(1) as collector:
        job = collector.submit(write_and_compute)
        assert wait_until(lambda: job.progress.bytes_written == 1, 60)
        until.touch()


def scratch_then_wait(begun: str, until: str) -> str:
    scratch = current_job().scratch_dir
    (scratch / "file").write_text("mine")
    begun_then_wait(begun, until)
    return os.fspath(scratch)


@each_method
def test_a_scratch_directory_goes_with_its_job(method: str, tmp_path: Path) -> None:
    begun, until = os.fspath(tmp_path / "begun"), os.fspath(tmp_path / "until")
    with Collector(2, method) as collector:
        jobs = [collector.submit(scratch_then_wait, f"{begun}{n}", until) for n in range(2)]
        for number in range(2):
            wait_for(f"{begun}{number}")
        root = Path(os.environ["COLLECTOR_TMPDIR"])
        assert len(list(root.glob("run-*/scratch-*/file"))) == 2
        Path(until).touch()
        assert not any(os.path.exists(job.result()) for job in jobs)
        killed = collector.submit(scratch_then_wait, f"{begun}3", "/nowhere")
        wait_for(f"{begun}3")
        killed.kill()
        killed.exception()
        assert wait_until(lambda: not list(root.glob("run-*/scratch-*")))


def dig(depth: int) -> int:
    """Leave a deep tree, closed to its owner, in the scratch directory."""
    fd = os.open(current_job().scratch_dir, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("deeper", dir_fd=fd)
        below = os.open("deeper", os.O_RDONLY, dir_fd=fd)
        os.chmod(fd, 0o500)
        os.close(fd)
        fd = below
    os.close(fd)
    return depth


@pytest.mark.slow
@each_method
def test_a_scratch_directory_goes_however_deep_it_is_and_costs_no_job(method: str) -> None:
    with Collector(1, method) as collector:
        assert collector.submit(dig, 1500).result() == 1500
        assert not list(Path(os.environ["COLLECTOR_TMPDIR"]).glob("run-*/*-*"))
        assert collector.submit(square, 3).result() == 9


def end_in_scratch(how: str) -> None:
    """Make a directory in the scratch directory the working directory, and end there."""
    os.chdir(current_job().scratch_dir)
    os.mkdir("deeper")
    os.chdir("deeper")
    if how == "removed":
        os.rmdir(current_job().scratch_dir / "deeper")
    if how == "raises":
        raise ValueError(how)


@pytest.mark.parametrize("how", ["returns", "raises", "removed"])
@each_method
def test_a_job_that_ends_in_its_scratch_directory_leaves_the_next_one_where_it_began(
    method: str, how: str
) -> None:
    with Collector(1, method) as collector:
        left = collector.submit(end_in_scratch, how)
        assert (left.exception() is None) == (how != "raises")
        assert collector.submit(os.getcwd).result() == os.getcwd()


def gives_up_its_rights_and_fails() -> None:
    """From then on it cannot even see its scratch directory, which lies in a directory of root."""
    current_job().scratch_dir.stat()
    os.setuid(NOBODY)
    os.stat("/missing")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_job_that_has_given_up_its_rights_fails_with_its_own_error() -> None:
    with Collector(1) as collector:
        error = collector.submit(gives_up_its_rights_and_fails).exception()
    assert isinstance(error, FileNotFoundError), error
    assert error.filename == "/missing"


def prints_where_nothing_can_be_imported(text: str) -> None:
    """As after a chroot, or as another user who may not read the library of Python."""
    sys.modules.pop("resource", None)
    sys.meta_path.clear()
    sys.stdout.write(f"{text}\n")


def test_a_log_is_kept_where_nothing_can_be_imported_any_more() -> None:
    with Collector(1, capture=True) as collector:
        job = collector.submit(prints_where_nothing_can_be_imported, "kept")
        assert (job.exception(), job.log().text()) == (None, "kept\n")
