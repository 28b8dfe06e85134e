"""Scripts that are run as a user's are: in an interpreter of their own, with no guard."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


def run_script(
    directory: Path, source: str, *arguments: str, way: str = "script"
) -> subprocess.CompletedProcess[str]:
    """Run a script that finds the package of this tree; warnings are errors.

    Args:
        directory: Where it is written, and run.
        source: Its text, which may be indented.
        *arguments: What it finds in `sys.argv[1:]`.
        way: "script", "stdin", "option c" or "option m".
    """
    source = textwrap.dedent(source)
    (directory / "script.py").write_text(source)
    how = {
        "script": ["script.py"],
        "stdin": ["-"],
        "option c": ["-c", source],
        "option m": ["-m", "script"],
    }[way]
    return subprocess.run(
        [sys.executable, "-W", "error", *how, *arguments],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
        input=source if way == "stdin" else None,
        stdin=None if way == "stdin" else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def run_well(directory: Path, source: str, *arguments: str, way: str = "script") -> str:
    """Run a script that must end well and print no error; return what it printed."""
    done = run_script(directory, source, *arguments, way=way)
    assert not done.stderr, done.stderr
    assert done.returncode == 0
    return done.stdout
