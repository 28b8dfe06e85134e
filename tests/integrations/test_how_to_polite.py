"""The script of the page about a polite batch runs as it is printed."""

import os
from pathlib import Path

import pytest

from tests.integrations.fake_gemini import FakeGemini
from tests.integrations.gemini_script import Finish, Raw, Refuse, Say
from tests.integrations.test_how_to_pages import blocks, python

UNCOUNTED = Raw(
    b'{"candidates": [{"content": {"parts": [{"text": "words"}]}, "finishReason": "STOP"}]}'
)


@pytest.mark.slow
def test_the_script_waits_for_the_service_and_goes_on_after_an_empty_account(
    gemini: FakeGemini, tmp_path: Path
) -> None:
    script = tmp_path / "polite.py"
    script.write_text(blocks("polite-batch.md", "python")[0], "utf-8")
    videos = [tmp_path / f"{number}.mp4" for number in range(3)]
    for video in videos:
        video.write_bytes(os.urandom(10))
    answers = [iter([UNCOUNTED])]  # the service need not tell what it has counted
    gemini.script = lambda _question: answers.pop() if answers else (Say("a few words"), Finish())
    gemini.faults["generate"].append(Refuse(429, "RESOURCE_EXHAUSTED", "Too many.", 0.1))
    first = python(script, "transcripts", *videos)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.count("done") == 3
    assert first.stdout.count("'usd'") == 3

    more = [tmp_path / f"more {number}.mp4" for number in range(25)]
    for video in more:
        video.write_bytes(os.urandom(10))
    gemini.faults["generate"].extend([Refuse(403, "PERMISSION_DENIED", "No credit.")] * 25)
    second = python(script, "transcripts", *videos, *more)
    assert second.returncode == 1
    assert "20 jobs in a row failed alike" in second.stderr
    assert "the same call with this batch= goes on" in second.stderr

    gemini.faults["generate"].clear()
    third = python(script, "transcripts", *videos, *more)
    assert (third.returncode, third.stderr) == (0, "")
    assert third.stdout.count("done") == 28
