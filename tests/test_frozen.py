"""A program that PyInstaller has frozen, with all of collector in it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.slow

LEFT_OUT: Final = (
    *("asyncio", "distutils", "google", "jinja2", "matplotlib", "numpy", "pandas", "PIL"),
    *("pkg_resources", "pyarrow", "ray", "setuptools", "sqlite3", "test", "tkinter", "unittest"),
)
"""What no job here needs: to read all that may be imported takes PyInstaller most of its time."""

PROGRAM: Final = """
import os, sys
from importlib.util import find_spec
with open("starts", "a") as starts:
    starts.write("started\\n")
from collector import Collector, current_job
count = 0
def job(number):
    global count
    count += 1
    current_job().write(b"x" * number)
    return number, count
print(sys.frozen, [find_spec(name) for name in ("pytest", "PyInstaller")])
for method in (None, "fork"):
    with Collector(1, method) as collector:
        done = [(job.result(), job.output().size) for job in collector.collect(job, [1, 8_000_000])]
        print(done)
with Collector(1, progress=True) as collector:
    print([job.result() for job in collector.collect(job, [3], batch="batch")])
try:
    Collector(1, "spawn")
except ValueError as error:
    print(error)
"""


def test_a_program_of_pyinstaller_has_all_that_jobs_need(tmp_path: Path) -> None:
    """What is loaded late is named in no import statement: a hook of ours tells of it.

    Of pytest and PyInstaller, which are there, it has nothing: no program loads what is for them.
    """
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = os.environ | {"PYINSTALLER_CONFIG_DIR": os.fspath(tmp_path / "cache")}
    freeze = [sys.executable, "-m", "PyInstaller", "--log-level", "ERROR", "program.py"]
    freeze += [f"--exclude-module={name}" for name in LEFT_OUT]
    subprocess.run(freeze, cwd=tmp_path, env=environment, check=True, timeout=600)
    program = tmp_path / "dist" / "program" / "program"
    done = subprocess.run(
        program, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first = "[((1, 1), 1), ((8000000, 2), 8000000)]"
    *results, refusal = done.stdout.splitlines()
    assert results == ["True [None, None]", first, first, "[(3, 1)]"], done.stdout
    assert refusal.startswith("mp_context must be 'fork' in a frozen program")
    assert (tmp_path / "starts").read_text() == "started\n"
