"""How long a service that wants a pause is left alone."""

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest
from google.genai import types

from collector import RetryLater
from collector.integrations.gemini import GeminiRequestError, GeminiStatus
from collector.integrations.gemini import requests as sent
from collector.integrations.gemini.answer import Answer, Question, ask
from collector.integrations.gemini.requests import GeminiRequests
from collector.integrations.gemini.service import GeminiService
from collector.integrations.gemini.status import StatusReporter
from collector.settings import GEMINI_REFUSALS
from tests.integrations.fake_gemini import FakeGemini
from tests.integrations.gemini_calls import answer_of, run, says
from tests.integrations.gemini_script import Finish, Refuse, Say, expected_transcript

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
    clock = SimpleNamespace(sleep=waits.append, time=lambda: 0.0, monotonic=lambda: 0.0)
    monkeypatch.setattr(sent, "time", clock)
    return waits


DELAYS: Final = ["1.2.3s", ".s", ".5s", "9" * 400 + "s", "-1s", "soon", "s"]
HEADERS: Final = ["-5", "1e400", "9" * 400, "soon", "", "8, 9", "Sun, 99 Nov"]


@pytest.mark.parametrize("fault", [*map(told, DELAYS), *map(after, HEADERS)])
def test_a_pause_that_is_no_time_is_none(
    gemini: FakeGemini, video: Path, slept: list[float], fault: Refuse
) -> None:
    gemini.faults["generate"].append(fault)
    assert answer_of(run(video)) == expected_transcript(video.read_bytes())
    assert len(slept) == 1
    assert slept[0] < 1


@pytest.mark.parametrize(
    ("refusal", "pause_s"),
    [
        (after("8"), 8),
        (after("8.25"), 8.25),
        (after(NINE_PAST), 540),
        (after("Sunday, 06-Nov-94 12:09:00 GMT"), 540),
        (after("Sun Nov  6 12:09:00 1994"), 540),
        (after(NINE_PAST, date="soon"), 784123740),
        (told("0.5s"), 0.5),
        (told("90s"), 90),
        (told("3600s"), 3600),
    ],
    ids=repr,
)
def test_a_pause_that_the_service_tells_is_kept(
    gemini: FakeGemini,
    video: Path,
    slept: list[float],
    monkeypatch: pytest.MonkeyPatch,
    refusal: Refuse,
    pause_s: float,
) -> None:
    monkeypatch.setattr(sent, "GEMINI_PAUSE_LONGEST_S", max(3600, pause_s))
    gemini.faults["generate"].append(refusal)
    assert answer_of(run(video)) == expected_transcript(video.read_bytes())
    assert slept == [pause_s]


def test_a_pause_is_told(gemini: FakeGemini, video: Path, slept: list[float]) -> None:
    gemini.faults["generate"].extend([told("0.125s"), Refuse(503, retry_s=1, retry_header=True)])
    statuses: list[GeminiStatus] = []
    answer_of(run(video, on_status=statuses.append))
    waits = [status.message.split(" in ")[1] for status in statuses if "attempt" in status.message]
    assert waits == ["0.1 s", "1.0 s"]
    assert slept == [0.125, 1]


@pytest.mark.parametrize("refusal", [after("0"), after("0.0"), told("0s"), after(NOON, NINE_PAST)])
def test_a_pause_of_no_length_grows_with_each_refusal(
    gemini: FakeGemini,
    video: Path,
    slept: list[float],
    monkeypatch: pytest.MonkeyPatch,
    refusal: Refuse,
) -> None:
    monkeypatch.setattr(sent, "GEMINI_RETRY_S", 1.0)
    gemini.faults["generate"].extend([refusal] * 3)
    assert answer_of(run(video, attempts=4)) == expected_transcript(video.read_bytes())
    first, second, third = slept
    assert 1 <= first < 2 <= second < 4 <= third


def test_a_task_that_is_to_wait_too_long_fails_and_asks_no_sooner(
    gemini: FakeGemini, video: Path, slept: list[float]
) -> None:
    gemini.faults["generate"].append(after("3601"))
    with pytest.raises(GeminiRequestError, match="asked again in 3601 s") as caught:
        run(video)
    assert caught.value.code == 429
    assert gemini.calls == ["generate"]
    assert slept == []


def test_a_look_at_a_file_is_not_put_off_beyond_the_time_that_its_processing_may_take(
    gemini: FakeGemini, video: Path, slept: list[float]
) -> None:
    gemini.polls = 1
    gemini.faults["poll"].append(after("61"))
    with pytest.raises(GeminiRequestError, match="asked again in 61 s"):
        run(video, inline_limit=0, processing_timeout=60)
    assert slept == []
    assert gemini.files == {}


