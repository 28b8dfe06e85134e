"""Ctrl-C and the death of a process leave no remote file."""

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integrations.fake_gemini import KEY, FakeGemini
from tests.integrations.gemini_calls import in_this_tree, says
from tests.integrations.gemini_script import Finish, Hold, Say, Stall
from tests.support.leaks import wait_until

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


@pytest.mark.parametrize(
    "where",
    [
        "piece",
        *(pytest.param(place, marks=pytest.mark.slow) for place in ("poll", "stream")),
        *(pytest.param(place, marks=pytest.mark.campaign) for place in ("last piece", "generate")),
    ],
)
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("where", "signal_number"),
    [
        pytest.param(
            place,
            number,
            marks=pytest.mark.slow if (turn + of_place) % 2 else pytest.mark.campaign,
        )
        for of_place, place in enumerate(PLACES)
        for turn, number in enumerate((signal.SIGKILL, signal.SIGTERM))
    ],
)
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
