"""Where no temp directory takes a file, as in a container that may write to one volume only."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.jobs import METHODS
from tests.support.tree import ROOT

NO_TEMP_DIRECTORY: Final = "import tempfile; tempfile._candidate_tempdir_list = lambda: []"

SCRIPT: Final = """
import sys, tempfile
from collector import Collector
def job(letter):
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        yield letter * 10
with Collector(max_workers=1, temp_root="root", memory_threshold=5, mp_context=sys.argv[1]) as pool:
    print(pool.submit(job, "x").output().text())
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of a program in which `tempfile` finds no directory, nor do the processes it starts."""
    (tmp_path / "sitecustomize.py").write_text(NO_TEMP_DIRECTORY)
    environment = {name: value for name, value in os.environ.items() if "TMPDIR" not in name}
    return environment | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}


@pytest.mark.parametrize("method", METHODS)
def test_a_temp_root_is_enough(method: str, tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", method],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("x" * 10 + "\n", 0), done.stderr


def test_so_is_the_variable_for_a_run_of_commands(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "collector", "run", "echo", "{}", ":::", "a"],
        cwd=tmp_path,
        env=environment | {"COLLECTOR_TMPDIR": "root"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("a\n", 0), done.stderr
