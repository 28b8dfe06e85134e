"""What a run writes for others onto a disk that is full: whole lines, and one clear message."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disks import fill, free, small_disk
from tests.support.running import QUIET, RUN

INPUTS = [f"{number} {'x' * 50}" for number in range(60)]


@pytest.fixture(name="disk")
def _disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, 1 << 20) as disk:
        yield disk


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--joblog", "no more is written to --joblog: No space left on device"),
        ("--events", "no more events are written to "),
    ],
)
def test_a_file_of_lines_ends_with_a_whole_one(disk: Path, option: str, said: str) -> None:
    """It ended with what the disk had taken of the next one."""
    fill(disk, spare_bytes=4096)
    words = [*QUIET, option, os.fspath(disk / "lines"), "true", ":::", *INPUTS]
    done = subprocess.run([*RUN, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.count(said) == 1
    assert free(disk) == 0
    *lines, after = (disk / "lines").read_text().split("\n")
    assert after == ""
    assert len(lines) > 5
    for line in lines:
        assert isinstance(json.loads(line), dict) if option == "--events" else "\t" in line
    assert option == "--events" or {line.count("\t") for line in lines} == {8}


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["echo lost >&2; : {}", ":::", "a"], 255),
        (["echo lost >&2; exit {}", ":::", "3"], 1),
        (["echo", ":::", "a"], 0),
        (["--no-such-option", "echo", ":::", "a"], 2),
    ],
)
def test_a_full_stderr_is_told_of_by_the_exit_status(words: list[str], status: int) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*RUN, *words], stderr=full, stdout=subprocess.DEVNULL, check=False)
    assert done.returncode == status


def test_a_rehearsal_that_stdout_does_not_take_says_so() -> None:
    with open("/dev/full", "wb") as full:
        words = ["--dry-run", "echo", ":::", "a"]
        done = subprocess.run([*RUN, *words], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 255
    assert done.stderr == b"collector: cannot write to stdout: No space left on device\n"
