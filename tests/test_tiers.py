"""Each test belongs to one tier, and several processes of pytest catch what one does."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]

PLANTED: Final = """
import os, subprocess, sys, tempfile
import pytest
from tests.support import leaks
from tests.support.tiers import each_method

leaks.settle.__defaults__ = (0.1,)  # nothing that is left here is on its way out
KEPT = []

def test_a_process():
    KEPT.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))

def test_a_descriptor():
    os.open(os.devnull, os.O_RDONLY)

def test_a_file():
    tempfile.mkstemp()

@each_method
def test_nothing(method):
    pass

@each_method
@pytest.mark.parametrize("case", ["fork", "spawn"])
def test_turns(method, case):
    pass

@pytest.mark.slow
@pytest.mark.campaign
def test_in_two_tiers():
    pass
"""


GROUPED: Final = """
import os
import pytest

@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("number", range(20))
def test_it(number):
    with open("processes", "a") as file:
        file.write(f"{os.getpid()} ")
"""


def run_planted(directory: Path, *options: str) -> str:
    """Run the planted tests as those of this tree are run; return what pytest says."""
    file = directory / "test_planted.py"
    file.write_text(PLANTED)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-rN", "-p", "no:cacheprovider"),
            *("-p", "tests.conftest", "-c", os.fspath(ROOT / "pyproject.toml")),
            *("--rootdir", os.fspath(directory), *options, os.fspath(file)),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.mark.slow
def test_a_group_runs_in_one_process(tmp_path: Path) -> None:
    (tmp_path / "test_grouped.py").write_text(GROUPED)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2"),
            *("--dist", "loadgroup", "-c", os.fspath(ROOT / "pyproject.toml")),
            *("--rootdir", os.fspath(tmp_path), os.fspath(tmp_path)),
        ],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "20 passed" in done.stdout
    assert len((tmp_path / "processes").read_text().split()) == 20
    assert len(set((tmp_path / "processes").read_text().split())) == 1


@pytest.mark.slow
def test_what_a_test_leaves_is_caught_in_each_of_several_processes(tmp_path: Path) -> None:
    said = run_planted(tmp_path, "-n", "2")
    assert said.count("the test left behind:") == 3, said
    for left in ("  process ", "  descriptor /dev/null", "  file "):
        assert left in said
    assert "6 passed, 3 errors" in said  # each passed, and failed when it was looked after


def test_other_start_methods_are_slow_and_no_test_is_of_two_tiers(tmp_path: Path) -> None:
    said = run_planted(tmp_path, "-m", "slow", "-p", "no:xdist")  # nor is xdist needed
    assert "it is marked both slow and campaign" in said
    assert "4 passed" in said
    assert "test_in_two_tiers" in said


def test_other_start_methods_take_turns_where_there_are_several_cases(tmp_path: Path) -> None:
    said = run_planted(tmp_path, "-m", "campaign", "-p", "no:xdist", "-vv")
    assert "2 passed" in said, said
    assert "test_turns[fork-fork]" in said
    assert "test_turns[spawn-spawn]" in said
