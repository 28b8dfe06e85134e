"""Jobs that close or replace descriptors cost neither their log nor the prints of the next ones."""

# ruff: noqa: T201 - printing is what is tested

import ctypes
import os
import subprocess
import sys

import pytest

from collector import Collector, current_job
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


def closes_all_three() -> None:
    for fd in range(3):
        os.close(fd)


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


@pytest.fixture(params=[True, False], ids=["captured", "not captured"])
def captured(request: pytest.FixtureRequest) -> bool:
    """Whether the first job's prints are captured."""
    return bool(request.param)


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
