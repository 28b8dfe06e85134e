"""The page about a batch that takes three nights: typed as it stands, killed and continued."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from collector import Batch
from tests.support.leaks import wait_until
from tests.support.tree import ROOT, kill_at_once, script
from tests.test_docs import DOCS, blocks

PAGE: Final = DOCS / "how-to" / "batch-of-three-nights.md"


@pytest.fixture(name="place")
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the script of the page, where it is run."""
    (tmp_path / "nights.py").write_text(blocks("python", PAGE)[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.fspath(ROOT))
    return tmp_path


def typed(line: str) -> str:
    """Type a line into a shell; return what is printed."""
    line = re.sub(r"^python ", f"{sys.executable} ", line)
    line = re.sub(r"^collector ", f"{sys.executable} -m collector ", line)
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_page_shows_what_is_printed(place: Path) -> None:
    assert place.is_dir()
    for block in blocks("console", PAGE):
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            pattern = re.escape(shown).replace(re.escape("..."), ".*")
            said = typed(command)
            assert re.fullmatch(pattern, said), f"$ {command}\n{said}"
    shown = subprocess.run(
        [sys.executable, "-c", blocks("python", PAGE)[1]],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "talk-7.mp4 OSError: talk-7.mp4: the service is busy 0 bytes were kept" in shown.stdout


@pytest.mark.slow
def test_the_script_of_the_page_is_killed_and_continued(place: Path) -> None:
    count = 300
    source = (place / "nights.py").read_text()
    journal = place / "transcripts" / "shard-0" / "journal.jsonl"
    for least in (20, 120):
        with script(source, str(count)) as night:
            assert wait_until(
                lambda least=least: (  # type: ignore[misc]
                    journal.exists() and journal.read_bytes().count(b'"done"') >= least
                ),
                60,
            )
            kill_at_once(night.tree)
            assert night.gone()
    said = typed(f"python nights.py {count}")
    there, not_done = map(int, re.findall(r"(\d+) were there already, (\d+) failed", said)[0])
    assert there >= 120
    assert not_done == 30
    with Batch.open("transcripts") as batch:
        assert batch.verify() == []
        found = {record.input: record for record in batch}
        assert len(found) == len(batch) == count
        for number in range(1, count + 1):
            name = f"talk-{number}.mp4"
            if number % 10 == 7:
                assert found[name].status == "failed"
                continue
            assert found[name].status == "done"
            assert found[name].value() == len(name)
            wanted = [f"{name}, minute {minute}" for minute in range(3)]
            assert list(found[name].output().lines()) == wanted
