"""The page about a SLURM cluster: its script in an array, by a stand-in for `sbatch`."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from collector import Batch
from tests.support.tree import ROOT
from tests.test_docs import DOCS, blocks

PAGE: Final = DOCS / "how-to" / "on-a-slurm-cluster.md"

SBATCH: Final = """#!{python}
# Does what `sbatch` does with `--array=A-B`: all tasks at once, each with SLURM's variables.
import os, re, subprocess, sys

first, last = map(int, re.search(r"--array=(\\d+)-(\\d+)", open(sys.argv[1]).read()).groups())
shared = {{"MIN": first, "MAX": last, "COUNT": last - first + 1, "STEP": 1}}
tasks = [
    subprocess.Popen(
        ["sh", sys.argv[1]],
        env=os.environ
        | {{f"SLURM_ARRAY_TASK_{{name}}": str(n) for name, n in shared.items()}}
        | {{"SLURM_ARRAY_TASK_ID": str(task), "SLURM_CPUS_PER_TASK": "4"}},
    )
    for task in range(first, last + 1)
]
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.fixture(name="typed")
def _typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files of the page, and programs of the names that it types."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sbatch").write_text(SBATCH.format(python=sys.executable))
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (programs / "collector").write_text(f'#!/bin/sh\nexec {sys.executable} -m collector "$@"\n')
    (programs / "whisper").write_text('#!/bin/sh\necho "$3 $COLLECTOR_SEQ"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    (tmp_path / "transcribe.py").write_text(blocks("python", PAGE)[0])
    (tmp_path / "array.sh").write_text(blocks("sh", PAGE)[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.fspath(ROOT))
    return tmp_path


@pytest.mark.slow
def test_the_array_of_the_page_runs_the_batch_once(typed: Path) -> None:
    (block,) = blocks("console", PAGE)
    submit, status = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    printed = subprocess.check_output(["sh", "-c", submit[0]], text=True)
    assert sorted(printed.splitlines()) == [f"shard {part} of 8 is done" for part in range(1, 9)]
    shown = subprocess.check_output(["sh", "-c", status[0]], text=True)
    assert re.fullmatch(re.escape(status[1]).replace(re.escape("..."), ".*"), shown), shown
    (typed / "array.sh").write_text((typed / "array.sh").read_text().replace("1-8", "1-3"))
    subprocess.check_output(["sh", "-c", submit[0]])
    with Batch.open("transcripts") as batch:
        assert batch.verify() == []
        assert [len(record.attempts) for record in batch] == [1] * 100


@pytest.mark.slow
def test_a_command_is_run_over_the_inputs_by_the_array(typed: Path) -> None:
    videos = [f"talk-{number:02d}.mp4" for number in range(30)]
    for video in videos:
        (typed / video).touch()
    array, line = blocks("sh", PAGE)
    (typed / "array.sh").write_text(array.replace("python transcribe.py", line))
    subprocess.check_output(["sh", "-c", "sbatch array.sh"])
    with Batch.open("transcripts") as batch:
        assert batch.verify() == []
        read = {record.input: record.output().text() for record in batch}
    assert read == {video: f"{video} {seq}\n" for seq, video in enumerate(videos, 1)}
    assert len(list(typed.glob("transcripts/shard-*of8"))) == 8
