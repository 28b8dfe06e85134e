"""The suites of joblib and dask, as their wheels ship them, pass with a Collector in their pool."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support import dask_on_collector
from tests.support.person import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PAGE = ROOT / "docs" / "how-to" / "joblib-and-dask.md"


def run_tests(*arguments: str, path: Path) -> str:
    """Run tests of another project in a process of its own, with its own settings."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", os.fspath(path)),
            *("-p", "no:cacheprovider", "-p", "no:xdist", "--timeout", "300", *arguments),
        ],
        cwd=path,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{path}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def passed(said: str) -> int:
    """How many tests passed."""
    found = re.search(r"(\d+) passed", said)
    return int(found[1]) if found else 0


def test_joblib_passes_its_tests_of_a_backend_with_that_of_the_page(tmp_path: Path) -> None:
    """But for a nested one that a worker would know only if it imported it, as the page says."""
    backend, *_ = [
        block
        for block in re.findall(
            r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
        )
        if "register_parallel_backend" in block
    ]
    (tmp_path / "collector_backend.py").write_text(backend)
    said = run_tests(
        *("-p", "collector_backend", "--pyargs", "joblib.test.test_parallel"),
        *("-k", "collector and not (test_nested_loop and -collector)"),
        path=tmp_path,
    )
    assert passed(said) > 60, said


@pytest.mark.parametrize("module", ["test_multiprocessing", "test_delayed"])
def test_dask_passes_its_tests_with_a_collector_as_scheduler_and_as_pool(
    module: str, tmp_path: Path
) -> None:
    plugin = dask_on_collector.__name__
    assert find_spec("dask.tests") is not None
    said = run_tests("-p", plugin, "--pyargs", f"dask.tests.{module}", path=tmp_path)
    assert passed(said) > 20, said
