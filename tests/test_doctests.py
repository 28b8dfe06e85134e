"""The examples in the docstrings of public names run, and give what they say."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.test_docs import DOCS, ROOT

MAIN: Final = {
    "Batch",
    "Collector",
    "Collector.collect",
    "Collector.submit",
    "Collector.with_options",
    "Job",
    "Output",
    "SpillManager",
    "current_job",
}
"""The names that a user meets first; each has an example."""


def test_the_examples_of_public_names_give_what_they_say(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.doctests"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert set(done.stdout.split()) >= MAIN


def test_each_example_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "api.md").read_text("utf-8")
    assert page.count("**Example.**") >= len(MAIN)
