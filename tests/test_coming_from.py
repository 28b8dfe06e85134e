"""The pages for those who come from elsewhere: their call and ours are run, and print the same."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import pytest

from collector.integrations.ray import own
from tests.test_docs import DOCS, ROOT, blocks

PAGES: Final = sorted((DOCS / "coming-from").glob("*.md"))
EVERYDAY: Final = {"multiprocessing"}
OTHER_PROGRAMS: Final = {"gnu-parallel"}
"""No library of Python's: it has tests of its own."""
EXTRAS: Final = {"ray"}
"""Libraries that the tests do not install: their call is run where they are."""


def examples(page: Path) -> tuple[str, str, str]:
    """Their script, ours, and what both print."""
    scripts = blocks("python", page)
    ours = [script for script in scripts if script.startswith("# collector\n")]
    theirs = [script for script in scripts if not script.startswith("# collector\n")]
    shown = blocks("text", page)
    assert len(ours) == len(theirs) == len(shown) >= 2, page.name
    return "".join(theirs), "".join(ours), "".join(shown)


OWN_PRINT: Final = """\
import functools
print = functools.partial(print, file=open("printed", "w", buffering=1))
"""
"""Ray prints news on stdout from a thread of its own: some lines each, and between the pieces of a
line that the script prints just then."""


def printed(script: str, here: Path, before: str = "") -> str:
    here.mkdir()
    (here / "script.py").write_text(before + script)
    done = subprocess.run(
        [sys.executable, "-u", "script.py"],  # a worker that is forked would print a buffer again
        cwd=here,
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT), "HOME": os.fspath(here)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return (here / "printed").read_text() if before else done.stdout


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[] if page.stem in EVERYDAY else [pytest.mark.slow])
        for page in PAGES
        if page.stem not in OTHER_PROGRAMS
    ],
)
def test_their_call_and_ours_print_the_same(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours, shown = examples(page)
    assert printed(ours, tmp_path / "ours") == shown
    if page.stem not in EXTRAS:
        assert printed(theirs, tmp_path / "theirs") == shown
        return
    pytest.importorskip(page.stem, reason=f"ours prints it; theirs needs {page.stem}")
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as short:  # Ray makes sockets there
        monkeypatch.setenv("RAY_TMPDIR", short)
        try:
            assert printed(theirs, tmp_path / "theirs", OWN_PRINT) == shown
        finally:
            own.end_remains(short)  # its agents notice after seconds that it has ended


NEWS: Final = """\
import sys, threading

def tell():
    sys.stdout.write("(raylet) something\\nand why\\n")

print("begun, ", end="")
thread = threading.Thread(target=tell)
thread.start()
thread.join()
print("and done")
"""


def test_what_ray_says_between_two_pieces_of_a_line_is_not_the_scripts(tmp_path: Path) -> None:
    assert printed(NEWS, tmp_path / "news", OWN_PRINT) == "begun, and done\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_differs_and_the_first_page_leads_to_it(page: Path) -> None:
    assert re.search(r"^\| .+ \| .+ \| .+ \|$", page.read_text(), re.MULTILINE)
    assert f"(coming-from/{page.name})" in (DOCS / "index.md").read_text()
