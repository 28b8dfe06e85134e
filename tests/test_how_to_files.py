"""The examples of the pages about files and following print what the pages say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import DOCS, ROOT, blocks


@pytest.mark.parametrize(
    ("page", "number"),
    [("write-with-libraries.md", 0), ("write-with-libraries.md", 1), ("watch-a-job.md", 0)],
)
def test_the_example_prints_what_the_page_says(page: str, number: int, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(blocks("python", DOCS / "how-to" / page)[number], "utf-8")
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == blocks("text", DOCS / "how-to" / page)[number]
