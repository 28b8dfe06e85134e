"""The scripts of the how-to pages run as they are printed."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integrations.fake_gemini import KEY, FakeGemini
from tests.integrations.gemini_script import (
    Cut,
    Question,
    Say,
    Step,
    expected_transcript,
    transcript,
)

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to"
LONGEST_SCRIPT_LINES = 30


def blocks(page: str, language: str) -> list[str]:
    text = (HOW_TO / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def python(script: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, script, *arguments],
        cwd=script.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_script_for_gemini_makes_a_folder_of_transcripts(
    gemini: FakeGemini, tmp_path: Path
) -> None:
    script = tmp_path / "transcribe.py"
    script.write_text(blocks("stream-gemini.md", "python")[0], "utf-8")
    assert len(script.read_text("utf-8").splitlines()) <= LONGEST_SCRIPT_LINES
    videos, transcripts = tmp_path / "videos", tmp_path / "transcripts"
    videos.mkdir()
    media = {f"talk {number}": os.urandom(1000 * number + 1) for number in range(6)}
    for name, data in media.items():
        (videos / f"{name}.mp4").write_bytes(data)

    def script_with_a_cut(question: Question) -> Iterator[Step]:
        if question.size == 3001:
            yield Say("a part")
            yield Cut()
        yield from transcript(question)

    gemini.script = script_with_a_cut
    first = python(script, videos, transcripts)
    assert first.returncode == 1
    assert "talk 3.mp4: the answer about" in first.stderr
    assert first.stderr.count("mp4: ") == 1
    assert not list(transcripts.glob("talk 3*"))
    assert len(list(transcripts.iterdir())) == 2 * 5

    gemini.script = transcript
    second = python(script, videos, transcripts)
    assert (second.returncode, second.stderr) == (0, "")
    assert len(gemini.questions) == 7
    for name, data in media.items():
        assert (transcripts / f"{name}.txt").read_bytes() == expected_transcript(data)
        record = json.loads((transcripts / f"{name}.txt.json").read_text("utf-8"))
        assert record["source"] == str(videos / f"{name}.mp4")
        assert record["base_result"]["finish_reason"] == "STOP"
        assert record["complete"]
    assert KEY not in first.stdout + first.stderr + second.stdout


@pytest.mark.slow
def test_the_example_without_a_batch_prints_the_answer(gemini: FakeGemini, video: Path) -> None:
    script = video.parent / "ask.py"
    script.write_text(blocks("stream-gemini.md", "python")[1], "utf-8")
    done = python(script, video)
    assert (done.returncode, done.stderr) == (0, "")
    assert expected_transcript(video.read_bytes()).decode() in done.stdout
    assert "total_token_count" in done.stdout


def test_the_example_for_post_processing_makes_what_the_page_shows(tmp_path: Path) -> None:
    script = tmp_path / "reports.py"
    script.write_text(blocks("post-process.md", "python")[0], "utf-8")
    done = python(script)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2
    (shown,) = blocks("post-process.md", "text")
    assert (tmp_path / "reports" / "north.txt").read_text("utf-8") == shown
    (record,) = blocks("post-process.md", "json")
    made = json.loads((tmp_path / "reports" / "north.txt.json").read_text("utf-8"))
    assert made | {"sha256": "..."} == json.loads(record)


def test_the_transform_of_the_page_is_one(tmp_path: Path) -> None:
    names: dict[str, object] = {}
    exec(blocks("post-process.md", "python")[1], names)
    transform = names["without_timestamps"]
    assert callable(transform)
    assert list(transform(iter(["[00:01] Hello", "there"]))) == ["Hello", "there"]
