"""One media task, done by the real SDK against a service on loopback."""

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector import ClosedError, SpillManager
from collector.integrations.gemini import GeminiNotInstalledError, GeminiRequestError, GeminiStatus
from collector.settings import MIB
from tests.integrations.fake_gemini import KEY, FakeGemini
from tests.integrations.gemini_calls import OVERLOADED, answer_of, in_this_tree, run, says, stages
from tests.integrations.gemini_script import Finish, Hold, Question, Say, Step, expected_transcript

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


def test_a_result_goes_to_another_process_once_its_answer_is_in_other_hands(
    gemini: FakeGemini, video: Path
) -> None:
    manager = SpillManager()
    given, own = run(video, manager=manager), run(video)
    for result in (given, own):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(result)  # the answer would be lost
    manager.finalize().close()
    assert own.output is not None
    own.output.close()
    for result in (given, own):
        assert pickle.loads(pickle.dumps(result)) == result


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


@pytest.mark.slow
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
