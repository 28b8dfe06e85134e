"""A batch against a service that allows so many requests in some time."""

import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from collector import RetryLater, current_job
from collector.integrations.gemini import GeminiResult, run_gemini_media_task
from collector.process.scheduler.decisions import Entry
from collector.process.scheduler.gates import Gate, State
from tests.integrations.fake_gemini import FakeGemini, Limit
from tests.integrations.gemini_calls import TOO_MANY, answer_of, run, says, workers_with_the_sdk
from tests.integrations.gemini_script import Finish, Question, Refuse, Say, Step
from tests.support.leaks import wait_until

MODEL = "gemini-3.8-flash"
WORKERS = 8


def files(tmp_path: Path, count: int) -> list[Path]:
    made = [tmp_path / f"{number}.mp4" for number in range(count)]
    for path in made:
        path.write_bytes(path.name.encode())
    return made


@cache
def client() -> Any:
    """The client of a worker: making one takes longer than to ask."""
    from google import genai

    return genai.Client()


def ask(path: Path) -> GeminiResult:
    return run_gemini_media_task(path, prompt="What is said?", attempts=1, client=client())


class Openings:
    """What passes the gates of a process, and what is refused behind them.

    Attributes:
        begun_too_late: For each time that a gate was closed by a refusal: the refused jobs that
            were not under way by then, with the one whose refusal has closed it.
        refused: All jobs that were refused, one for each time.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun_too_late: list[list[int]] = []
        self.refused: list[int] = []
        self._at_workers: set[int] = set()
        self._under_way: set[int] = set()
        self._left = 0
        for name, hear in (
            ("passed", self._passes),
            ("left", self._leaves),
            ("close", self._is_closed),
        ):
            monkeypatch.setattr(Gate, name, self._heard(getattr(Gate, name), hear))

    @staticmethod
    def _heard(method: Callable[..., Any], hear: Callable[..., None]) -> Callable[..., Any]:
        def heard(gate: Gate, told: Any, **more: Any) -> Any:
            hear(gate, told)
            return method(gate, told, **more)

        return heard

    def _passes(self, gate: Gate, entry: Entry) -> None:
        assert gate.state is not State.CLOSED
        self._at_workers.add(entry.job_id)

    def _leaves(self, _gate: Gate, entry: Entry) -> None:
        self._at_workers.remove(entry.job_id)
        self._left = entry.job_id

    def _is_closed(self, gate: Gate, _until_s: float) -> None:
        if gate.state is not State.CLOSED:
            self.begun_too_late.append([])
            self._under_way = set(self._at_workers)
        self.refused.append(self._left)
        if self._left in self._under_way:
            self._under_way.remove(self._left)
        else:
            self.begun_too_late[-1].append(self._left)


def polite(
    gemini: FakeGemini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, limit: Limit
) -> None:
    """Run so many files with a gate, below a limit of the service."""
    openings = Openings(monkeypatch)
    gemini.limit = limit
    says(gemini, Say("a few words"), Finish())
    with workers_with_the_sdk(WORKERS) as collector:
        polite = collector.with_options(resource=MODEL, retries=2)
        for job in polite.collect(ask, files(tmp_path, count)):
            assert job.result().finish_reason == "STOP"
            assert job.output().text() == "a few words"
            assert job.attempt == 1, "a refusal has used up a retry"
    assert len(gemini.questions) == count
    assert gemini.refused == len(openings.refused), "each refusal was the gate's business"
    assert len(openings.begun_too_late) >= count // limit.most - 1, "the limit was met"
    assert max(map(len, openings.begun_too_late)) <= 1


@pytest.mark.slow
def test_a_gate_keeps_a_batch_below_the_limit_of_the_service(
    gemini: FakeGemini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polite(gemini, tmp_path, monkeypatch, 250, Limit(20, 0.2, waits=True))


@pytest.mark.slow
def test_without_a_gate_the_service_refuses_hundreds(gemini: FakeGemini, tmp_path: Path) -> None:
    gemini.limit = Limit(20, 10, waits=True)
    says(gemini, Say("a few words"), Finish())
    with workers_with_the_sdk(WORKERS) as collector:
        jobs = [collector.submit(ask, path) for path in files(tmp_path, 500)]
        assert wait_until(lambda: gemini.refused > 200, 250)
        assert sum(job.done() for job in jobs) <= len(gemini.questions) < 200
        collector.shutdown(cancel_futures=True)


@pytest.mark.timeout(1500)
@pytest.mark.campaign
def test_five_hundred_files_at_twenty_requests_in_ten_seconds(
    gemini: FakeGemini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polite(gemini, tmp_path, monkeypatch, 500, Limit(20, 10))


def test_a_job_whose_service_wants_a_pause_counts_its_tokens_once(
    gemini: FakeGemini, video: Path
) -> None:
    gemini.faults["generate"].append(Refuse(429, "RESOURCE_EXHAUSTED", "Too many.", 0.05))
    says(gemini, Say("a few words"), Finish())
    with workers_with_the_sdk() as collector:
        job = collector.with_options(resource=MODEL).submit(
            run_gemini_media_task, video, prompt="What?", attempts=1
        )
        assert job.result().usage["total_token_count"] == job.meters["tokens"]
        assert job.meters["input_tokens"] + job.meters["output_tokens"] == job.meters["tokens"]
        assert job.attempt == 1
        assert job.output().text() == "a few words"


@pytest.mark.parametrize("inline_limit", [0, 10_000])
def test_a_job_whose_service_names_no_time_is_put_off_too(
    gemini: FakeGemini, video: Path, inline_limit: int
) -> None:
    """One that has uploaded its file waits by itself."""
    gemini.faults["generate"].append(Refuse(429, "RESOURCE_EXHAUSTED", "Too many.", None))
    says(gemini, Say("a few words"), Finish())
    with workers_with_the_sdk() as collector:
        job = collector.with_options(resource=MODEL).submit(
            run_gemini_media_task, video, prompt="What?", attempts=1, inline_limit=inline_limit
        )
        assert job.exception() is None
        assert job.output().text() == "a few words"
        assert job.attempt == 1
    assert gemini.calls.count("generate") == 2


def priced(path: Path) -> GeminiResult:
    with pytest.raises(RetryLater) as raised:
        run_gemini_media_task(path, prompt="What?", attempts=1)
    current_job().write(f"{raised.value.resource} {raised.value.after:g}")
    assert raised.value.__context__ is None, "an error of the SDK has the key"
    return run_gemini_media_task(path, prompt="What?", attempts=1)


@pytest.mark.slow
def test_what_a_job_hears_is_the_model_and_the_time_and_not_the_key(
    gemini: FakeGemini, video: Path
) -> None:
    gemini.faults["generate"].append(Refuse(429, "RESOURCE_EXHAUSTED", "Too many.", 0.25))
    says(gemini, Say("!"), Finish())
    with workers_with_the_sdk() as collector:
        assert collector.submit(priced, video).output().text() == f"{MODEL} 0.25!"


def test_outside_a_job_the_task_waits_by_itself(gemini: FakeGemini, video: Path) -> None:
    gemini.faults["generate"].append(TOO_MANY)
    says(gemini, Say("a few words"), Finish())
    assert answer_of(run(video)) == b"a few words"


def test_a_task_in_a_job_that_waits_by_itself_uses_up_no_attempt(
    gemini: FakeGemini, video: Path
) -> None:
    """What was uploaded is not uploaded again."""
    refusal = Refuse(429, "RESOURCE_EXHAUSTED", "Too many.", 0.01)
    for endpoint in ("start", "poll", "generate"):
        gemini.faults[endpoint].extend([refusal] * 3)
    gemini.polls = 1
    says(gemini, Say("a few words"), Finish())
    with workers_with_the_sdk() as collector:
        job = collector.with_options(resource=MODEL).submit(
            run_gemini_media_task, video, prompt="What?", attempts=1, inline_limit=0
        )
        assert job.output().text() == "a few words"
        assert job.exception() is None
    assert gemini.calls.count("piece") == 1
    assert gemini.files == {}


def twice(path: Path) -> None:
    """Two questions in one job."""
    for _ in range(2):
        run_gemini_media_task(path, prompt="What?", attempts=1)


def test_a_job_that_has_paid_for_an_answer_is_not_run_later(
    gemini: FakeGemini, video: Path
) -> None:
    """It would pay for that one again, and be refused at the second question again."""
    answered = threading.Event()

    def script(_question: Question) -> Iterator[Step]:
        if not answered.is_set():
            gemini.faults["generate"].extend([Refuse(429, "RESOURCE_EXHAUSTED", "", 0.01)] * 2)
        answered.set()
        yield from (Say("a word"), Finish())

    gemini.script = script
    with workers_with_the_sdk() as collector:
        job = collector.with_options(resource=MODEL).submit(twice, video)
        assert job.output().text() == "a word" * 2
        assert job.exception() is None
    assert len(gemini.questions) == 2
