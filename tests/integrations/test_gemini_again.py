"""Requests to Gemini that fail and are sent again, and answers that are not whole."""

import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from collector import SpillManager
from collector.integrations.gemini import (
    GeminiBlockedError,
    GeminiEmptyAnswerError,
    GeminiError,
    GeminiRequestError,
    GeminiSafetyError,
    GeminiStatus,
    GeminiStreamBrokenError,
    GeminiTruncatedError,
    run_gemini_media_task,
)
from tests.integrations.fake_gemini import FakeGemini
from tests.integrations.gemini_calls import OVERLOADED, TOO_MANY, answer_of, run, says, stages
from tests.integrations.gemini_script import (
    Block,
    Cut,
    Drop,
    Finish,
    Raw,
    Say,
    Stall,
    Step,
    expected_transcript,
)

INTERNAL = b'{"error": {"code": 500, "message": "An internal error.", "status": "INTERNAL"}}'


# -- requests that fail and are sent again ---------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["start", "poll", "generate"])
def test_503_then_429_then_success(gemini: FakeGemini, video: Path, endpoint: str) -> None:
    gemini.polls = 1
    gemini.faults[endpoint].extend([OVERLOADED, TOO_MANY])
    statuses: list[GeminiStatus] = []
    result = run(video, inline_limit=0, on_status=statuses.append)
    assert answer_of(result) == expected_transcript(video.read_bytes())
    assert gemini.calls.count(endpoint) == 3
    assert gemini.files == {}
    messages = [status.message for status in statuses if "attempt" in status.message]
    assert ["503 UNAVAILABLE" in message for message in messages] == [True, False]
    assert "attempt 3 of 3 in 0.0 s" in messages[1]


@pytest.mark.parametrize("fault", [Drop(), Drop(reset=True)], ids=["end of file", "reset"])
@pytest.mark.parametrize(
    "endpoint", ["start", pytest.param("piece", marks=pytest.mark.slow), "poll", "generate"]
)
def test_a_connection_lost_before_the_answer_is_made_again(
    gemini: FakeGemini, video: Path, endpoint: str, fault: Drop
) -> None:
    gemini.polls = 1
    gemini.faults[endpoint].append(fault)
    result = run(video, inline_limit=0)
    assert answer_of(result) == expected_transcript(video.read_bytes())
    assert gemini.calls.count(endpoint) >= 2
    assert gemini.files == {}


def test_an_upload_whose_last_word_is_lost_leaves_no_remote_file(
    gemini: FakeGemini, video: Path
) -> None:
    gemini.faults["piece"].append(Drop(after_doing=True))
    result = run(video, inline_limit=0)
    assert answer_of(result) == expected_transcript(video.read_bytes())
    assert len(gemini.deleted) == 2
    assert gemini.files == {}


def test_a_file_that_comes_to_be_after_its_deletion_is_deleted_once_more(
    gemini: FakeGemini, video: Path
) -> None:
    gemini.late = True
    gemini.faults["piece"].append(Drop())
    result = run(video, inline_limit=0)
    assert answer_of(result) == expected_transcript(video.read_bytes())
    assert gemini.calls.count("delete") == 3
    assert len(gemini.deleted) == 2
    assert gemini.files == {}


def test_a_stream_cut_before_its_first_byte_is_asked_for_again(
    gemini: FakeGemini, video: Path
) -> None:
    answers: list[list[Step]] = [[Cut()], [], [Say("whole"), Finish()]]
    gemini.script = lambda _question: answers.pop(0)
    assert answer_of(run(video)) == b"whole"
    assert gemini.calls == ["generate"] * 3


@pytest.mark.parametrize(("streaming", "attempts"), [(True, 1), (False, 3)])
def test_a_service_that_says_nothing_is_given_up(
    gemini: FakeGemini,
    video: Path,
    monkeypatch: pytest.MonkeyPatch,
    streaming: bool,
    attempts: int,
) -> None:
    monkeypatch.setattr("collector.integrations.gemini.requests.GEMINI_SILENCE_S", 0.2)
    stall = Stall(threading.Event())
    gemini.faults["generate"].append(stall)
    with pytest.raises(GeminiRequestError, match="ReadTimeout"):
        run(video, attempts=attempts, use_streaming=streaming)
    stall.until.set()
    assert gemini.calls == ["generate"]  # without streaming it is silent while it answers


def test_after_the_last_attempt_the_error_says_what_the_service_said(
    gemini: FakeGemini, video: Path
) -> None:
    gemini.faults["generate"].extend([OVERLOADED] * 3)
    statuses: list[GeminiStatus] = []
    with pytest.raises(GeminiRequestError, match="failed 3 times: 503 UNAVAILABLE") as caught:
        run(video, on_status=statuses.append)
    assert isinstance(caught.value, ConnectionError)
    assert caught.value.code == 503
    assert caught.value.reason == "503 UNAVAILABLE"
    assert caught.value.file_path == str(video)
    assert stages(statuses) == ["reading", "generating", "failed"]


