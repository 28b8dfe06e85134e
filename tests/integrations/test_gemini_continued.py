"""An answer of several parts: the service tells a token, with which the next request goes on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.integrations.gemini import GeminiStreamBrokenError, GeminiTruncatedError
from tests.integrations.fake_gemini import FakeGemini
from tests.integrations.gemini_calls import OVERLOADED, TOO_MANY, answer_of, run, says
from tests.integrations.gemini_script import Cut, Drop, Fault, Finish, Question, Refuse, Say, Step

TOKEN = "AAAA"


def in_two_parts(gemini: FakeGemini, *faults: Fault) -> None:
    """Have a service give its answer in two requests, of which the second one fails so at first."""

    def script(question: Question) -> Iterator[Step]:
        if question.token:
            yield from (Say("two"), Finish())
        else:
            yield from (Say("one "), Finish("CONTINUATION", token=TOKEN))
            gemini.faults["generate"].extend(faults)

    gemini.script = script


@pytest.mark.parametrize("streaming", [True, False])
def test_the_next_request_goes_on_and_nothing_is_asked_for_twice(
    gemini: FakeGemini, video: Path, streaming: bool
) -> None:
    in_two_parts(gemini, OVERLOADED, TOO_MANY)
    result = run(video, use_streaming=streaming)
    assert answer_of(result) == b"one two"
    assert [question.token for question in gemini.questions] == ["", TOKEN]
    assert len(gemini.calls) == 4
    assert result.usage["prompt_token_count"] == 14


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("fault", [Refuse(400), OVERLOADED, Drop()], ids=["400", "503", "dropped"])
def test_what_had_come_is_kept_if_the_next_request_fails(
    gemini: FakeGemini, video: Path, fault: Fault, streaming: bool
) -> None:
    in_two_parts(gemini, fault)
    with pytest.raises(GeminiStreamBrokenError, match="4 bytes of the answer were kept") as caught:
        run(video, use_streaming=streaming, attempts=1)
    assert caught.value.output is not None
    assert caught.value.output.read() == b"one "
    caught.value.output.close()
    assert len(gemini.calls) == 2


def test_text_behind_a_token_does_not_come_twice(gemini: FakeGemini, video: Path) -> None:
    says(gemini, Say("one ", token=TOKEN), Say("two "), Cut())
    with pytest.raises(GeminiStreamBrokenError) as caught:
        run(video)
    assert caught.value.output is not None
    assert caught.value.output.read() == b"one two "
    caught.value.output.close()
    assert gemini.calls == ["generate"]


def test_an_answer_that_never_ends_is_not_asked_for_without_end(
    gemini: FakeGemini, video: Path
) -> None:
    says(gemini, Say("on "), Finish("CONTINUATION", token=TOKEN))
    with pytest.raises(GeminiTruncatedError, match="CONTINUATION") as caught:
        run(video)
    assert caught.value.output is not None
    caught.value.output.close()
    assert len(gemini.questions) == 2
