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

pytestmark = pytest.mark.timeout(1200)

LONG = "fastest_first or abort_backend or call_separated or deadlock or nested_loop"
"""Those of joblib that take two of its two and a half minutes."""

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


@pytest.mark.parametrize(
    ("without", "least"),
    [
        pytest.param(LONG, 20, marks=pytest.mark.slow, id="the short ones"),
        pytest.param("test_nested_loop and -collector", 60, marks=pytest.mark.campaign, id="all"),
    ],
)
def test_joblib_passes_its_tests_of_a_backend_with_that_of_the_page(
    without: str, least: int, tmp_path: Path
) -> None:
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
        *("-k", f"collector and not ({without})"),
        path=tmp_path,
    )
    assert passed(said) > least, said


@pytest.mark.parametrize(
    ("module", "which", "least"),
    [
        pytest.param("test_multiprocessing", "pool", 10, marks=pytest.mark.slow),
        pytest.param("test_multiprocessing", "test", 20, marks=pytest.mark.campaign),
        pytest.param("test_delayed", "test", 20, marks=pytest.mark.campaign),
    ],
)
def test_dask_passes_its_tests_with_a_collector_as_scheduler_and_as_pool(
    module: str, which: str, least: int, tmp_path: Path
) -> None:
    plugin = dask_on_collector.__name__
    assert find_spec("dask.tests") is not None
    options = ("-p", plugin, "-k", which)
    said = run_tests(*options, "--pyargs", f"dask.tests.{module}", path=tmp_path)
    assert passed(said) > least, said
