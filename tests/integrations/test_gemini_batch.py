"""Many media tasks in the workers of a Collector, by the real SDK against a service on loopback."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from collector import WorkerCrashError
from collector.integrations.gemini import (
    GeminiKeyError,
    GeminiResult,
    GeminiStreamBrokenError,
    run_gemini_media_task,
)
from tests.integrations.fake_gemini import KEY, FakeGemini
from tests.integrations.gemini_calls import workers_with_the_sdk
from tests.integrations.gemini_jobs import leave_pid
from tests.integrations.gemini_script import (
    Cut,
    Hold,
    Question,
    Say,
    Step,
    expected_transcript,
    transcript,
)
from tests.support.leaks import wait_until

ROOT = Path(__file__).parents[2]
INLINE_LIMIT = 10_000


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    """Four files that are uploaded."""
    paths = [tmp_path / f"{number}.mp4" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 2 * INLINE_LIMIT)
    return paths


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_fifty_videos_in_four_workers_come_out_exact(gemini: FakeGemini, tmp_path: Path) -> None:
    gemini.polls = 1
    paths = [tmp_path / f"video {number}.mp4" for number in range(50)]
    for number, path in enumerate(paths):
        path.write_bytes(os.urandom(100 if number % 2 else 2 * INLINE_LIMIT))
    task = partial(run_gemini_media_task, prompt="Transcribe.", inline_limit=INLINE_LIMIT)

    seen = []
    with workers_with_the_sdk(4) as collector:
        for job in collector.collect(task, paths):
            (path,) = job.args
            seen.append(path)
            result = job.result()
            assert isinstance(result, GeminiResult)
            assert (result.output, result.file_path) == (None, str(path))
            with job.output() as output:
                assert output.read() == expected_transcript(path.read_bytes())
                assert output.complete

    assert sorted(seen) == sorted(paths)
    assert len(gemini.questions) == 50
    assert sum(question.inline for question in gemini.questions) == 25
    assert len(gemini.deleted) == 25
    assert gemini.files == {}


def test_one_broken_answer_fails_that_job_only_and_its_text_is_kept(
    gemini: FakeGemini, videos: list[Path]
) -> None:
    def script(question: Question) -> Iterator[Step]:
        if question.sha256 == sha256_of(videos[2]):
            yield Say("as far as it came")
            yield Cut()
        yield from transcript(question)

    gemini.script = script
    task = partial(run_gemini_media_task, prompt="Transcribe.")
    with workers_with_the_sdk(2) as collector:
        jobs = list(collector.collect(task, videos, ordered=True))
        errors = [job.exception() for job in jobs]
        assert [type(error) for error in errors] == [
            type(None),
            type(None),
            GeminiStreamBrokenError,
            type(None),
        ]
        with jobs[2].output() as output:
            assert output.read() == b"as far as it came"
            assert not output.complete


def test_a_killed_worker_fails_its_file_only_and_keeps_its_text(
    gemini: FakeGemini, videos: list[Path], tmp_path: Path
) -> None:
    hold = Hold(threading.Event())

    def script(question: Question) -> Iterator[Step]:
        if question.sha256 == sha256_of(videos[0]):
            yield Say("as far as it came")
            yield hold
        yield from transcript(question)

    gemini.script = script
    pids = tmp_path / "pids"
    pids.mkdir()
    task = partial(
        run_gemini_media_task,
        prompt="Transcribe.",
        inline_limit=INLINE_LIMIT,
        on_status=partial(leave_pid, pids),
    )
    with workers_with_the_sdk() as collector:
        jobs = [collector.submit(task, path) for path in videos]
        assert hold.reached.wait(60)
        assert wait_until(lambda: jobs[0].progress.bytes_written == len("as far as it came"))
        assert wait_until(lambda: bool(jobs[0].meters))
        (pid,) = (int(path.name) for path in pids.iterdir())
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerCrashError):
            jobs[0].result(60)
        for job, path in zip(jobs[1:], videos[1:], strict=True):
            assert job.exception(60) is None
            with job.output() as output:
                assert output.read() == expected_transcript(path.read_bytes())
        with jobs[0].output() as output:
            assert output.read() == b"as far as it came"
            assert not output.complete
        assert jobs[0].meters["tokens"] == 7 + len("as far as it came")
    assert wait_until(lambda: not gemini.files)
    assert len(gemini.deleted) == len(videos)
    hold.until.set()


SCRIPT = """
import sys
from functools import partial
from collector import Collector
from collector.integrations.gemini import run_gemini_media_task

task = partial(run_gemini_media_task, prompt="Transcribe.", inline_limit=0)
with Collector(max_workers=2) as collector:
    for job in collector.collect(task, sys.argv[1:]):
        print(job.exception(), flush=True)
"""


@pytest.mark.slow
def test_ctrl_c_in_a_batch_leaves_no_remote_file(gemini: FakeGemini, videos: list[Path]) -> None:
    go_on = threading.Event()
    holds = [Hold(go_on), Hold(go_on)]
    waiting = list(holds)

    def script(_question: Question) -> Iterator[Step]:
        yield Say("text")
        yield waiting.pop()

    gemini.script = script
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, videos)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert all(hold.reached.wait(60) for hold in holds)
        assert len(gemini.files) == 2
        child.send_signal(signal.SIGINT)
        told, errors = child.communicate()
    assert child.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
    assert wait_until(lambda: not gemini.files)
    assert len(gemini.deleted) == 2
    assert KEY not in told + errors
    go_on.set()


def test_a_wrong_key_is_an_error_of_each_job_and_is_told_nowhere(
    gemini: FakeGemini, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "wrong-sentinel-key")
    with workers_with_the_sdk(2) as collector:
        task = partial(run_gemini_media_task, prompt="Transcribe.")
        for job in collector.collect(task, videos):
            error = job.exception()
            assert isinstance(error, GeminiKeyError)
            assert "wrong-sentinel-key" not in f"{error!r} {error.__cause__!r}"
            job.output().close()
    assert gemini.questions == []
