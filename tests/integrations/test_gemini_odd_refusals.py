"""Answers that the service itself does not give: redirects, bodies that nobody can read."""

import gzip
from pathlib import Path

import pytest

from collector.integrations.gemini import GeminiRequestError
from tests.integrations.fake_gemini import FakeGemini
from tests.integrations.gemini_calls import answer_of, run
from tests.integrations.gemini_script import Refuse, expected_transcript

DEEP = b"[" * 200_000
UNREADABLE = {
    "no text": Refuse(503, body=b"\xff\xfe\x00"),
    "no gzip": Refuse(503, body=b"no gzip", headers=(("Content-Encoding", "gzip"),)),
    "an end too soon": Refuse(
        503, body=gzip.compress(b"{}" * 99)[:-9], headers=(("Content-Encoding", "gzip"),)
    ),
    "too deep": Refuse(503, body=DEEP),
    "a number too long": Refuse(503, body=b"9" * 5000),
    "another charset": Refuse(
        503, body=b"\xff", headers=(("Content-Type", "text/html; charset=nonsense"),)
    ),
    "a list": Refuse(503, body=b"[1, 2]"),
    "a word": Refuse(503, body=b'"busy"'),
    "an error that is a word": Refuse(503, body=b'{"error": "busy"}'),
    "nothing": Refuse(503, body=b""),
}


@pytest.mark.parametrize("endpoint", ["start", "generate"])
@pytest.mark.parametrize("refusal", UNREADABLE.values(), ids=list(UNREADABLE))
def test_a_refusal_that_cannot_be_read_is_judged_by_its_status(
    gemini: FakeGemini, video: Path, refusal: Refuse, endpoint: str
) -> None:
    gemini.faults[endpoint].append(refusal)
    assert answer_of(run(video, inline_limit=0)) == expected_transcript(video.read_bytes())
    assert gemini.calls.count(endpoint) == 2


def test_such_a_refusal_is_told_with_its_status(gemini: FakeGemini, video: Path) -> None:
    gemini.faults["generate"].append(Refuse(400, body=b"\xff\xfe\x00"))
    with pytest.raises(GeminiRequestError, match=r"400 .*: its body cannot be read") as caught:
        run(video)
    assert caught.value.code == 400
    assert gemini.calls == ["generate"]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("endpoint", ["start", "generate"])
def test_a_redirect_is_not_followed_to_another_host(
    gemini: FakeGemini, video: Path, code: int, endpoint: str
) -> None:
    with FakeGemini() as other:
        headers = (("Location", f"{other.base_url}/v1beta/models"),)
        gemini.faults[endpoint].append(Refuse(code, "", "Moved.", headers=headers, retry_s=None))
        with pytest.raises(GeminiRequestError, match=f"{code}.*Moved") as caught:
            run(video, inline_limit=0)
        assert caught.value.code == code
        assert other.calls == other.violations == []
    assert gemini.calls.count(endpoint) == 1
