"""A program that ends without `shutdown`, with work pending, or while something is wrong."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.contract.kinds import PATIENCE, Kind
from tests.support.tiers import everyday_are

ROOT: Final = Path(__file__).parents[2]

# What every script begins with; the standard executor needs the guard around the rest.
BEGIN: Final = """
import atexit, os, sys, threading, time
from pathlib import Path

HERE = Path(__file__).parent

def mark(name):
    (HERE / name).touch()
    return name

def slow_mark(name):
    time.sleep(0.2)
    return mark(name)

def fail():
    raise LookupError("in a job")

def make():
    return EXECUTOR
"""


def run(kind: Kind, tmp_path: Path, body: str, begin: str = "") -> tuple[int, str, set[str]]:
    """Run a script; return its status, what it said on stderr, and the files it made."""
    script = begin + BEGIN.replace("EXECUTOR", kind.expression())
    script += '\nif __name__ == "__main__":\n'
    script += "".join(f"    {line}\n" for line in body.strip().splitlines())
    (tmp_path / "script.py").write_text(script)
    # No -W error here: Python 3.12 and later would turn their warning of fork beside threads into
    # a failure of that fork.
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "script.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT), "PYTHONWARNINGS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    return done.returncode, without_fork_warning(done.stderr), names(tmp_path)


def without_fork_warning(said: str) -> str:
    lines = said.splitlines()
    kept = [
        line
        for number, line in enumerate(lines)
        if "use of fork() may lead to deadlocks" not in line
        and not (number and "use of fork() may lead to deadlocks" in lines[number - 1])
    ]
    return "\n".join(kept)


def names(tmp_path: Path) -> set[str]:
    return {path.name for path in tmp_path.iterdir()} - {"script.py", "__pycache__"}


def test_what_was_submitted_is_done_before_the_program_ends(kind: Kind, tmp_path: Path) -> None:
    done = run(
        kind, tmp_path, "executor = make()\nfor n in range(5): executor.submit(slow_mark, str(n))"
    )
    assert done == (0, "", {"0", "1", "2", "3", "4"})


@pytest.mark.slow
def test_also_when_the_executor_is_a_temporary_one(kind: Kind, tmp_path: Path) -> None:
    assert run(kind, tmp_path, "make().submit(slow_mark, 'done')") == (0, "", {"done"})


@pytest.mark.slow
def test_also_when_the_program_ends_by_exit(kind: Kind, tmp_path: Path) -> None:
    body = "executor = make()\nexecutor.submit(slow_mark, 'done')\nsys.exit(3)"
    assert run(kind, tmp_path, body) == (3, "", {"done"})


def test_also_when_the_program_ends_by_an_exception(kind: Kind, tmp_path: Path) -> None:
    body = "executor = make()\nexecutor.submit(slow_mark, 'done')\nraise LookupError('in main')"
    status, said, files = run(kind, tmp_path, body)
    assert (status, files) == (1, {"done"})
    assert said.endswith("LookupError: in main")
    assert said.count("Traceback") == 1


@pytest.mark.slow
def test_also_when_a_job_fails(kind: Kind, tmp_path: Path) -> None:
    body = "executor = make()\nexecutor.submit(fail)\nexecutor.submit(slow_mark, 'done')"
    assert run(kind, tmp_path, body) == (0, "", {"done"})


def test_also_when_a_worker_dies(kind: Kind, tmp_path: Path) -> None:
    body = (
        "executor = make()\nexecutor.submit(mark, 'begun').result()\nexecutor.submit(os._exit, 3)"
    )
    assert run(kind, tmp_path, body) == (0, "", {"begun"})


@pytest.mark.slow
def test_an_executor_that_is_idle_or_never_used_keeps_nothing_back(
    kind: Kind, tmp_path: Path
) -> None:
    body = "idle, unused = make(), make()\nidle.submit(mark, 'done').result()"
    assert run(kind, tmp_path, body) == (0, "", {"done"})


@pytest.mark.slow
def test_an_executor_that_a_module_holds_is_ended_in_time(kind: Kind, tmp_path: Path) -> None:
    body = "import json\njson.executor = make()\njson.executor.submit(slow_mark, 'done')"
    assert run(kind, tmp_path, body) == (0, "", {"done"})


@pytest.mark.parametrize("begun", everyday_are(["late"], of=["late", "early"]))
def test_a_job_submitted_at_exit_is_refused_or_done_and_hangs_nothing(
    kind: Kind, begun: str, tmp_path: Path
) -> None:
    # A handler registered before anything is imported runs after everything else has ended.
    handler = """
def at_exit():
    try:
        print(executor.submit(mark, "at exit").result(60))
    except RuntimeError as error:
        print("refused:", error)
"""
    body = handler + (
        "if BEGUN == 'late': atexit.register(at_exit)\n"
        "else: EARLY.append(at_exit)\n"
        "executor = make()\n"
        "executor.submit(mark, 'done').result()\n"
    )
    begin = (
        f"BEGUN = {begun!r}\nEARLY = []\nimport atexit\n"
        "atexit.register(lambda: [act() for act in EARLY])\n"
    )
    status, said, files = run(kind, tmp_path, body, begin)
    assert (status, said) == (0, "")
    assert files in ({"done"}, {"done", "at exit"})


@pytest.mark.slow
def test_a_thread_that_still_submits_is_waited_for(kind: Kind, tmp_path: Path) -> None:
    body = """
executor = make()
executor.submit(mark, 'begun').result()
def work():
    for n in range(3):
        executor.submit(slow_mark, str(n)).result()
threading.Thread(target=work).start()
"""
    status, said, files = run(kind, tmp_path, body)
    if kind.ours:  # the standard executor refuses what comes after the main thread's end
        assert (status, said, files) == (0, "", {"begun", "0", "1", "2"})
    else:
        assert status == 0
        assert "begun" in files


@pytest.mark.slow
def test_a_shutdown_that_was_not_waited_for_is_finished(kind: Kind, tmp_path: Path) -> None:
    body = (
        "executor = make()\n"
        "for n in range(3): executor.submit(slow_mark, str(n))\n"
        "executor.shutdown(wait=False)"
    )
    assert run(kind, tmp_path, body) == (0, "", {"0", "1", "2"})
