"""What a command that runs a batch says where there is no terminal, and to programs."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import shows
from tests.support.person import PATIENCE_S, Person, environment, run_quietly

SCRIPT = Path(shows.__file__)
ENDED = {
    "job": 1,
    "name": "job-1",
    "attempt": 1,
    "status": "failed",
    "again": False,
    "resumed": False,
    "flaky": False,
    "seconds": 1.5,
    "bytes": 0,
    "why": "exit status 3",
    "meters": {},
}


def said(tmp_path: Path, **variables: str) -> list[str]:
    """What the batch says on stderr, without times."""
    (tmp_path / "go").touch()
    done = run_quietly(SCRIPT, "rows", os.fspath(tmp_path), **variables)
    assert done.returncode == 0
    assert done.stdout == b"<shown>\n<the end>\n"
    text = re.sub(rb"\[ *[\d.]+s\]", b"[]", done.stderr)
    return text.decode().splitlines()


LINES = {
    "fail": "        FAIL []     0B  job-1: exit status 3",
    "interrupted": " INTERRUPTED []     0B  job-12: Ctrl-C",
    "try": "  TRY 1 FAIL []     0B  job-2: killed by SIGKILL",
    "flaky": "   FLAKY 2/3 [] 1.95KB  job-2",
}
PASSED = [f"        PASS []  1000B  job-{number}" for number in range(3, 12)]
STARTED = [f"       START  job-{number}" for number in range(1, 12)]


@pytest.mark.parametrize(
    ("level", "lines"),
    [
        ("none", []),
        pytest.param("fail", [LINES["fail"], LINES["interrupted"]], marks=pytest.mark.slow),
        ("retry", list(LINES.values())),
        pytest.param("slow", list(LINES.values()), marks=pytest.mark.slow),
        pytest.param("pass", [*LINES.values(), *PASSED], marks=pytest.mark.slow),
        ("all", [*LINES.values(), *PASSED, *STARTED]),
    ],
)
def test_each_level_says_what_the_one_before_it_says_and_more(
    level: str, lines: list[str], tmp_path: Path
) -> None:
    found = said(tmp_path, SHOW=level, FINAL="none")
    assert sorted(found) == sorted([*lines, "<said\\x1b[2J>"])


def test_the_end_stands_below_and_says_what_to_run(tmp_path: Path) -> None:
    found = said(tmp_path, SHOW="none", FINAL="fail")
    assert found == [
        "<said\\x1b[2J>",
        "     Summary [] 10.7KB  12 jobs: 10 passed (1 flaky), 1 failed, 1 interrupted",
        LINES["fail"],
        "    ::error::two",
        "            three",
        "    four",
        "    f\\xffve",
        "    six",
        "To run what is missing: collector run --retry batch",
    ]


def test_github_actions_folds_failures_and_obeys_no_job(tmp_path: Path) -> None:
    found = said(tmp_path, SHOW="none", FINAL="fail", GITHUB_ACTIONS="true")
    assert found[2:9] == [
        "::group::FAIL []     0B  job-1: exit status 3",
        "    : :error::two",
        "            three",
        "    four",
        "    f\\xffve",
        "    six",
        "::endgroup::",
    ]


def events(path: Path) -> list[dict[str, Any]]:
    """What was written, without times."""
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    for event in found:
        assert event.pop("at") > 0
        if event["event"] == "closed":
            assert event.pop("seconds") >= 0
    return found


def test_each_event_is_a_line_of_json(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_text("older\n")
    said(tmp_path, EVENTS=os.fspath(path))
    found = events(path)
    assert found[0] == {"event": "opened", "version": 1, "total": 12, "desc": None}
    assert found[1:3] == [
        {"event": "started", "job": 1, "name": "job-1", "attempt": 1},
        {"event": "progressed", "job": 1, "bytes": 1000},
    ]
    waiting = [event["why"] for event in found if event["event"] == "waiting"]
    assert waiting == ["27 s for gate api: too many requests", None]
    ended = [event for event in found if event["event"] == "ended"]
    assert ended[0] == {"event": "ended", **ENDED}
    assert [(e["status"], e["again"], e["flaky"]) for e in ended[1:3]] == [
        ("failed", True, False),
        ("passed", False, True),
    ]
    assert found[-1] == {
        "event": "closed",
        "total": 12,
        "passed": 10,
        "failed": 1,
        "interrupted": 1,
        "resumed": 0,
        "retried": 1,
        "bytes": 11000,
        "meters": {},
    }
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_full_disk_costs_the_events_and_is_said_once(tmp_path: Path) -> None:
    found = said(tmp_path, EVENTS="/dev/full", SHOW="none", FINAL="none")
    assert found == [
        "no more events are written to /dev/full: No space left on device",
        "<said\\x1b[2J>",
    ]


def test_a_file_of_events_that_cannot_be_opened_is_an_error_before_anything_runs(
    tmp_path: Path,
) -> None:
    done = run_quietly(SCRIPT, "rows", os.fspath(tmp_path), EVENTS=os.fspath(tmp_path))
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"IsADirectoryError" in done.stderr


@pytest.mark.parametrize(
    "closed",
    [
        "<&- >&- 2>&-",
        pytest.param("2>&-", marks=pytest.mark.slow),
        pytest.param("2>/dev/full", marks=pytest.mark.slow),
    ],
)
def test_a_stderr_that_takes_nothing_stops_no_batch(closed: str, tmp_path: Path) -> None:
    path = tmp_path / "events"
    (tmp_path / "go").touch()
    script = f'exec "$0" "$1" rows "$2" {closed}'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, SCRIPT, tmp_path],
        env=environment(EVENTS=os.fspath(path)),
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert events(path)[-1]["event"] == "closed"


def test_a_pipe_whose_reader_has_gone_stops_no_batch(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as gone:
        done = subprocess.run(
            [sys.executable, SCRIPT, "rows", tmp_path],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=gone,
            timeout=PATIENCE_S,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, b"<shown>\n<the end>\n")


@pytest.mark.parametrize("term", ["dumb", pytest.param("", marks=pytest.mark.slow)])
def test_a_terminal_without_a_cursor_gets_lines_and_keeps_its_mode(
    term: str, tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    with Person(100, 40, TERM=term) as person:
        before = person.mode
        person.run(SCRIPT, "rows", os.fspath(tmp_path))
        assert person.wait() == 0
        assert person.mode == before
        assert "        FAIL [   1.500s]     0B  job-1: exit status 3" in person.lines
        assert not any("0/12" in line for line in person.lines)
