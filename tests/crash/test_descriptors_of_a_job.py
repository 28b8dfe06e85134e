"""A job that closes or replaces descriptors that are not its own fails; its files are its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from collector import Collector, WorkerCrashError, current_job
from tests.support.inside import pipe_of, writer_of_this_worker
from tests.support.jobs import square
from tests.support.tiers import each_method_in_one_tier

MANY: Final = 200


def open_files(directory: str, count: int = MANY) -> list[int]:
    """Open files, which get the lowest numbers."""
    flags = os.O_RDWR | os.O_CREAT
    return [os.open(f"{directory}/file-{number}", flags, 0o600) for number in range(count)]


def close_all_then_open(directory: str) -> None:
    """As a library that makes a daemon of its process."""
    os.closerange(3, 65536)
    open_files(directory)


def close_all_then_write(directory: str) -> None:
    """And go on as if nothing was."""
    os.closerange(3, 65536)
    open_files(directory)
    current_job().write(b"x" * 1_000_000)


def close_one_by_one(directory: str) -> None:
    """As older code does."""
    for fd in range(3, 4096):
        try:
            os.close(fd)
        except OSError:
            continue
    open_files(directory)


def close_ours_then_open(directory: str) -> None:
    """Close only the pipe to the sink, and open as many files as it takes to have its number."""
    pipe = pipe_of(writer_of_this_worker())
    os.close(pipe)
    while open_files(directory, 1)[0] < pipe:
        pass


def replace_ours(directory: str) -> None:
    """Put a file in its place."""
    (fd,) = open_files(directory, 1)
    os.dup2(fd, pipe_of(writer_of_this_worker()))


def replace_ours_by_a_pipe(directory: str) -> None:
    """Put another pipe in its place, of which a program writes all to a file."""
    (fd,) = open_files(directory, 1)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=fd) as program:
        assert program.stdin is not None
        os.dup2(program.stdin.fileno(), pipe_of(writer_of_this_worker()), inheritable=False)
        current_job().write(b"x" * 1_000_000)
        current_job().flush()


BAD: Final = (
    close_all_then_open,
    close_all_then_write,
    close_one_by_one,
    close_ours_then_open,
    replace_ours,
    replace_ours_by_a_pipe,
)


def contents(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


@pytest.mark.parametrize(
    ("job", "capture"),
    [
        pytest.param(
            *(job, capture),
            marks=pytest.mark.slow if capture == bool(number % 2) else pytest.mark.campaign,
            id=f"{job.__name__}-{capture}",
        )
        for number, job in enumerate(BAD)
        for capture in (False, True)
    ],
)
@each_method_in_one_tier
def test_a_job_that_takes_our_descriptors_fails_and_has_no_byte_of_ours(
    method: str, capture: bool, job: Callable[[str], None], tmp_path: Path
) -> None:
    with Collector(1, method, capture=capture) as collector:
        bad = collector.submit(job, os.fspath(tmp_path))
        following = [collector.submit(square, number) for number in range(20)]
        error = bad.exception(60)
        assert isinstance(error, WorkerCrashError)
        assert error.exitcode == 114
        assert "closed or replaced the worker's own descriptors" in str(error)
        assert [job.result(60) for job in following] == [number**2 for number in range(20)]
    assert contents(tmp_path) == b""


def open_many(directory: str) -> int:
    """Open as many files as a process may often have, and go on."""
    files = open_files(directory)
    for fd in files:
        os.write(fd, b"mine")
    current_job().write(b"ours")
    return len(files)


def close_below_256(directory: str) -> int:
    """Close what a program could have left open."""
    os.closerange(3, 256)
    return open_many(directory)


def close_in_a_program(directory: str) -> int:
    """Close all, where it harms nobody."""
    source = "import os; os.closerange(3, 65536)"
    subprocess.run([sys.executable, "-c", source], check=True, close_fds=True)
    return open_many(directory)


def close_in_a_forked_child(directory: str) -> int:
    """Fork as a daemon does: the child closes all, opens files, forks again and ends."""
    child = os.fork()
    if not child:
        close_all_then_open(directory)
        grandchild = os.fork()
        if not grandchild:
            os._exit(0 if contents(Path(directory)) == b"" else 1)
        status = os.waitpid(grandchild, 0)[1]
        for fd in range(3, MANY):  # the fork of the fork closed none of its files
            os.fstat(fd)
        os._exit(os.waitstatus_to_exitcode(status))
    assert os.waitpid(child, 0)[1] == 0
    return open_many(directory)


@pytest.mark.slow
@pytest.mark.parametrize(
    "job",
    [open_many, close_below_256, close_in_a_program, close_in_a_forked_child],
    ids=lambda job: str(job.__name__),
)
@each_method_in_one_tier
def test_a_job_that_keeps_clear_of_ours_goes_on(
    method: str, job: Callable[[str], Any], tmp_path: Path
) -> None:
    with Collector(1, method) as collector:
        good = collector.submit(job, os.fspath(tmp_path))
        assert good.result(60) == MANY
        assert good.output().read() == b"ours"
    assert contents(tmp_path) == b"mine" * MANY
