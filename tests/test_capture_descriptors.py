"""Jobs that take away what a log needs cost neither their own log nor the prints of the next ones.

They close or replace descriptors, leave none, or leave nothing to be imported from.
"""

# ruff: noqa: T201 - printing is what is tested

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from collector import Collector, WorkerCrashError, current_job
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")


def says(text: str) -> None:
    """Print from Python, from C and from a program."""
    print(text)
    print(text, file=sys.stderr)
    ctypes.CDLL(None).printf(b"%s in C\n", text.encode())
    subprocess.run(["/bin/sh", "-c", f"echo {text} in a shell; echo and {text} >&2"], check=True)


def said(text: str) -> str:
    return f"{text}\n{text}\n{text} in C\n{text} in a shell\nand {text}\n"


def closes_then_opens(directory: str) -> None:
    """As a library that makes a daemon of its process; the files stay open."""
    print("before")
    os.closerange(3, 512)
    for number in range(20):
        os.open(f"{directory}/{number}", os.O_WRONLY | os.O_CREAT)
    print("after")


def closes_all_three() -> None:
    for fd in range(3):
        os.close(fd)


def closes_the_log() -> None:
    """Close that descriptor of its log of which the job knows nothing."""
    log = os.fstat(1)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and leads_to(fd, log):
            os.close(fd)


def leads_to(fd: int, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), file)
    except OSError:  # that of the listing itself
        return False


def writes_by_its_descriptor() -> None:
    """Have a program write to the output, then print."""
    subprocess.run(["echo", "by a program"], stdout=current_job(), check=True)
    os.write(1, b"printed\n")
    os.write(2, b"printed\n")


def closes_then_writes_by_its_descriptor() -> None:
    """Write to what had the numbers of stdout and stderr."""
    closes_all_three()
    current_job().fileno()
    for fd in (1, 2):
        try:
            os.write(fd, b"printed\n")
        except OSError:
            continue
    current_job().write(b"written")


def closes_where_it_prints() -> None:
    os.close(1)


def prints_to_who_has_gone() -> None:
    """Print to a pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)
    os.close(writing)


def says_what_is_lost(cannot: Callable[[], None]) -> None:
    """Leave half a line in the buffers of Python and of C, and no way out for it."""
    print("lost", end="")
    ctypes.CDLL(None).printf(b"lost in C")
    cannot()


def leaves_nothing_to_import() -> None:
    """As after a chroot(2), or a change to a user who may not read the installation."""
    sys.path.clear()
    sys.path_importer_cache.clear()


def leaves_no_descriptor() -> None:
    import resource  # not above: of the others none has it loaded

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with contextlib.suppress(OSError):
        while True:
            os.dup(0)


def says_and_fails(leave: Callable[[], None]) -> None:
    print("said")
    leave()
    raise LookupError("the job's own")


@pytest.fixture(params=[True, False], ids=["captured", "not captured"])
def captured(request: pytest.FixtureRequest) -> bool:
    """Whether the first job's prints are captured."""
    return bool(request.param)


@each_method
def test_no_print_is_in_the_files_of_a_job_that_closed_what_was_not_its_own(
    method: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Collector(1, method, capture=True, progress=False) as collector:
        job = collector.submit(closes_then_opens, os.fspath(tmp_path))
        assert (job.exception(), job.log().text()) == (None, "before\nafter\n")
        collector.with_options(capture=False).submit(os.write, 1, b"seen\n").result()
        assert collector.submit(says, "kept").log().text() == said("kept")
    files = list(tmp_path.iterdir())
    assert len(files) == 20
    assert b"".join(map(Path.read_bytes, files)) == b""
    assert capfd.readouterr().out.count("seen") == 1


def test_a_job_that_closes_the_log_itself_fails_and_says_so() -> None:
    with Collector(1, capture=True, progress=False) as collector:
        error = collector.submit(closes_the_log).exception()
        assert isinstance(error, WorkerCrashError)
        assert "closed or replaced the worker's own descriptors" in str(error)
        assert collector.submit(says, "after").log().text() == said("after")


@each_method
def test_a_job_that_closes_stdin_stdout_and_stderr_costs_the_next_ones_nothing(
    method: str, captured: bool
) -> None:
    with Collector(1, method, progress=False) as collector:
        collector.with_options(capture=captured).submit(closes_all_three).result()
        job = collector.submit(writes_by_its_descriptor)
        assert (job.exception(), job.output().read()) == (None, b"by a program\n")
        log = collector.with_options(capture=True).submit(says, "kept").log()
        assert log.text() == said("kept")


def test_what_a_job_prints_that_has_closed_stdout_is_not_in_its_output() -> None:
    with Collector(1, progress=False) as collector:
        job = collector.submit(closes_then_writes_by_its_descriptor)
        assert (job.exception(), job.output().read()) == (None, b"written")


@pytest.fixture
def one_after_another(captured: bool) -> Callable[[Callable[[], None]], str]:
    """Run a job whose last prints are refused, then another one; return the log of that."""

    def logged(cannot: Callable[[], None]) -> str:
        with Collector(1, progress=False) as collector:
            first = collector.with_options(capture=captured)
            first.submit(says_what_is_lost, cannot).result()
            return collector.with_options(capture=True).submit(says, "kept").log().text()

    return logged


@pytest.mark.parametrize("cannot", [closes_where_it_prints, prints_to_who_has_gone])
def test_what_a_job_could_not_print_is_in_no_log_of_another_one(
    cannot: Callable[[], None], one_after_another: Callable[[Callable[[], None]], str]
) -> None:
    assert one_after_another(cannot) == said("kept")


@pytest.mark.parametrize("leave", [leaves_nothing_to_import, leaves_no_descriptor])
@each_method
def test_a_job_that_leaves_nothing_to_end_with_keeps_its_own_error(
    method: str, leave: Callable[[], None]
) -> None:
    with Collector(1, method, capture=True, progress=False) as collector:
        job = collector.submit(says_and_fails, leave)
        assert repr(job.exception()) == 'LookupError("the job\'s own")'
        assert job.log().text() == "said\n"
