"""Every example and every command of the README and the pages is run by a test, or says why not.

A page of which one test runs every block is in `WHOLE_PAGES`. Any other block is in `RUN` or in
`NOT_RUN`, by its page and its first line.
"""

import fnmatch
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.leaks import wait_until
from tests.support.tree import script
from tests.test_docs import DOCS, PAGES, README, ROOT, blocks, functions, name_of

BLOCK: Final = re.compile(
    r"^ *```(?:python|pycon|console|sh|shell|bash)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL
)
COLLECTOR: Final = f"{sys.executable} -m collector"
_COMING: Final = "tests/test_coming_from.py::test_their_call_and_ours_print_the_same"
_FILES: Final = "tests/test_how_to_files.py::test_the_example_prints_what_the_page_says"
_FOLLOW: Final = "tests/test_follow_page.py::test_the_examples_of_the_page_print_what_it_says"
_GEMINI: Final = (
    "tests/integrations/test_how_to_pages.py::"
    "test_the_script_for_gemini_makes_a_folder_of_transcripts"
)
_GEMINI_ALONE: Final = (
    "tests/integrations/test_how_to_pages.py::test_the_example_without_a_batch_prints_the_answer"
)
_HERE: Final = "tests/test_docs_blocks.py"
_NIGHTS: Final = "tests/batch/test_how_to.py::test_the_page_shows_what_is_printed"
_POLITE: Final = (
    "tests/integrations/test_how_to_polite.py::"
    "test_the_script_waits_for_the_service_and_goes_on_after_an_empty_account"
)
_POST: Final = (
    "tests/integrations/test_how_to_pages.py::"
    "test_the_example_for_post_processing_makes_what_the_page_shows"
)
_TUTORIAL: Final = (
    "tests/test_docs.py::"
    "test_the_tutorial_runs_from_its_first_line_to_its_last_and_prints_what_it_says"
)
WHOLE_PAGES: Final = {
    "docs/coming-from/concurrent-futures.md": _COMING,
    "docs/coming-from/dask.md": _COMING,
    "docs/coming-from/joblib.md": _COMING,
    "docs/coming-from/mpire.md": _COMING,
    "docs/coming-from/multiprocessing.md": _COMING,
    "docs/coming-from/pebble.md": _COMING,
    "docs/coming-from/ray.md": _COMING,
    "docs/decisions/*.md": "tests/test_docs.py::test_the_examples_of_a_decision_show_what_it_says",
    "docs/how-to/batch-of-three-nights.md": _NIGHTS,
    "docs/how-to/from-a-loop.md": (
        "tests/run/test_from_a_loop.py::test_every_line_of_the_page_is_run_here"
    ),
    "docs/how-to/joblib-and-dask.md": (
        "tests/contract/test_other_projects.py::"
        "test_the_examples_of_the_page_run_as_they_are_printed"
    ),
    "docs/how-to/on-a-slurm-cluster.md": (
        "tests/batch/test_slurm_page.py::test_the_array_of_the_page_runs_the_batch_once"
    ),
    "docs/how-to/watch-a-job.md": _FOLLOW,
    "docs/how-to/write-with-libraries.md": _FILES,
    "docs/testing.md": (
        "tests/test_testing_page.py::test_the_example_passes_where_collector_is_installed"
    ),
}
_SCREEN: Final = "tests/test_progress_screen.py"
RUN: Final = {
    ("README.md", "import hashlib"): "tests/test_house.py::test_every_example_of_the_readme_runs",
    ("README.md", "collector top"): f"{_HERE}::test_the_commands_can_be_typed",
    ("README.md", "collector run"): f"{_HERE}::test_the_three_lines_of_collector_run",
    ("docs/deployment.md", "def measure"): (
        "tests/test_deployment_page.py::test_coverage_sees_what_a_worker_runs"
    ),
    ("docs/how-to/look-at-a-batch.md", ""): f"{_HERE}::test_a_running_batch_is_looked_at",
    ("docs/how-to/on-ray.md", "from collector import Collector"): (
        "tests/integrations/test_ray_page.py::test_the_example_prints_what_each_job_returned"
    ),
    ("docs/how-to/polite-batch.md", '"""Transcribe'): _POLITE,
    ("docs/how-to/polite-batch.md", ".venv/bin/python polite.py"): _POLITE,
    ("docs/how-to/polite-batch.md", "from collector import RetryLater"): (
        f"{_HERE}::test_a_job_of_ones_own_is_polite"
    ),
    ("docs/how-to/polite-batch.md", "collector run"): (
        "tests/run/test_later.py::test_the_line_for_curl_waits_where_the_service_asks_for_it"
    ),
    ("docs/how-to/post-process.md", "from collector"): _POST,
    ("docs/how-to/post-process.md", "def without_timestamps"): (
        "tests/integrations/test_how_to_pages.py::test_the_transform_of_the_page_is_one"
    ),
    ("docs/how-to/progress.md", "from collector import Collector"): (
        f"{_SCREEN}::test_the_documented_batch_has_a_bar"
    ),
    ("docs/how-to/progress.md", "import logging"): f"{_HERE}::test_the_log_can_be_set_up_so",
    ("docs/how-to/report.md", "collector report"): f"{_HERE}::test_the_commands_can_be_typed",
    ("docs/how-to/stream-gemini.md", '"""Transcribe'): _GEMINI,
    ("docs/how-to/stream-gemini.md", ".venv/bin/python transcribe.py"): _GEMINI,
    ("docs/how-to/stream-gemini.md", "import sys"): _GEMINI_ALONE,
    ("docs/reference/run-directory.md", "collector gc"): f"{_HERE}::test_the_commands_can_be_typed",
    ("docs/tutorial.md", "collector gc"): f"{_HERE}::test_the_commands_can_be_typed",
    ("docs/tutorial.md", ""): _TUTORIAL,
}
"""The first that fits holds. Of `progress.md` three examples have tests beside each other."""
NOT_RUN: Final = {
    ("README.md", "python3 -m venv .venv && .venv/bin/pip install -q -e . "): (
        "needs a new environment: `tests/test_packages.py` does that with what is built"
    ),
    ("README.md", "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]'"): (
        "is what `.ci/run` takes from there and runs, and this test with it"
    ),
    ("docs/contributing.md", "python3 -m venv"): "the second command of the README",
    ("docs/how-to/stream-gemini.md", ".venv/bin/pip install"): "needs an API key of yours",
    ("docs/how-to/on-ray.md", "pip install"): "brings 260 MB, which the tests of Ray need, too",
    (
        "docs/reference/api.md",
        "",
    ): "signatures, and examples of docstrings, which `tests/test_doctests.py` runs",
}


