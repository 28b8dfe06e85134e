"""What the service has counted is counted in the job, whatever it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from collector import ClosedError, SpillManager
from collector.integrations.gemini import GeminiStreamBrokenError, run_gemini_media_task
from tests.integrations.fake_gemini import FakeGemini
from tests.integrations.gemini_calls import answer_of, run, says, workers_with_the_sdk
from tests.integrations.gemini_script import Cut, Raw, Say, Step, expected_transcript


def spent(read: Any, total: Any, text: str = "", reason: str = "STOP") -> Raw:
    """An event that tells how many tokens were read, and how many there were in all."""
    candidate = {"content": {"parts": [{"text": text, "thought": not text}]}}
    if text and reason:
        candidate["finishReason"] = reason  # type: ignore[assignment]
    usage = {"promptTokenCount": read, "totalTokenCount": total}
    return Raw(json.dumps({"candidates": [candidate], "usageMetadata": usage}).encode())


def test_tokens_of_each_attempt_within_a_task_are_counted(gemini: FakeGemini, video: Path) -> None:
    answers: list[list[Step]] = [
        [spent(1000, 1500), spent(1000, 6000), Cut()],
        [spent(1000, 1000)],
        [spent(1000, 1001, "x")],
    ]
    gemini.script = lambda _question: answers.pop(0)
    with workers_with_the_sdk() as collector:
        job = collector.submit(run_gemini_media_task, video, prompt="What?")
        assert job.result().usage["total_token_count"] == 1001
        assert job.meters == {"tokens": 8001, "input_tokens": 3000, "output_tokens": 5001}
    assert answers == []


def test_tokens_of_an_answer_that_broke_off_are_counted(gemini: FakeGemini, video: Path) -> None:
    says(gemini, spent(7, 9, "text", ""), Cut())
    with workers_with_the_sdk() as collector:
        job = collector.submit(run_gemini_media_task, video, prompt="What?")
        assert isinstance(job.exception(), GeminiStreamBrokenError)
        assert job.meters["tokens"] == 9


@pytest.mark.parametrize(
    ("read", "total"),
    [(7, 10**400), (10**400, 7), (-5, -9), (7, -(10**400)), (None, 9)],
    ids=["many", "many read", "negative", "very negative", "none read"],
)
def test_a_count_of_a_strange_size_hurts_no_answer(
    gemini: FakeGemini, video: Path, read: int | None, total: int
) -> None:
    says(gemini, Say("a paid "), spent(read, total, "answer"))
    assert answer_of(run(video)) == b"a paid answer"
    with workers_with_the_sdk() as collector:
        job = collector.submit(run_gemini_media_task, video, prompt="What?")
        assert job.result().finish_reason == "STOP"
        assert job.output().text() == "a paid answer"
        assert all(0 <= count <= 1e100 for count in job.meters.values())


@pytest.mark.parametrize(
    ("usages", "tokens", "read"),
    [
        ([{"totalTokenCount": 9, "promptTokenCount": 7}, {}], 9, 7),
        ([{"totalTokenCount": 9, "promptTokenCount": 7}, {"trafficType": "ON_DEMAND"}], 9, 7),
        ([{"promptTokenCount": 7, "candidatesTokenCount": 2, "thoughtsTokenCount": 4}], 13, 7),
        ([{"totalTokenCount": 9, "promptTokenCount": 4, "toolUsePromptTokenCount": 3}], 9, 7),
        ([{"totalTokenCount": 99}, {"totalTokenCount": 9, "promptTokenCount": 7}], 9, 7),
    ],
    ids=["nothing", "another thing", "no total", "results of tools", "a smaller total"],
)
def test_what_the_last_event_does_not_tell_is_known_from_those_before(
    gemini: FakeGemini, video: Path, usages: list[Any], tokens: int, read: int
) -> None:
    candidate = {"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}
    events = [{"candidates": [candidate], "usageMetadata": usage} for usage in usages]
    says(gemini, *(Raw(json.dumps(event).encode()) for event in events))
    with workers_with_the_sdk() as collector:
        job = collector.submit(run_gemini_media_task, video, prompt="What?")
        assert job.result().finish_reason == "STOP"
    assert (job.meters["tokens"], job.meters["input_tokens"]) == (tokens, read)
    assert job.meters["output_tokens"] == tokens - read


def test_a_job_that_is_over_counts_nothing_and_costs_no_answer(
    gemini: FakeGemini, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Over:
        def count(self, **_meters: float) -> None:  # as in a process that the job has forked
            refused.append(True)
            raise ClosedError("the job is over")

    refused: list[bool] = []
    job = Over()
    monkeypatch.setattr("collector.integrations.gemini.task.current_job", lambda: job)
    with SpillManager() as manager:
        assert answer_of(run(video, manager=manager)) == expected_transcript(video.read_bytes())
    assert refused
