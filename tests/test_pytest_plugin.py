"""The fixture `collector`, as a user's own tests see it."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.person import ROOT, environment

PLUGIN = "collector.pytest_plugin"

GOOD = """
import os

def write(size):
    yield b"x" * size

def test_one(collector, tmp_path):
    assert [job.output().size for job in collector.collect(write, [1, 100_000])]
    assert os.listdir(tmp_path) == ["collector"]

def test_two(collector):
    job = collector.submit(write, 100_000)
    assert job.output().path.is_relative_to(os.environ["PYTEST_DEBUG_TEMPROOT"])
"""

HOLDS = """
held = []

def write(size):
    yield b"x" * size

def test_holds(collector):
    held.append(collector.submit(write, 100_000).output())

def test_next(collector):
    assert collector.submit(abs, -1).result() == 1

def test_fails_for_another_reason(collector):
    held.append(collector.submit(write, 100_000).output())
    assert False, "another reason"
"""

BLOCKS = """
import threading
from collector import settings

settings.REPORT_PATIENCE_S = 0.1

def test_blocks(collector):
    called = threading.Event()
    def block(job, progress):
        called.set()
        threading.Event().wait()
    collector.with_options(on_progress=block).submit(abs, -1).result()
    assert called.wait(60)
"""


BLAMELESS = """
import pytest
from collector import Collector

def write(size):
    yield b"x" * size

@pytest.fixture
def output(collector):
    return collector.submit(write, 100_000).output()

@pytest.fixture
def job(collector):
    job = collector.submit(write, 100_000)
    yield job

@pytest.fixture(scope="module")
def shared():
    with Collector(1, on_progress=lambda job, progress: None) as collector:
        yield collector

def test_that_has_an_output_from_a_fixture(output, job):
    assert output.size == job.output().size

def test_that_uses_two(shared, collector):
    assert collector.submit(abs, -1).result() == shared.submit(abs, -1).result()

@pytest.mark.xfail(raises=AssertionError, strict=True)
def test_that_is_expected_to_fail(collector):
    job = collector.submit(write, 100_000)
    assert job.output().size == 1

@pytest.fixture
def skips(collector):
    job = collector.submit(write, 100_000)
    job.output()
    pytest.skip("in the midst of it")

def test_that_is_skipped(skips):
    pass
"""


def run(test: str, directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a file of tests in a pytest of its own."""
    (directory / "test_it.py").write_text(test)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", "-q"],
        cwd=directory,
        env=environment(
            PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
            PYTEST_DEBUG_TEMPROOT=os.fspath(directory),
            **variables,
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_tests_that_leave_nothing_pass(tmp_path: Path) -> None:
    done = run(GOOD, tmp_path)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


@pytest.mark.parametrize(  # where it is true pytest repeats whole messages in its summary
    "ci", ["", pytest.param("true", marks=pytest.mark.slow)]
)
def test_an_output_that_is_still_held_fails_its_test(ci: str, tmp_path: Path) -> None:
    done = run(HOLDS, tmp_path, CI=ci)
    assert done.returncode == 1
    assert "2 passed, 1 error" in done.stdout.replace("1 failed, ", "")
    report, _, summary = done.stdout.partition("short test summary info")
    assert report.count("an output that was neither closed nor dropped") == 1
    assert summary.count("ERROR test_it.py::") == 1
    assert "ERROR test_it.py::test_holds" in summary
    assert "FAILED test_it.py::test_fails_for_another_reason" in summary


@pytest.mark.slow
def test_what_pytest_itself_holds_or_another_collector_has_fails_no_test(tmp_path: Path) -> None:
    done = run(BLAMELESS, tmp_path)
    assert done.returncode == 0, done.stdout
    assert "2 passed, 1 skipped, 1 xfailed in" in done.stdout


@pytest.mark.slow
def test_a_callback_that_does_not_return_fails_its_test(tmp_path: Path) -> None:
    done = run(BLOCKS, tmp_path)
    assert done.returncode == 1
    assert "thread collector-report: a callback that does not return" in done.stdout


def test_pytest_finds_the_plugin_where_collector_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"collector": PLUGIN}


def test_the_plugin_costs_a_test_run_nothing() -> None:
    heavy = {"multiprocess", "tqdm", "filelock", "collector.executor", "collector.settings"}
    code = f"import sys, {PLUGIN}; print(*{heavy!r} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
