"""The key of a media task is told nowhere."""

import logging
import pickle
import socket
import traceback
from pathlib import Path
from typing import Any

import pytest

from collector.integrations.gemini import (
    GeminiError,
    GeminiKeyError,
    GeminiRequestError,
    GeminiStatus,
)
from tests.integrations.fake_gemini import KEY, FakeGemini
from tests.integrations.gemini_calls import answer_of, run, says
from tests.integrations.gemini_script import (
    Cut,
    Drop,
    Finish,
    Raw,
    Refuse,
    Say,
    Step,
    expected_transcript,
)
from tests.support.leaks import wait_until


def everything_told(caplog: pytest.LogCaptureFixture, video: Path, **options: Any) -> str:
    """Run a task at the chattiest level; all that it says, however it ends."""
    caplog.set_level(logging.DEBUG)
    told: list[object] = []
    try:
        told.append(run(video, on_status=told.append, **options))
    except GeminiError as error:
        told += [repr(error), pickle.dumps(error), vars(error)]
        report = traceback.TracebackException.from_exception(error, capture_locals=True)
        told += report.format()  # with the variables, as error trackers and `pytest -l` show them
    told += [vars(record) for record in caplog.records]
    return f"{told}\n{caplog.text}"


def assert_not_told(told: str, key: str = KEY) -> None:
    assert "GeminiStatus" in told  # otherwise nothing was looked at
    assert "httpcore" in told
    for part in (key, key[:12], key[-12:]):
        assert part not in told


def test_a_missing_key(gemini: FakeGemini, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMINI_API_KEY")
    with pytest.raises(GeminiKeyError, match="set GEMINI_API_KEY"):
        run(video)
    assert gemini.calls == []


def test_an_error_that_nobody_foresaw_shows_no_key_among_its_variables(
    gemini: FakeGemini, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(failure: Exception) -> None:
        try:
            vars(failure)[KEY]
        except KeyError as error:
            raise ZeroDivisionError from ValueError(len(error.args))

    monkeypatch.setattr("collector.integrations.gemini.requests.wished_pause_s", fail)
    gemini.faults["generate"].append(Refuse(503, "STATUS", **QUOTED))  # type: ignore[arg-type]
    callers_own = LookupError("of the caller's own")

    def run_while_another_is_handled() -> None:
        try:
            raise callers_own
        except LookupError:
            run(video)

    with pytest.raises(ZeroDivisionError) as caught:
        run_while_another_is_handled()
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert KEY not in "".join(report.format())
    assert callers_own.__traceback__ is not None


def test_a_key_that_the_service_refuses(
    gemini: FakeGemini, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "another")
    with pytest.raises(GeminiKeyError, match="API key not valid") as caught:
        run(video)
    assert isinstance(caught.value, PermissionError)
    assert gemini.calls == ["generate"]


QUOTED = {
    "message": f"Consumer 'api_key:{KEY}' has been suspended.",
    "details": (
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "CONSUMER_SUSPENDED",
            "metadata": {"consumer": f"api_key:{KEY}"},
        },
    ),
}


@pytest.mark.parametrize(
    ("endpoint", "code"),
    [
        pytest.param(
            endpoint,
            code,
            marks=pytest.mark.campaign if (turn + number) % 2 else pytest.mark.slow,
        )
        for turn, endpoint in enumerate(("start", "piece", "poll", "generate", "delete"))
        for number, code in enumerate((400, 401, 403, 404, 429, 500, 503))
    ],
)
def test_the_key_is_told_nowhere_when_the_service_quotes_it(
    gemini: FakeGemini, video: Path, caplog: pytest.LogCaptureFixture, endpoint: str, code: int
) -> None:
    gemini.polls = 1
    gemini.faults[endpoint].extend([Refuse(code, "STATUS", **QUOTED)] * 9)  # type: ignore[arg-type]
    told = everything_told(caplog, video, inline_limit=0, attempts=2)
    assert gemini.calls.count(endpoint) >= 1
    gemini.faults.clear()
    assert_not_told(told)
    # A deletion that is refused so is none that is tried again: there is no such file.
    assert wait_until(lambda: code in {403, 404} or not gemini.files)


def test_no_half_of_the_key_is_told_where_a_long_message_is_cut(
    gemini: FakeGemini, video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for length in range(440, 510, 10):
        refusal = Refuse(400, "STATUS", "x" * length + KEY, retry_s=None)
        gemini.faults["generate"].append(refusal)
        assert_not_told(everything_told(caplog, video))


@pytest.mark.parametrize(
    "steps",
    [
        [Say("text"), Finish()],
        [Say("text"), Cut()],
        [Say("text"), Cut(reset=True)],
        [Say("text")],
        [Cut()],
        [Say("text"), Raw(b'{"error": {"code": 500, "message": "for %b"}}' % KEY.encode())],
        [Raw(b'{"error": {"code": 500, "message": "for %b"}}' % KEY.encode())],
        [Raw(b"nonsense for %b" % KEY.encode())],
        [Say("text"), Finish("SAFETY", f"refused to {KEY}")],
        [
            Raw(
                b'{"promptFeedback": {"blockReason": "OTHER", "blockReasonMessage": "%b"}}'
                % KEY.encode()
            )
        ],
    ],
    ids=lambda steps: str(steps).replace(KEY, "key"),
)
def test_the_key_is_told_nowhere_however_the_answer_ends(
    gemini: FakeGemini, video: Path, caplog: pytest.LogCaptureFixture, steps: list[Step]
) -> None:
    says(gemini, *steps)
    assert_not_told(everything_told(caplog, video, attempts=2))


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Drop(), Drop(reset=True)], ids=str)
@pytest.mark.parametrize("endpoint", ["start", "piece", "poll", "generate", "delete"])
def test_the_key_is_told_nowhere_when_the_connection_is_lost(
    gemini: FakeGemini, video: Path, caplog: pytest.LogCaptureFixture, endpoint: str, fault: Drop
) -> None:
    gemini.polls = 1
    gemini.faults[endpoint].extend([fault] * 9)
    told = everything_told(caplog, video, inline_limit=0, attempts=2)
    gemini.faults.clear()
    assert_not_told(told)
    assert wait_until(lambda: not gemini.files)


