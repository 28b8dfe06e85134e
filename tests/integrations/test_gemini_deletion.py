"""Whatever happens to the deletion of an uploaded file, the answer is there, and the file goes."""

import os
import subprocess
import sys
import threading
from multiprocessing import spawn
from pathlib import Path
from typing import Any

import pytest

from collector.integrations.gemini import GeminiStatus, deletion
from tests.integrations.fake_gemini import FakeGemini
from tests.integrations.gemini_calls import answer_of, run
from tests.integrations.gemini_script import Drop, Refuse, Stall, expected_transcript
from tests.support.leaks import wait_until

MALFORMED = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.2.3s"}
REFUSALS = {
    "told to wait": Refuse(429, "RESOURCE_EXHAUSTED", "Too many.", 60, retry_header=True),
    "told to wait for no number": Refuse(429, retry_s=None, details=(MALFORMED,)),
    "busy": Refuse(503),
    "the key is refused": Refuse(401, "UNAUTHENTICATED", "No.", retry_s=None),
    "the connection is lost": Drop(),
}


@pytest.mark.parametrize("fault", REFUSALS.values(), ids=list(REFUSALS))
def test_a_deletion_that_is_refused_is_asked_for_once_and_left_to_the_keeper(
    gemini: FakeGemini, video: Path, fault: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gemini.faults["delete"].append(fault)
    result = run(video, inline_limit=0, attempts=9)
    assert answer_of(result) == expected_transcript(video.read_bytes())
    assert wait_until(lambda: not gemini.files)
    (name,) = gemini.deleted
    assert f"the deletion of the remote file {name.removeprefix('files/')} failed" in caplog.text
    assert "48 hours" in caplog.text
    assert gemini.calls.count("delete") >= 2


def test_a_deletion_without_an_answer_is_given_up_soon(
    gemini: FakeGemini, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.integrations.gemini.service.GEMINI_DELETION_S", 0.2)
    stall = Stall(threading.Event())
    gemini.faults["delete"].append(stall)
    result = run(video, inline_limit=0)
    assert stall.reached.is_set()
    assert answer_of(result) == expected_transcript(video.read_bytes())
    stall.until.set()
    assert wait_until(lambda: not gemini.files)


@pytest.mark.parametrize("refused", [False, True])
def test_a_process_that_was_forked_meanwhile_holds_up_no_answer(
    gemini: FakeGemini, video: Path, refused: bool
) -> None:
    if refused:
        gemini.faults["delete"].append(Refuse(503))
    children: list[int] = []
    end, hold = os.pipe()

    def fork(status: GeminiStatus) -> None:
        if status.stage == "generating":
            child = os.fork()
            if child == 0:  # it has all descriptors of this process
                os.close(hold)
                os.read(end, 1)
                os._exit(0)
            children.append(child)

    try:
        result = run(video, inline_limit=0, on_status=fork)
    finally:
        os.close(hold)
        os.close(end)
        (child,) = children
        os.waitpid(child, 0)
    assert answer_of(result) == expected_transcript(video.read_bytes())
    assert wait_until(lambda: not gemini.files)


@pytest.mark.parametrize("kind", ["frozen", "another program", "none"])
def test_nothing_foreign_is_started_to_watch_over_a_file(
    gemini: FakeGemini, video: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It would be the user's program, once more, or an editor in which this one runs."""
    started = video.with_name("started")
    program = video.with_name("program")
    program.write_text(f"#!/bin/sh\necho $2 >> '{started}'\nexec cat >/dev/null\n")
    program.chmod(0o755)
    if kind == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", None if kind == "none" else str(program))
    assert answer_of(run(video, inline_limit=0)) == expected_transcript(video.read_bytes())
    assert gemini.files == {}
    assert "-S" not in (started.read_text() if started.exists() else "")


def test_the_python_that_was_named_watches_over_a_file(
    gemini: FakeGemini, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = sys.executable
    monkeypatch.setattr(sys, "executable", str(video))
    monkeypatch.setattr(spawn, "_python_exe", os.fsencode(python))
    gemini.faults["delete"].append(Refuse(503))
    assert answer_of(run(video, inline_limit=0)) == expected_transcript(video.read_bytes())
    assert wait_until(lambda: not gemini.files)


def test_what_watches_over_a_file_loads_nothing_until_it_has_to_delete_one() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "importtime", deletion.__file__],
        input=b"{}\na file\ndone\n",
        capture_output=True,
        check=True,
    )
    loaded = {line.rpartition(b"|")[2].strip() for line in done.stderr.splitlines()}
    assert b"os" in loaded
    assert not loaded & {b"collector", b"json", b"re", b"socket", b"subprocess", b"typing"}