def all_blocks() -> Iterator[tuple[str, str]]:
    """The page of each block, and its first line."""
    for page in PAGES:
        for body in BLOCK.findall(page.read_text("utf-8")):
            yield name_of(page), body.strip().split("\n")[0]


def entry(page: str, first: str) -> tuple[str, str] | str | None:
    """What is said of a block: the key in one of the three tables."""
    for key in (*RUN, *NOT_RUN):
        if page == key[0] and first.startswith(key[1]):
            return key
    return next((known for known in WHOLE_PAGES if fnmatch.fnmatch(page, known)), None)


def test_every_block_is_run_by_a_test_or_says_why_not() -> None:
    assert [block for block in all_blocks() if entry(*block) is None] == []


def test_a_new_block_would_be_seen() -> None:
    assert entry("docs/how-to/progress.md", "print(1)") is None
    assert entry("README.md", "rm -rf build") is None


def test_no_entry_is_about_a_block_that_is_gone() -> None:
    met = {entry(*block) for block in all_blocks()}
    assert {*RUN, *NOT_RUN, *WHOLE_PAGES} - met == set()


@pytest.mark.parametrize("named", sorted({*RUN.values(), *WHOLE_PAGES.values()}))
def test_the_test_that_runs_a_block_exists(named: str) -> None:
    path, _, test = named.partition("::")
    assert test in functions(ROOT / path)


# -- what is to be typed ---------------------------------------------------------------------------


def typed(line: str, here: Path) -> subprocess.CompletedProcess[str]:
    """Type a line into a shell."""
    line = re.sub(r"(^|\| )collector ", rf"\1{COLLECTOR} ", line)
    return subprocess.run(
        ["sh", "-c", line],
        cwd=here,
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT), "COLLECTOR_TMPDIR": os.fspath(here)},
        capture_output=True,
        text=True,
        check=False,
    )


def commands(page: Path) -> list[str]:
    lines = [line for block in blocks("sh", page) for line in block.splitlines()]
    return [line for line in lines if re.match("collector (?!run )", line)]


BATCH: Final = """
from collector import Collector
with Collector(max_workers=1, progress=False) as collector:
    print(len(list(collector.collect(bytes, range(3), batch="thumbnails"))))
"""


@pytest.mark.slow
def test_the_commands_can_be_typed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(BATCH)
    assert typed(f"{sys.executable} script.py", tmp_path).stdout == "3\n"
    pages = [README, DOCS / "tutorial.md", DOCS / "how-to" / "report.md"]
    lines = [line for page in pages for line in commands(page)]
    assert len(lines) >= 9
    for line in {*lines, *commands(DOCS / "reference" / "run-directory.md")}:
        done = typed(line.replace("DIR", "thumbnails"), tmp_path)
        assert done.returncode == 0, f"$ {line}\n{done.stderr}"
    assert (tmp_path / "report.html").stat().st_size > len("<html>")