def test_the_key_is_told_nowhere_when_there_is_no_service(
    gemini: FakeGemini,
    video: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    addresses = (f"http://127.0.0.1:{port}", "http://127.0.0.1:0", "nonsense://x", "http://\u2028")
    for address in addresses:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", address)
        told = everything_told(caplog, video, attempts=2)
        assert "GeminiRequestError" in told
        assert KEY not in told


def test_the_key_is_told_nowhere_when_a_file_cannot_be_processed(
    gemini: FakeGemini, video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gemini.final_state = "FAILED"
    gemini.failure_message = f"no quota for {KEY}"
    told = everything_told(caplog, video, inline_limit=0)
    assert "no quota for [API key]" in told
    assert_not_told(told)


@pytest.mark.parametrize("odd", ["\n", "\r\n", " ", "\0", "\u2028", "\u00e9", "\u201d"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_told(
    gemini: FakeGemini, video: Path, caplog: pytest.LogCaptureFixture, odd: str
) -> None:
    from google import genai

    with genai.Client(api_key=f"{KEY[:20]}{odd}{KEY[20:]}") as client:
        told = everything_told(caplog, video, client=client)
    assert "GeminiKeyError" in told
    assert gemini.calls == []
    assert KEY[:20] not in told
    assert KEY[20:] not in told


@pytest.mark.slow
def test_the_key_of_a_client_of_the_caller_s_is_told_nowhere_either(
    gemini: FakeGemini,
    video: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from google import genai
    from google.genai import types

    monkeypatch.delenv("GEMINI_API_KEY")
    retry = types.HttpOptions(retry_options=types.HttpRetryOptions(attempts=3, initial_delay=0.01))
    for endpoint in ("start", "poll", "generate", "delete"):
        gemini.faults[endpoint].extend([Refuse(503, "STATUS", **QUOTED)] * 2)  # type: ignore[arg-type]
        with genai.Client(api_key=KEY, http_options=retry) as client:
            told = everything_told(caplog, video, client=client, inline_limit=0, attempts=1)
        assert_not_told(told)
    assert wait_until(lambda: not gemini.files)  # the keeper was refused, too


def test_a_key_in_the_settings_of_the_request_is_not_quoted_either(
    gemini: FakeGemini, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "another")
    settings = {"http_options": {"headers": {"x-goog-api-key": KEY}}}
    assert answer_of(run(video, config=settings)) == expected_transcript(video.read_bytes())
    gemini.faults["generate"].append(Refuse(400, "STATUS", **QUOTED))  # type: ignore[arg-type]
    statuses: list[GeminiStatus] = []
    with pytest.raises(GeminiRequestError, match=r"api_key:\[API key\]") as caught:
        run(video, config=settings, on_status=statuses.append)
    assert KEY not in f"{caught.value.args} {statuses}"


@pytest.mark.parametrize("value", [f"Bearer {KEY}", f"one=1; session={KEY}"])
def test_a_secret_is_not_told_without_what_stands_before_it(
    gemini: FakeGemini,
    video: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
) -> None:
    from google import genai
    from google.genai import types

    monkeypatch.delenv("GEMINI_API_KEY")
    gemini.key = "another-key"
    gemini.faults["generate"].append(Refuse(400, "STATUS", **QUOTED))  # type: ignore[arg-type]
    options = types.HttpOptions(headers={"Authorization": value})
    with genai.Client(api_key=gemini.key, http_options=options) as client:
        told = everything_told(caplog, video, client=client)
    assert gemini.calls == ["generate"]
    assert_not_told(told)
