"""One media task, done by the real SDK against a service on loopback."""

import contextlib
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from collector import ClosedError, SpillManager
from collector.integrations.gemini import (
    GeminiBlockedError,
    GeminiEmptyAnswerError,
    GeminiError,
    GeminiFileChangedError,
    GeminiFileEmptyError,
    GeminiFileMissingError,
    GeminiFileTooLargeError,
    GeminiFileTypeError,
    GeminiKeyError,
    GeminiNotInstalledError,
    GeminiProcessingError,
    GeminiProcessingTimeoutError,
    GeminiRequestError,
    GeminiResult,
    GeminiSafetyError,
    GeminiStatus,
    GeminiStreamBrokenError,
    GeminiTruncatedError,
    run_gemini_media_task,
)
from tests.integrations.fake_gemini import (
    KEY,
    Block,
    Cut,
    Drop,
    FakeGemini,
    Finish,
    Hold,
    Question,
    Raw,
    Refuse,
    Say,
    Stall,
    Step,
    expected_transcript,
)
from tests.support.leaks import wait_until

MIB = 1024 * 1024
OVERLOADED = Refuse(503)
TOO_MANY = Refuse(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (check quota).")
INTERNAL = b'{"error": {"code": 500, "message": "An internal error.", "status": "INTERNAL"}}'


def in_this_tree() -> dict[str, str]:
    """The environment for a child that finds the package of this tree."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def run(path: Path, **options: Any) -> GeminiResult:
    return run_gemini_media_task(path, prompt="What is said in this video?", **options)


def answer_of(result: GeminiResult) -> bytes:
    assert result.output is not None
    with result.output as output:
        assert output.complete
        return output.read()


def stages(statuses: list[GeminiStatus]) -> list[str]:
    return [stage for stage, _ in groupby(status.stage for status in statuses)]


def says(gemini: FakeGemini, *steps: Step) -> None:
    def script(_question: Question) -> Iterator[Step]:
        yield from steps

    gemini.script = script


# -- an answer -------------------------------------------------------------------------------------


def test_a_small_file_travels_inside_the_request(gemini: FakeGemini, video: Path) -> None:
    statuses: list[GeminiStatus] = []
    result = run(video, on_status=statuses.append)

    assert answer_of(result) == expected_transcript(video.read_bytes())
    assert gemini.calls == ["generate"]
    question = gemini.questions[0]
    assert (question.inline, question.streaming, question.mime_type) == (True, True, "video/mp4")
    assert (question.model, question.prompt) == ("gemini-3.8-flash", "What is said in this video?")
    assert result.model == "gemini-3.8-flash"
    assert result.finish_reason == "STOP"
    assert result.usage["total_token_count"] == 7 + result.usage["candidates_token_count"]
    assert result.file_path == str(video)

    assert stages(statuses) == ["reading", "generating", "streaming", "finalizing", "done"]
    size, written = video.stat().st_size, len(expected_transcript(video.read_bytes()))
    assert statuses[0] == GeminiStatus("reading", 0, size)
    assert statuses[-1] == GeminiStatus("done", written, written)


def test_a_manager_that_takes_no_more_is_refused_before_anything_is_sent(
    gemini: FakeGemini, video: Path
) -> None:
    manager = SpillManager()
    manager.finalize().close()
    with pytest.raises(ClosedError, match="finalized"):
        run(video, manager=manager)
    assert gemini.calls == []


def test_a_larger_file_is_uploaded_in_pieces_and_deleted_in_the_end(
    gemini: FakeGemini, video: Path
) -> None:
    media = os.urandom(20 * MIB + 7)
    video.write_bytes(media)
    gemini.polls = 3
    statuses: list[GeminiStatus] = []
    result = run(video, on_status=statuses.append)

    assert answer_of(result) == expected_transcript(media)
    assert gemini.calls == ["start", *["piece"] * 3, *["poll"] * 3, "generate", "delete"]
    assert len(gemini.deleted) == 1
    assert gemini.files == {}
    assert not gemini.questions[0].inline
    assert [upload.display_name for upload in gemini.uploads.values()] == [video.name]

    assert stages(statuses) == [
        "uploading",
        "processing",
        "generating",
        "streaming",
        "finalizing",
        "done",
    ]
    sent = [status for status in statuses if status.stage == "uploading"]
    assert [status.bytes_done for status in sent] == [0, 8 * MIB, 16 * MIB, len(media)]
    assert {status.bytes_total for status in sent} == {len(media)}
    looks = [status.message for status in statuses if status.stage == "processing"]
    assert looks == ["PROCESSING"] * 3 + ["ACTIVE"]


def test_the_limit_between_the_two_ways_is_inline_limit(gemini: FakeGemini, video: Path) -> None:
    size = video.stat().st_size
    answer_of(run(video, inline_limit=size))
    answer_of(run(video, inline_limit=size - 1))
    assert [question.inline for question in gemini.questions] == [True, False]


def test_without_streaming_the_answer_comes_in_one_piece(gemini: FakeGemini, video: Path) -> None:
    statuses: list[GeminiStatus] = []
    result = run(video, use_streaming=False, on_status=statuses.append)
    assert not gemini.questions[0].streaming
    assert result.output is not None
    assert result.output.chunks == 1
    assert answer_of(result) == expected_transcript(video.read_bytes())
    assert stages(statuses) == ["reading", "generating", "streaming", "finalizing", "done"]


def test_what_the_model_thinks_is_not_part_of_the_answer(gemini: FakeGemini, video: Path) -> None:
    says(gemini, Say("Let me see", thought=True), Say("Grüße "), Say("👋"), Finish())
    assert answer_of(run(video)) == "Grüße 👋".encode()


def test_line_separators_of_unicode_in_an_answer_are_kept(gemini: FakeGemini, video: Path) -> None:
    text = "one\u2028two\u0085three\r\nfour\x0b"
    says(gemini, Say(text), Finish())
    assert answer_of(run(video)) == text.encode()


def test_further_settings_reach_the_model(gemini: FakeGemini, video: Path) -> None:
    answer_of(run(video, config={"temperature": 0.5, "max_output_tokens": 10}, model="gemini-x"))
    assert gemini.questions[0].config == {"temperature": 0.5, "maxOutputTokens": 10}
    assert gemini.questions[0].model == "gemini-x"


def test_settings_that_the_sdk_refuses_cost_no_upload(gemini: FakeGemini, video: Path) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        run(video, inline_limit=0, config={"nonsense": 1})
    assert gemini.calls == []


def test_a_client_of_the_caller_s_is_used_and_left_open(gemini: FakeGemini, video: Path) -> None:
    from google import genai

    os.environ.pop("GEMINI_API_KEY")
    with genai.Client(api_key=KEY) as client:
        for _ in range(2):
            assert answer_of(run(video, client=client)) == expected_transcript(video.read_bytes())


def test_the_retries_of_a_client_do_not_multiply_with_ours(gemini: FakeGemini, video: Path) -> None:
    from google import genai
    from google.genai import types

    gemini.faults["generate"].extend([OVERLOADED] * 10)
    retry = types.HttpRetryOptions(attempts=4, initial_delay=0.01, max_delay=0.01)
    options = types.HttpOptions(retry_options=retry)
    with genai.Client(http_options=options) as client, pytest.raises(GeminiRequestError):
        run(video, client=client, attempts=2)
    assert gemini.calls == ["generate"] * 2


def test_a_manager_of_the_caller_s_stays_open_until_the_output_is_asked_for(
    gemini: FakeGemini, video: Path
) -> None:
    with SpillManager() as manager:
        manager.write("before ")
        result = run(video, manager=manager)
        manager.write("after")
        assert answer_of(result) == b"before " + expected_transcript(video.read_bytes()) + b"after"
        assert result.output is result.output


def test_text_is_there_while_the_answer_still_streams(gemini: FakeGemini, video: Path) -> None:
    hold = Hold(threading.Event())
    says(gemini, Say("first"), hold, Say(" second"), Finish())
    seen: list[int] = []

    def look(status: GeminiStatus) -> None:
        if status.stage == "streaming" and not hold.until.is_set():
            assert hold.reached.wait(30)
            seen.append(manager.progress.bytes_written)
            hold.until.set()

    with SpillManager() as manager:
        result = run(video, manager=manager, on_status=look)
        assert seen == [len("first")]
        assert answer_of(result) == b"first second"


def test_a_status_callback_that_raises_is_told_once_and_hurts_nothing(
    gemini: FakeGemini, video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_status: GeminiStatus) -> None:
        raise RuntimeError("the user's own")

    result = run(video, on_status=broken)
    assert answer_of(result) == expected_transcript(video.read_bytes())
    assert caplog.text.count("on_status raised") == 1


def test_the_sdk_is_loaded_only_when_it_is_used() -> None:
    code = "import sys, collector.integrations.gemini; sys.exit('google.genai' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env=in_this_tree(), check=True)


def test_a_missing_sdk_is_said_plainly(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.genai", None)
    with pytest.raises(GeminiNotInstalledError, match=r"collector\[gemini\]"):
        run(video)


# -- requests that fail and are sent again ---------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["start", "poll", "generate", "delete"])
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
@pytest.mark.parametrize("endpoint", ["start", "piece", "poll", "generate", "delete"])
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


def test_the_service_may_say_how_long_to_wait(
    gemini: FakeGemini, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.integrations.gemini_requests.GEMINI_RETRY_S", 100.0)
    gemini.faults["generate"].extend(
        [Refuse(429, retry_s=0.125), Refuse(503, retry_s=0, retry_header=True)]
    )
    statuses: list[GeminiStatus] = []
    answer_of(run(video, on_status=statuses.append))
    waits = [status.message.split(" in ")[1] for status in statuses if "attempt" in status.message]
    assert waits == ["0.1 s", "0.0 s"]


def test_a_stream_cut_before_its_first_byte_is_asked_for_again(
    gemini: FakeGemini, video: Path
) -> None:
    answers: list[list[Step]] = [[Cut()], [], [Say("whole"), Finish()]]
    gemini.script = lambda _question: answers.pop(0)
    assert answer_of(run(video)) == b"whole"
    assert gemini.calls == ["generate"] * 3


def test_a_service_that_says_nothing_is_given_up(
    gemini: FakeGemini, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.integrations.gemini_requests.GEMINI_SILENCE_S", 0.2)
    stall = Stall(threading.Event())
    gemini.faults["generate"].append(stall)
    with pytest.raises(GeminiRequestError, match="ReadTimeout"):
        run(video, attempts=1)
    stall.until.set()


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


# -- files -----------------------------------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(GeminiFileMissingError, match="there is no file") as caught:
        run(tmp_path / "none.mp4")
    assert isinstance(caught.value, FileNotFoundError)
    assert caught.value.filename == str(tmp_path / "none.mp4")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.filename) == (str(caught.value), caught.value.filename)


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "directory.mp4").mkdir()
    with pytest.raises(GeminiFileMissingError, match="is not a file"):
        run(tmp_path / "directory.mp4")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(GeminiFileEmptyError, match="is empty"):
        run(tmp_path / "empty.mp4")


def test_a_file_larger_than_the_service_takes(tmp_path: Path) -> None:
    with (tmp_path / "large.mp4").open("wb") as file:
        file.truncate(2 * 1024 * MIB + 1)
    with pytest.raises(GeminiFileTooLargeError, match="2,147,483,649 bytes"):
        run(tmp_path / "large.mp4")


@pytest.mark.parametrize("name", ["a.xyzzy", "noending", "a.zip", "a.exe"])
def test_a_file_of_no_type_that_a_model_understands(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    statuses: list[GeminiStatus] = []
    with pytest.raises(GeminiFileTypeError, match="tells no type"):
        run(tmp_path / name, on_status=statuses.append)
    assert stages(statuses) == ["failed"]


@pytest.mark.parametrize(
    ("name", "mime_type"),
    [
        ("a.MOV", "video/mov"),
        ("a.mp3", "audio/mp3"),
        ("a.jpeg", "image/jpeg"),
        ("a.pdf", "application/pdf"),
        ("a.txt", "text/plain"),
    ],
)
def test_the_type_is_told_by_the_name(
    gemini: FakeGemini, tmp_path: Path, name: str, mime_type: str
) -> None:
    (tmp_path / name).write_bytes(b"x")
    answer_of(run(tmp_path / name))
    assert gemini.questions[0].mime_type == mime_type


def test_a_file_that_shrinks_while_it_is_sent(gemini: FakeGemini, video: Path) -> None:
    video.write_bytes(b"x" * (20 * MIB))

    def shrink(status: GeminiStatus) -> None:
        if status.stage == "uploading" and status.bytes_done == 8 * MIB:
            os.truncate(video, 9 * MIB)

    with pytest.raises(GeminiFileChangedError, match="cut short"):
        run(video, inline_limit=0, on_status=shrink)
    assert gemini.files == {}


def test_a_file_that_grows_while_it_is_sent(gemini: FakeGemini, video: Path) -> None:
    media = os.urandom(9 * MIB)
    video.write_bytes(media)

    def grow(status: GeminiStatus) -> None:
        if status.stage == "uploading" and status.bytes_done == 8 * MIB:
            with video.open("ab") as file:
                file.write(b"more")

    assert answer_of(run(video, inline_limit=0, on_status=grow)) == expected_transcript(media)


def test_a_small_file_that_shrinks_before_it_is_sent(gemini: FakeGemini, video: Path) -> None:
    def shrink(status: GeminiStatus) -> None:
        if status.stage == "reading":
            os.truncate(video, 0)

    with pytest.raises(GeminiFileChangedError, match="cut short"):
        run(video, on_status=shrink)
    assert gemini.calls == []


def test_a_small_file_that_grows_before_it_is_sent(gemini: FakeGemini, video: Path) -> None:
    media = video.read_bytes()

    def grow(status: GeminiStatus) -> None:
        if status.stage == "reading":
            video.write_bytes(media + b"more")

    assert answer_of(run(video, on_status=grow)) == expected_transcript(media)


@pytest.mark.parametrize("inline_limit", [15 * MIB, 0], ids=["inline", "uploaded"])
def test_a_file_that_cannot_be_opened_is_no_trouble_of_the_connection(
    gemini: FakeGemini, video: Path, inline_limit: int
) -> None:
    def take_away(status: GeminiStatus) -> None:
        if status.stage in {"reading", "uploading"}:
            video.unlink()

    with pytest.raises(FileNotFoundError) as caught:
        run(video, inline_limit=inline_limit, on_status=take_away)
    assert caught.value.filename == str(video)
    assert gemini.calls == []


def test_a_file_that_the_service_cannot_process(gemini: FakeGemini, video: Path) -> None:
    gemini.final_state = "FAILED"
    gemini.polls = 1
    with pytest.raises(GeminiProcessingError, match="could not be decoded"):
        run(video, inline_limit=0)
    assert gemini.files == {}


def test_a_file_that_takes_the_service_too_long(gemini: FakeGemini, video: Path) -> None:
    gemini.polls = 1_000_000
    with pytest.raises(GeminiProcessingTimeoutError, match=r"after 0\.2 s") as caught:
        run(video, inline_limit=0, processing_timeout=0.2)
    assert isinstance(caught.value, TimeoutError)
    assert gemini.files == {}


def test_a_remote_file_can_be_kept(gemini: FakeGemini, video: Path) -> None:
    result = run(video, inline_limit=0, delete_remote=False)
    answer_of(result)
    assert list(gemini.files) == [result.remote_file]
    assert "delete" not in gemini.calls


def test_a_remote_file_that_cannot_be_deleted_is_reported_and_hurts_nothing(
    gemini: FakeGemini, video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gemini.faults["delete"].extend([OVERLOADED] * 3)
    result = run(video, inline_limit=0)
    assert answer_of(result) == expected_transcript(video.read_bytes())
    (name,) = gemini.files
    assert f"deletion of the remote file {name.removeprefix('files/')}" in caplog.text
    assert "48 hours" in caplog.text


@pytest.mark.parametrize("fault", [Refuse(503), Drop()], ids=["refused", "dropped"])
def test_a_file_of_which_nothing_was_sent_is_not_deleted(
    gemini: FakeGemini, video: Path, caplog: pytest.LogCaptureFixture, fault: Refuse | Drop
) -> None:
    gemini.faults["start"].extend([fault] * 3)
    with pytest.raises(GeminiRequestError, match=r"the upload .* failed 3 times"):
        run(video, inline_limit=0)
    assert gemini.calls == ["start"] * 3
    assert "Gemini keeps the file" not in caplog.text


# -- the key ---------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("code", [400, 401, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("endpoint", ["start", "piece", "poll", "generate", "delete"])
def test_the_key_is_told_nowhere_when_the_service_quotes_it(
    gemini: FakeGemini, video: Path, caplog: pytest.LogCaptureFixture, endpoint: str, code: int
) -> None:
    gemini.polls = 1
    gemini.faults[endpoint].extend([Refuse(code, "STATUS", **QUOTED)] * 9)  # type: ignore[arg-type]
    told = everything_told(caplog, video, inline_limit=0, attempts=2)
    assert gemini.calls.count(endpoint) >= 1
    assert_not_told(told)


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


@pytest.mark.parametrize("fault", [Drop(), Drop(reset=True)], ids=str)
@pytest.mark.parametrize("endpoint", ["start", "piece", "poll", "generate", "delete"])
def test_the_key_is_told_nowhere_when_the_connection_is_lost(
    gemini: FakeGemini, video: Path, caplog: pytest.LogCaptureFixture, endpoint: str, fault: Drop
) -> None:
    gemini.polls = 1
    gemini.faults[endpoint].extend([fault] * 9)
    assert_not_told(everything_told(caplog, video, inline_limit=0, attempts=2))


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


# -- Ctrl-C ----------------------------------------------------------------------------------------

INTERRUPTED = """
import sys, traceback
from collector.integrations.gemini import run_gemini_media_task

def told(status):
    print(status.stage, flush=True)

def report(_kind, error, _traceback):
    found = traceback.TracebackException.from_exception(error, capture_locals=True)
    print(*found.format(), file=sys.stderr)

sys.excepthook = report
run_gemini_media_task(sys.argv[1], prompt="?", inline_limit=0, on_status=told)
"""


PLACES = ["piece", "last piece", "poll", "generate", "stream"]


@contextlib.contextmanager
def interrupted(
    gemini: FakeGemini, video: Path, where: str
) -> Iterator[tuple[subprocess.Popen[str], threading.Event]]:
    """A task in a child that has come to a certain place and waits there for the service."""
    go_on = threading.Event()
    hold = Hold(go_on)
    stall = Stall(go_on, after_doing=where == "last piece")
    gemini.polls = 1
    if where == "stream":
        says(gemini, Say("text"), hold, Finish())
    else:
        gemini.faults[where.removeprefix("last ")].append(stall)
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(video)],
        env=in_this_tree(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert (hold if where == "stream" else stall).reached.wait(60)
        yield child, go_on
        go_on.set()


@pytest.mark.parametrize("where", PLACES)
def test_ctrl_c_leaves_no_remote_file(gemini: FakeGemini, video: Path, where: str) -> None:
    with interrupted(gemini, video, where) as (child, _):
        child.send_signal(signal.SIGINT)
        told, errors = child.communicate()
    assert child.returncode == -signal.SIGINT, errors
    assert "KeyboardInterrupt" in errors
    assert told.split()[-1] == "cancelled"
    assert "delete" in gemini.calls
    assert gemini.files == {}
    assert KEY not in told + errors


INTERRUPTED_WITHIN_PYDANTIC = """
import signal

def within_pydantic(frame, event, argument):
    called_by = frame.f_back.f_code.co_name if frame.f_back else ""
    if called_by == "create_schema_validator" and frame.f_code.co_filename.endswith("enum.py"):
        sys.settrace(None)
        print("interrupted", flush=True)
        signal.raise_signal(signal.SIGINT)
    return within_pydantic

def told(status):
    print(status.stage, flush=True)
    if status.stage == STAGE:
        sys.settrace(within_pydantic)
"""


@pytest.mark.parametrize("stage", ["uploading", "generating"])
def test_ctrl_c_while_pydantic_builds_a_model_is_a_ctrl_c(
    gemini: FakeGemini, video: Path, stage: str
) -> None:
    within = INTERRUPTED_WITHIN_PYDANTIC.replace("STAGE", repr(stage))
    call = "run_gemini_media_task("
    says(gemini, Say("text"), Finish())
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.replace(call, within + call), video],
        env=in_this_tree(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "interrupted" in done.stdout.split(), done.stderr
    assert done.returncode == -signal.SIGINT, done.stderr
    assert done.stdout.split()[-1] == "cancelled"
    assert gemini.files == {}
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("where", PLACES)
def test_a_killed_process_leaves_no_remote_file(
    gemini: FakeGemini, video: Path, where: str, signal_number: signal.Signals
) -> None:
    with interrupted(gemini, video, where) as (child, _):
        child.send_signal(signal_number)
        told, _errors = child.communicate()
        assert child.returncode == -signal_number
        assert wait_until(lambda: "delete" in gemini.calls)
    assert "cancelled" not in told
    assert wait_until(lambda: not gemini.files)


def test_a_file_that_comes_to_be_after_its_uploader_was_killed_is_deleted(
    gemini: FakeGemini, video: Path
) -> None:
    with interrupted(gemini, video, "piece") as (child, _):
        child.kill()
        child.wait()
        assert wait_until(lambda: "delete" in gemini.calls)  # too early: there is no file yet
        (upload,) = gemini.uploads.values()
        gemini.keep(upload)
        assert wait_until(lambda: gemini.deleted == [upload.name])


# -- memory ----------------------------------------------------------------------------------------

FLAT = """
import os, sys
from collector.integrations.gemini import run_gemini_media_task

def resident():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Rss:")) * 1024

run_gemini_media_task(sys.argv[1], prompt="short").output.close()
before = resident()
highest = [before]

def told(status):
    highest.append(resident())

result = run_gemini_media_task(sys.argv[1], prompt="long", on_status=told)
print(result.output.size, max(highest) - before, len(highest))
"""


def test_memory_stays_flat_over_an_answer_of_60_mib(gemini: FakeGemini, video: Path) -> None:
    text = "0123456789abcdef" * 512  # 8 KiB an event, and as large when short

    def script(question: Question) -> Iterator[Step]:
        for _ in range(60 * 128 if question.prompt == "long" else 6 * 128):
            yield Say(text)
        yield Finish()

    gemini.script = script
    done = subprocess.run(
        [sys.executable, "-c", FLAT, str(video)],
        env=in_this_tree(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    size, growth, looks = map(int, done.stdout.split())
    assert size == 60 * MIB
    assert looks > 5
    assert growth < 10 * MIB