def test_what_will_not_get_better_is_asked_for_once(gemini: FakeGemini, video: Path) -> None:
    with pytest.raises(GeminiRequestError, match="404 NOT_FOUND") as caught:
        run(video, model="some-other")
    assert caught.value.code == 404
    assert gemini.calls == ["generate"]


def test_attempts_must_be_at_least_one(video: Path) -> None:
    with pytest.raises(ValueError, match="attempts"):
        run(video, attempts=0)


@pytest.mark.parametrize("prompt", [None, b"What?", ["What?"]])
def test_what_is_no_prompt_is_refused_before_anything_is_paid_for(
    gemini: FakeGemini, video: Path, prompt: Any
) -> None:
    """As from a variable that is not set: the model would be asked nothing about each file."""
    with pytest.raises(TypeError, match="prompt must be a str"):
        run_gemini_media_task(video, prompt=prompt)
    assert gemini.calls == []


# -- answers that are not whole --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "expected", "text"),
    [
        ([Say("some text"), Cut()], GeminiStreamBrokenError, "broke off"),
        ([Say("some text"), Cut(reset=True)], GeminiStreamBrokenError, "broke off"),
        ([Say("some text"), Raw(INTERNAL)], GeminiStreamBrokenError, "500 INTERNAL"),
        ([Say("some text"), Raw(b'{"error": {}}')], GeminiStreamBrokenError, "broke off"),
        ([Say("some text"), Raw(b"{nonsense}")], GeminiStreamBrokenError, "broke off"),
        ([Say("some text"), Say("\ud83d")], GeminiStreamBrokenError, "surrogates"),
        ([Say("some text")], GeminiTruncatedError, "without a finish reason"),
        ([Say("some text"), Finish("MAX_TOKENS")], GeminiTruncatedError, "max_output_tokens"),
        ([Say("some text"), Finish("OTHER")], GeminiTruncatedError, "OTHER"),
        ([Say("some text"), Finish("SAFETY")], GeminiSafetyError, "SAFETY"),
        ([Say("some text"), Finish("RECITATION")], GeminiSafetyError, "RECITATION"),
        ([Say("some text"), Block()], GeminiBlockedError, "PROHIBITED_CONTENT"),
    ],
    ids=str,
)
def test_what_had_come_of_an_answer_that_is_not_whole_is_kept(
    gemini: FakeGemini, video: Path, steps: list[Step], expected: type[GeminiError], text: str
) -> None:
    says(gemini, *steps)
    with pytest.raises(expected, match=text) as caught:
        run(video, inline_limit=0)
    error = caught.value
    assert error.output is not None
    with error.output as output:
        assert output.read() == b"some text"
        assert not output.complete
    assert gemini.calls.count("generate") == 1  # never two answers in one
    assert gemini.files == {}
    assert error.__cause__ is None
    assert error.__context__ is None
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.args) == (type(error), str(error), error.args)
    assert (copy.reason, copy.file_path) == (error.reason, str(video))


@pytest.mark.parametrize(
    ("steps", "stage"),
    [
        ([Say("some text"), Cut()], "truncated"),
        ([Say("some text")], "truncated"),
        ([Say("some text"), Finish("SAFETY")], "failed"),
        ([Block()], "failed"),
    ],
    ids=str,
)
def test_the_last_status_tells_how_it_ended(
    gemini: FakeGemini, video: Path, steps: list[Step], stage: str
) -> None:
    says(gemini, *steps)
    statuses: list[GeminiStatus] = []
    with pytest.raises(GeminiError) as caught:
        run(video, on_status=statuses.append)
    assert statuses[-1].stage == stage
    assert statuses[-1].message == str(caught.value)
    assert statuses[-1].bytes_done == (0 if isinstance(steps[0], Block) else len("some text"))
    assert caught.value.output is not None
    caught.value.output.close()


def test_an_answer_that_has_ended_is_whole_even_if_the_connection_breaks_then(
    gemini: FakeGemini, video: Path
) -> None:
    says(gemini, Say("all of it"), Finish(), Cut())
    assert answer_of(run(video)) == b"all of it"


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([Block("BLOCKLIST")], GeminiBlockedError),
        ([Finish("SAFETY")], GeminiSafetyError),
        ([Finish()], GeminiEmptyAnswerError),
        ([Say("only a thought", thought=True), Finish()], GeminiEmptyAnswerError),
    ],
    ids=str,
)
def test_no_answer_at_all_is_an_error_of_its_own(
    gemini: FakeGemini,
    video: Path,
    steps: list[Step],
    expected: type[GeminiError],
    streaming: bool,
) -> None:
    says(gemini, *steps)
    with pytest.raises(expected) as caught:
        run(video, use_streaming=streaming)
    assert isinstance(caught.value, ValueError)
    assert str(video) in str(caught.value)
    assert gemini.calls == ["generate"]


def test_a_manager_of_the_caller_s_keeps_what_came(gemini: FakeGemini, video: Path) -> None:
    says(gemini, Say("some text"), Cut())
    with SpillManager() as manager:
        with pytest.raises(GeminiStreamBrokenError) as caught:
            run(video, manager=manager)
        assert caught.value.output is None
        with manager.finalize() as output:
            assert output.read() == b"some text"
