"""capture=True: what a job and its subprocesses print is its log, whoever prints it."""

# ruff: noqa: T201 - printing is what is tested

import ctypes
import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from collector import (
    Collector,
    Job,
    JobKilledError,
    JobTimeoutError,
    OutputLostError,
    SpillError,
    WorkerCrashError,
    current_job,
)
from tests.support.disks import fill, small_disk
from tests.support.jobs import MIB, act, kill_self, nothing, wait_for
from tests.support.processend import end_of_process
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")

ROOT = Path(__file__).parents[1]


# -- jobs ------------------------------------------------------------------------------------------


def prints_in_every_way(directory: str) -> None:
    """Print from Python, from C, from a subprocess, and straight to the descriptors."""
    print("by print")
    print("by stderr", file=sys.stderr)
    os.write(1, b"by os.write\n")
    os.write(2, b"by os.write to 2\n")
    ctypes.CDLL(None).printf(b"by %s\n", b"printf")
    subprocess.run(["ls", directory], check=True)
    os.system("echo by a shell >&2")


def says(text: str) -> None:
    print(text)


def says_without_an_end(text: str) -> None:
    print(text, end="")
    print(text, end="", file=sys.stderr)
    ctypes.CDLL(None).printf(b"%s", text.encode())


def says_and(text: str, what: Any) -> None:
    """Print from Python and from C, then crash."""
    print(text)
    ctypes.CDLL(None).printf(b"%s, in C\n", text.encode())
    act(what)


def says_and_dies(text: str) -> None:
    print(text, end="")
    kill_self()


def prints_lines(count: int) -> None:
    for number in range(count):
        print(number)


def prints_lines_and_dies(count: int) -> None:
    prints_lines(count)
    kill_self()