@pytest.mark.slow
def test_the_three_lines_of_collector_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for ImageMagick, which need not be there, and files for pages of the web."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "convert").write_text('#!/bin/sh\ncat "$1"\n')
    (tmp_path / "bin" / "convert").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "photos").mkdir()
    (tmp_path / "pages.py").write_text(
        "import pathlib\ndef extract(name):\n    yield pathlib.Path(name).read_text()\n"
    )
    for name in ("photos/a.jpg", "photos/b.jpg", "one.pdf", "two.pdf"):
        (tmp_path / name).write_text(f"{name}\n")
    urls = [(tmp_path / name).as_uri() for name in ("one.pdf", "two.pdf")]
    (tmp_path / "urls.txt").write_text("".join(f"{url}\n" for url in urls))
    lines = [line for text in blocks("sh", README) for line in text.splitlines()]
    lines = [line for line in lines if line.startswith("collector run ")]
    assert len(lines) == 3
    for line in lines:
        done = typed(line, tmp_path)
        assert done.returncode == 0, f"$ {line}\n{done.stderr}"
        assert ".jpg" not in done.stdout, "what is no text was printed on a terminal"
    assert sorted(os.listdir(tmp_path / "small")) == ["a.png", "b.png"]
    for batch, first in (("thumbs", "photos/a.jpg"), ("pages", "one.pdf"), ("texts", "one.pdf")):
        assert first in typed(f"collector cat {batch}", tmp_path).stdout


@pytest.mark.slow
def test_a_job_of_ones_own_is_polite(tmp_path: Path) -> None:
    *_, ask = blocks("python", DOCS / "how-to" / "polite-batch.md")
    (tmp_path / "script.py").write_text(f"{SERVICE}{ask}{ASKED}")
    done = typed(f"{sys.executable} script.py", tmp_path)
    assert done.stdout == "what?!\n", done.stderr


SERVICE: Final = """
from types import SimpleNamespace as Answer
class service:
    asked = 0
    def post(question):
        service.asked += 1
        if service.asked == 1:
            return Answer(status_code=429, headers={"Retry-After": "0.01"})
        good = {"status_code": 200, "headers": {}, "raise_for_status": lambda: None}
        return Answer(text=question + "!", **good)
"""
ASKED: Final = """
from collector import Collector
with Collector(max_workers=1) as collector:
    job = collector.submit(ask, "what?")
    print(job.result())
"""


def test_the_log_can_be_set_up_so(tmp_path: Path) -> None:
    _, setup, *_ = blocks("python", DOCS / "how-to" / "progress.md")
    (tmp_path / "script.py").write_text(f"{setup}logging.getLogger('collector').info('well')\n")
    assert typed(f"{sys.executable} script.py", tmp_path).stderr.endswith(" well\n")


# -- another terminal ------------------------------------------------------------------------------


def running(root: Path) -> list[dict[str, Any]]:
    """The jobs that run, the latest last."""
    (found,) = json.loads(typed("collector top --json", root).stdout) or [{"running": []}]
    return [job | {"run": found.get("run")} for job in found["running"]]


@pytest.mark.slow
def test_a_running_batch_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = DOCS / "how-to" / "look-at-a-batch.md"
    by_number, by_name, of_all, kill = commands(page)
    monkeypatch.setenv("COLLECTOR_TMPDIR", os.fspath(tmp_path))
    (example,) = blocks("python", page)
    assert "range(5)" in example  # so short a job may end between two commands
    with script(example.replace("range(5)", "range(600)")):
        assert wait_until(lambda: len(running(tmp_path)) > 1, 60)
        job = running(tmp_path)[-1]
        there = {"run-5d1c": job["run"], "transcribe-8": job["name"], " 7 ": f" {job['job']} "}

        def as_here(line: str) -> str:
            line = f"{line.partition('#')[0].rstrip()} "
            for said, now in there.items():
                line = line.replace(said, now)
            return line

        followed = typed(f"{as_here(by_name)} | head -n 1", tmp_path)
        number = job["name"].rpartition("-")[2]
        assert followed.stdout == f"{int(number) - 1}: second 0\n", followed.stderr
        assert "second 0" in typed(f"{as_here(by_number)} | head -n 1", tmp_path).stdout
        assert "\t" in typed(f"{as_here(of_all)} | head -n 1", tmp_path).stdout
        assert typed(as_here(kill), tmp_path).returncode == 0
