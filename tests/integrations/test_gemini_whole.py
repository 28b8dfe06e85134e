"""What passes for a whole answer: never a half of one, and never two."""

import json
from pathlib import Path

import pytest

from collector.integrations.gemini import (
    GeminiError,
    GeminiStreamBrokenError,
    GeminiTruncatedError,
)
from tests.integrations.fake_gemini import FakeGemini
from tests.integrations.gemini_calls import answer_of, run, says
from tests.integrations.gemini_script import Cut, Finish, Raw, Say, Step

SPENT = json.dumps({"usageMetadata": {"totalTokenCount": 9}}).encode()


def both(*steps: Say) -> Raw:
    """One event with a candidate for each step, in this order."""
    candidates = [
        {
            "index": step.index,
            "content": {"parts": [{"text": step.text}]},
            "finishReason": step.reason,
        }
        for step in steps
    ]
    return Raw(json.dumps({"candidates": candidates}).encode())


@pytest.mark.parametrize(
    ("steps", "expected", "kept"),
    [
        ([Say("one ", reason="STOP"), Say("two ")], GeminiTruncatedError, b"one two "),
        ([Say("one ", reason="SAFETY"), Say("two ")], GeminiTruncatedError, b"one two "),
        ([Say("one ", reason="STOP"), Say("two "), Cut()], GeminiStreamBrokenError, b"one two "),
        (
            [Say("one ", reason="STOP"), Say("two ", reason="STOP"), Cut()],
            GeminiStreamBrokenError,
            b"one two ",
        ),
        (
            [Say("one ", reason="STOP"), Say("\ud83d", reason="STOP")],
            GeminiStreamBrokenError,
            b"one ",
        ),
        ([Say("one "), Finish(index=1)], GeminiTruncatedError, b"one "),
    ],
    ids=str,
)
def test_an_answer_that_goes_on_after_its_end_is_not_whole(
    gemini: FakeGemini, video: Path, steps: list[Step], expected: type[GeminiError], kept: bytes
) -> None:
    says(gemini, *steps)
    with pytest.raises(expected) as caught:
        run(video)
    assert caught.value.output is not None
    with caught.value.output as output:
        assert output.read() == kept


@pytest.mark.parametrize(
    "steps",
    [
        [Say("one ", reason="STOP"), Say("two", reason="STOP")],
        [Say("one ", reason="STOP"), Say("two"), Finish()],
        [Say("one "), Say("two", reason="STOP"), Raw(SPENT), Cut()],
        [Say("one "), Say("A dog ran.", index=1), Say("two"), Finish(index=1), Finish()],
        [both(Say("A dog ran.", reason="STOP", index=1), Say("one two", reason="STOP"))],
    ],
    ids=str,
)
def test_an_answer_that_ends_once_is_whole(
    gemini: FakeGemini, video: Path, steps: list[Step]
) -> None:
    says(gemini, *steps)
    assert answer_of(run(video)) == b"one two"
