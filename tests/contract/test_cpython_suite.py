"""CPython's own executor tests pass with a Collector in the place of `ProcessPoolExecutor`.

`tests/support/cpython_suite.py` says which of them do not apply, and why.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.support import cpython_suite
from tests.support.person import ROOT
from tests.support.tiers import each_method_in_one_tier

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec(cpython_suite.PACKAGE) is None,
        reason="this Python is installed without its own tests of executors",
    ),
]


def run_suite(module: str, method: str) -> subprocess.CompletedProcess[str]:
    """Run one module of the suite by one start method, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tests.support.cpython_suite", module, method],
        cwd=ROOT,
        env=os.environ | {"PYTHONWARNINGS": "ignore::DeprecationWarning"},  # fork beside threads
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@each_method_in_one_tier
@pytest.mark.parametrize("module", cpython_suite.MODULES)
def test_it_passes(module: str, method: str) -> None:
    done = run_suite(module, method)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_does_not_apply_is_in_the_suite_and_runs_nowhere() -> None:
    """A name that is not there any more would hide nothing, but say that something is hidden."""
    there = set()
    for name in cpython_suite.MODULES:
        module = importlib.import_module(f"{cpython_suite.PACKAGE}.{name}")
        cases = [case for case in vars(module).values() if isinstance(case, type)]
        tests = {(case.__name__, name) for case in cases for name in dir(case)}
        there |= {name for _, name in tests} | {f"{case}.{name}" for case, name in tests}
    assert cpython_suite.NOT_OURS.keys() <= there
