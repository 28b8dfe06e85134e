"""How long a service that wants a pause is left alone."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from collector.integrations.gemini import requests as sent
from tests.integrations.fake_gemini import FakeGemini
from tests.integrations.gemini_calls import answer_of, run
from tests.integrations.gemini_script import Refuse, expected_transcript

NOON = "Sun, 06 Nov 1994 12:00:00 GMT"
NINE_PAST = "Sun, 06 Nov 1994 12:09:00 GMT"


def told(delay: str) -> Refuse:
    """A refusal with RetryInfo."""
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    return Refuse(429, "RESOURCE_EXHAUSTED", "Too many.", None, details=(info,))


def after(value: str, date: str = NOON) -> Refuse:
    """A refusal with Retry-After."""
    headers = (("Retry-After", value), ("Date", date))
    return Refuse(429, "RESOURCE_EXHAUSTED", "Too many.", None, headers=headers)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the task has waited between requests; it does not really."""
    waits: list[float] = []
    monkeypatch.setattr(sent, "time", SimpleNamespace(sleep=waits.append, time=lambda: 0.0))
    return waits


@pytest.mark.parametrize("delay", ["1.2.3s", ".s", ".5s", "9" * 400 + "s", "-1s", "soon", "s"])
def test_a_pause_that_is_no_number_is_none(
    gemini: FakeGemini, video: Path, slept: list[float], delay: str
) -> None:
    gemini.faults["generate"].append(told(delay))
    assert answer_of(run(video)) == expected_transcript(video.read_bytes())
    assert len(slept) == 1
    assert slept[0] < 1