def of_a_quota(limit: str) -> Refuse:
    """A refusal as a project without billing gets it, with a RetryInfo in any case."""
    metric = "generativelanguage.googleapis.com/generate_content_free_tier_requests"
    message = f"You exceeded your quota.\n* Quota exceeded for metric: {metric}, limit: {limit}"
    message += ", model: gemini-3-pro\nPlease retry in 33.52s."
    return Refuse(429, "RESOURCE_EXHAUSTED", message, 33.5)


def test_a_quota_of_nothing_is_not_waited_for(
    gemini: FakeGemini, video: Path, slept: list[float]
) -> None:
    gemini.faults["generate"].append(of_a_quota("0"))
    with pytest.raises(GeminiRequestError, match=r"limit: 0, model: gemini-3-pro$") as caught:
        run(video)  # without the time, for equal failures in a row are told by their texts
    assert caught.value.code == 429
    assert gemini.calls == ["generate"]
    assert slept == []


@pytest.mark.parametrize("limit", ["5", "1000000"])
def test_a_quota_that_is_used_up_is_waited_for(
    gemini: FakeGemini, video: Path, slept: list[float], limit: str
) -> None:
    gemini.faults["generate"].append(of_a_quota(limit))
    assert answer_of(run(video)) == expected_transcript(video.read_bytes())
    assert slept == [33.5]


# -- in a job, where all wait together -------------------------------------------------------------


@pytest.fixture
def requests(gemini: FakeGemini, monkeypatch: pytest.MonkeyPatch) -> Iterator[GeminiRequests]:
    """The requests of a task whose model has a gate."""
    monkeypatch.setattr(sent, "GEMINI_RETRY_S", 1.0)
    made = GeminiRequests(None, file_path="talk.mp4", attempts=1, on_retry=lambda _: None)
    made.resource = "a model"
    yield made
    made.answered()
    made.close()


def refusal(value: str, message: str = "Too many.") -> Exception:
    """A refusal as the SDK tells it."""
    response = SimpleNamespace(headers={"retry-after": value})
    error = ConnectionError(message)
    told = {"error": {"code": 429, "message": message}}
    vars(error).update(code=429, status="RESOURCE_EXHAUSTED", response=response, details=told)
    return error


def put_off(requests: GeminiRequests, value: str) -> float:
    """Refuse a request of the task; returns for how long its job is put off."""
    with pytest.raises(RetryLater) as caught:
        requests.pause_or_raise("the request", refusal(value), 1)
    assert caught.value.resource == "a model"
    return caught.value.after


def test_a_gate_is_closed_for_an_hour_at_most(requests: GeminiRequests) -> None:
    assert put_off(requests, "99999999999") == 3600
    assert put_off(requests, "7.5") == 7.5


def test_a_gate_is_closed_for_longer_with_each_refusal_in_a_row(requests: GeminiRequests) -> None:
    first, second = put_off(requests, "0"), put_off(requests, "0")
    assert 1 <= first < 2 <= second
    assert put_off(requests, "0") <= 60
    requests.answered()
    assert put_off(requests, "0") < 2


def test_a_gate_is_closed_for_longer_with_each_refusal_that_names_no_time(
    requests: GeminiRequests,
) -> None:
    """So does Vertex AI refuse that is busy."""
    first, second = put_off(requests, ""), put_off(requests, "")
    assert 1 <= first < 2 <= second
    requests.answered()
    assert put_off(requests, "") < 2


def test_a_service_that_names_no_time_is_asked_so_often_and_no_more(
    requests: GeminiRequests,
) -> None:
    """An account that is empty may be refused like this, and its jobs are to fail in the end."""
    for _ in range(GEMINI_REFUSALS):
        assert put_off(requests, "") <= 60
    with pytest.raises(GeminiRequestError, match="Too many") as caught:
        requests.pause_or_raise("the request", refusal(""), 1)
    assert caught.value.code == 429
    assert put_off(requests, "7") == 7
    requests.answered()
    assert put_off(requests, "") < 2


def test_no_gate_is_closed_for_a_quota_of_nothing(requests: GeminiRequests) -> None:
    """It would be tried again for ever, and none of its jobs would fail."""
    with pytest.raises(GeminiRequestError, match="limit: 0"):
        requests.pause_or_raise("the request", refusal("33", "limit: 0, model: gemini"), 1)


def test_refusals_in_a_row_end_with_an_answer(requests: GeminiRequests, gemini: FakeGemini) -> None:
    put_off(requests, "0")
    says(gemini, Say("a few words"), Finish())
    media = types.Part.from_bytes(data=b"moving pictures", mime_type="video/mp4")
    question = Question("gemini-3.8-flash", [media], types.GenerateContentConfig(), streaming=True)
    service = GeminiService(requests, delete_remote=False)
    ask(service, question, Answer(io.BytesIO(), StatusReporter(None), dict))
    assert put_off(requests, "0") < 2