def prints_much(size: int) -> int:
    """Print so many bytes; return the peak of this process's memory in bytes."""
    line = "x" * 1023
    for _ in range(size // 1024):
        print(line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def prints_then_waits(text: str, begun: str) -> None:
    print(text)
    Path(begun).touch()
    threading.Event().wait()


def fails_once(text: str) -> None:
    attempt = current_job().attempt
    print(text, attempt)
    if attempt == 1:
        raise ValueError("once")


def leaves_a_process(until: str) -> None:
    """Start a process that prints on after the job has ended."""
    script = (
        "echo before; touch $0.begun; while ! test -e $0; do sleep 0.01; done; "
        "echo after; touch $0.done"
    )
    subprocess.Popen(["/bin/sh", "-c", script, until])
    wait_for(f"{until}.begun")


def forks(fails: bool) -> None:
    """Have a child print, and come back or fail."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    print("by a child")
    if fails:
        raise LookupError("in a child")


def closes_its_stdout() -> None:
    print("before")
    sys.stdout.close()
    os.close(2)


class Writes:
    """All that `print` needs."""

    def write(self, text: str) -> int:
        return len(text)


class CannotFlush(Writes):
    """Whose owner has taken it down."""

    def flush(self) -> None:
        raise LookupError("it is gone")


def replaces_its_stdout(by: type[Writes]) -> None:
    print("before")
    sys.stdout = by()
    print("to nobody")
    os.write(1, b"by its number\n")


def puts_its_stdout_back() -> None:
    sys.stdout = sys.__stdout__


def prints_until_it_fails() -> None:
    while True:
        print("x" * 1000)


def lines_of(job: Job[Any]) -> list[str]:
    return list(job.log().lines())


# -- whoever prints --------------------------------------------------------------------------------


@each_method
def test_the_log_has_what_python_c_and_subprocesses_print_in_their_order(
    method: str, tmp_path: Path
) -> None:
    (tmp_path / "a-file").touch()
    with Collector(1, method, capture=True, progress=False) as collector:
        job = collector.submit(prints_in_every_way, os.fspath(tmp_path))
        assert lines_of(job) == [
            "by print",
            "by stderr",
            "by os.write",
            "by os.write to 2",
            "by printf",
            "a-file",
            "by a shell",
        ]
        assert job.log().complete
        assert job.output().size == 0


@pytest.mark.slow
@each_method
def test_what_a_forked_child_prints_and_fails_with_is_in_the_log(
    method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with Collector(1, method, capture=True, progress=False) as collector:
        assert lines_of(collector.submit(forks, fails=False)) == ["by a child"]
        first, *_, last = lines_of(collector.submit(forks, fails=True))
        assert (first, last) == ("by a child", "LookupError: in a child")
    assert "LookupError" not in capfd.readouterr().err


@each_method
@pytest.mark.parametrize("what", ["segfault", "abort", "_exit", "kill"])
def test_a_crash_in_c_loses_no_line_and_the_error_ends_with_the_last_ones(
    method: str, what: str
) -> None:
    with Collector(1, method, capture=True, progress=False) as collector:
        job = collector.submit(says_and, "the last words", what)
        error = job.exception()
        assert isinstance(error, WorkerCrashError)
        assert lines_of(job)[:2] == ["the last words", "the last words, in C"]
        assert "the last words, in C" in str(error)
        assert not job.log().complete


def test_a_killed_job_loses_no_line_and_its_error_has_the_last_ones() -> None:
    with Collector(1, capture=True, progress=False) as collector:
        job = collector.submit(prints_lines_and_dies, 20_000)
        error = job.exception()
        assert isinstance(error, WorkerCrashError)
        assert lines_of(job) == [str(number) for number in range(20_000)]
        tail = str(error).partition("the last lines of its log:\n")[2].split("\n")
        assert tail[-1] == "19999"
        assert 100 < len(tail) < 500
        assert tail == [str(number) for number in range(20_000 - len(tail), 20_000)]


@pytest.mark.parametrize("end", ["", "\n"])
def test_the_error_ends_with_the_end_of_a_line_that_is_too_long_for_it(end: str) -> None:
    with Collector(1, capture=True, progress=False) as collector:
        job = collector.submit(says_and_dies, "before\n" + "x" * 5_000 + "<the end>" + end)
        error = job.exception()
        assert isinstance(error, WorkerCrashError)
        tail = str(error).partition("the last lines of its log:\n")[2]
        assert tail.endswith("x<the end>")
        assert len(tail) < 5_000


def test_a_job_that_is_ended_by_kill_keeps_its_log(tmp_path: Path) -> None:
    with Collector(1, capture=True, progress=False) as collector:
        job = collector.submit(prints_then_waits, "said", os.fspath(tmp_path / "begun"))
        wait_for(tmp_path / "begun")
        job.kill()
        assert isinstance(job.exception(), JobKilledError)
        assert lines_of(job) == ["said"]


def test_a_job_that_ran_too_long_shows_its_last_lines_in_the_error(tmp_path: Path) -> None:
    with Collector(1, capture=True, progress=False) as collector:
        collector.submit(says, "all is loaded").result()
        timed = collector.with_options(timeout=1)
        job = timed.submit(prints_then_waits, "stuck here", os.fspath(tmp_path / "begun"))
        error = job.exception()
        assert isinstance(error, JobTimeoutError)
        assert str(error).endswith("the last lines of its log:\nstuck here")


# -- which jobs ------------------------------------------------------------------------------------


@each_method
def test_a_job_whose_prints_are_not_captured_prints_to_the_terminal_and_has_an_empty_log(
    method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with Collector(1, method, progress=False) as collector:
        captured = collector.with_options(capture=True)
        first = captured.submit(says, "into the log")
        assert lines_of(first) == ["into the log"]
        plain = collector.submit(says, "to the terminal")
        plain.result()
        assert (plain.log().size, plain.log().complete) == (0, True)
        assert plain.log().read() == b""
        last = captured.submit(says, "into the log again")
        assert lines_of(last) == ["into the log again"]
        off = captured.with_options(capture=False).submit(os.write, 1, b"by its number\n")
        assert (off.result(), off.log().size) == (14, 0)
    seen = capfd.readouterr().out
    assert "to the terminal" in seen
    assert "by its number" in seen
    assert "into the log" not in seen


@each_method
def test_the_logs_of_the_jobs_of_one_worker_never_mix(method: str) -> None:
    with Collector(1, method, capture=True, progress=False) as collector:
        jobs = [collector.submit(says_without_an_end, f"<{number}>") for number in range(30)]
        for number, job in enumerate(jobs):
            assert job.log().text().split("<")[1:] == [f"{number}>"] * 3


def test_each_attempt_has_a_log_of_its_own() -> None:
    with Collector(1, capture=True, retries=1, progress=False) as collector:
        job = collector.submit(fails_once, "attempt")
        assert lines_of(job) == ["attempt 2"]
        failed = collector.with_options(retries=0).submit(fails_once, "attempt")
        assert isinstance(failed.exception(), ValueError)
        assert lines_of(failed) == ["attempt 1"]
        assert not failed.log().complete


def test_a_job_that_prints_nothing_leaves_no_file() -> None:
    with Collector(1, capture=True, progress=False) as collector:
        job = collector.submit(nothing)
        assert (job.log().size, job.log().path) == (0, None)
        (run,) = Path(os.environ["COLLECTOR_TMPDIR"]).glob("run-*")
        assert list(run.glob("*.spill")) == []


def test_a_log_outlives_its_collector_and_can_be_saved(tmp_path: Path) -> None:
    with Collector(1, capture=True, progress=False) as collector:
        job = collector.submit(prints_lines, 100)
    saved = job.log().save(tmp_path / "log.txt")
    assert saved.read_text().splitlines() == [str(number) for number in range(100)]
    assert job.log().path == saved


def test_a_job_that_closes_its_own_stdout_costs_the_next_ones_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Collector(1, capture=True, progress=False) as collector:
        assert lines_of(collector.submit(closes_its_stdout)) == ["before"]
        assert lines_of(collector.submit(says, "after")) == ["after"]
        collector.with_options(capture=False).submit(os.write, 2, b"seen\n").result()
    assert "seen" in capfd.readouterr().err


@pytest.mark.parametrize("by", [Writes, CannotFlush])
def test_a_job_that_replaces_stdout_by_what_cannot_be_flushed_costs_the_next_ones_nothing(
    by: type[Writes],
) -> None:
    with Collector(1, capture=True, progress=False) as collector:
        first = collector.submit(replaces_its_stdout, by)
        assert (first.exception(), lines_of(first)) == (None, ["before", "by its number"])
        second = collector.submit(says, "after")
        assert (second.exception(), lines_of(second)) == (None, ["after"])
        collector.submit(puts_its_stdout_back).result()


# -- a process that outlives its job ---------------------------------------------------------------


@pytest.fixture
def grown(tmp_path: Path) -> Iterator[Job[None]]:
    """A finished job into whose log a process has printed since."""
    until = tmp_path / "until"
    with Collector(1, capture=True, progress=False) as collector:
        job = collector.submit(leaves_a_process, os.fspath(until))
        job.result()
        path = job.log().path
        assert path is not None
        assert path.read_text() == "before\n"
        until.touch()
        wait_for(f"{until}.done")
        assert path.read_text() == "before\nafter\n"
        assert collector.submit(says, "of the next job").log().text() == "of the next job\n"
        yield job
    job.log().close()


def test_a_log_stays_as_it_was_at_the_end_of_its_job(grown: Job[None], tmp_path: Path) -> None:
    log = grown.log()
    assert (log.size, log.read(), list(log.lines())) == (7, b"before\n", ["before"])
    assert bytes(log.view()) == b"before\n"
    assert b"".join(log) == b"before\n"
    assert Path(log).read_text() == "before\n"
    assert log.read() == b"before\n"
    log.close()
    end_of_process()  # the path was that of a copy


def test_saving_a_log_saves_what_it_was_at_the_end_of_its_job(
    grown: Job[None], tmp_path: Path
) -> None:
    log = grown.log()
    inode = os.stat(os.fspath(log.path or "")).st_ino
    saved = log.save(tmp_path / "log.txt")
    assert saved.read_text() == "before\n"
    assert saved.stat().st_ino != inode  # whoever prints still does so elsewhere
    assert log.read() == b"before\n"


def test_a_log_that_somebody_truncated_is_an_error(grown: Job[None]) -> None:
    path = grown.log().path
    assert path is not None
    os.truncate(path, 3)
    with pytest.raises(OutputLostError) as caught:
        grown.log().read()
    assert caught.value.errno == errno.EIO


# -- much, and no room -----------------------------------------------------------------------------


def check_much(size: int) -> None:
    with Collector(1, capture=True, memory_budget=MIB, progress=False) as collector:
        small = collector.submit(prints_much, 1024).result()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        job = collector.submit(prints_much, size)
        assert job.result() < small + 8 * MIB
        assert job.log().size == size
        count = 0
        for line in job.log().lines():
            assert line == "x" * 1023
            count += 1
        assert count == size // 1024
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < before + 16 * MIB


@pytest.mark.slow
def test_fifty_megabytes_of_prints_are_whole_and_take_no_memory() -> None:
    check_much(50 * MIB)


@pytest.mark.campaign
def test_a_gigabyte_of_prints_is_whole_and_takes_no_memory() -> None:
    check_much(1024 * MIB)


def test_a_full_disk_fails_the_job_that_prints_and_the_next_one_is_fine(tmp_path: Path) -> None:
    with small_disk(tmp_path, 4 * MIB) as disk:
        with Collector(1, capture=True, temp_root=disk / "c", progress=False) as collector:
            collector.submit(nothing).result()
            ballast = fill(disk, spare_bytes=100_000)
            job = collector.submit(prints_until_it_fails)
            error = job.exception()
            assert isinstance(error, SpillError)
            assert error.errno == errno.ENOSPC
            assert (job.log().read(), job.log().complete) == (b"", False)
            ballast.unlink()
            assert collector.submit(says, "room again").log().text() == "room again\n"
        del job, collector


# -- a parent without stdout -----------------------------------------------------------------------

CLOSED = """
import os, sys
from collector import Collector

def chatty():
    print("by print")
    print("by stderr", file=sys.stderr)
    os.write(1, b"by number\\n")
    os.system("echo by a shell; echo by a shell >&2")
    yield b"output"

if __name__ == "__main__":
    with Collector(1, sys.argv[1], progress=False) as collector:
        found = []
        for capture in (True, False, True):
            job = collector.with_options(capture=capture).submit(chatty)
            error = job.exception()
            found.append((repr(error) if capture else "", job.log().text()))
        open(sys.argv[2], "w").write(repr(found))
"""


@each_method
def test_prints_are_captured_where_the_parent_has_neither_stdout_nor_stderr(
    method: str, tmp_path: Path
) -> None:
    script, told = tmp_path / "script.py", tmp_path / "told"
    script.write_text(CLOSED)
    subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&- 2>&- <&-', "sh", sys.executable, script, method, told],
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
        check=True,
        timeout=120,
    )
    text = "by print\nby stderr\nby number\nby a shell\nby a shell\n"
    assert eval(told.read_text()) == [("None", text), ("", ""), ("None", text)]


CRASHES: Final = """
import ctypes
from collector import Collector

def reads_nowhere():
    ctypes.string_at(0)

with Collector(max_workers=1, capture=True) as collector:
    job = collector.submit(reads_nowhere)
    job.exception()
    print(job.log().text())
"""


def test_the_log_of_a_crash_in_c_has_its_line_as_the_page_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert "`PYTHONFAULTHANDLER=1` and the job with `capture=True`: `job.log().text()`" in page
    (tmp_path / "script.py").write_text(CRASHES)
    log = subprocess.check_output(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT), "PYTHONFAULTHANDLER": "1"},
        text=True,
    )
    assert log.startswith("Fatal Python error: Segmentation fault\n")
    assert f'File "{tmp_path}/script.py", line 6 in reads_nowhere' in log
