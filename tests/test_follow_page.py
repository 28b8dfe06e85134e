"""The examples of the page about watching a job run as they are printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "watch-a-job.md"
BLOCK = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("script", "shown"), BLOCK.findall(PAGE.read_text("utf-8")))
def test_the_examples_of_the_page_print_what_it_says(
    script: str, shown: str, tmp_path: Path
) -> None:
    path = tmp_path / "script.py"
    path.write_text(script, "utf-8")
    done = subprocess.run(
        [sys.executable, path],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.fspath(PAGE.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, shown), done.stderr


def test_every_example_of_the_page_shows_what_it_prints() -> None:
    assert len(BLOCK.findall(PAGE.read_text("utf-8"))) == PAGE.read_text("utf-8").count("```python")
