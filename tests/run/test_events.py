"""What `collector run --events` says of gates that are closed, and of what jobs count."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from collector import Batch
from tests.support.running import PATIENCE_S, QUIET, RUN, run


def events(path: Path, kind: str) -> list[dict[str, Any]]:
    """The events of a kind."""
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [event for event in found if event["event"] == kind]


def counted(event: dict[str, Any]) -> tuple[int, int, dict[str, float]]:
    """Of an end: whose it is, which attempt's, and what that has counted."""
    return event["job"], event["attempt"], event["meters"]


def test_an_end_has_what_the_attempt_has_counted_and_the_last_line_the_sums(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "from collector import current_job\n"
        "def work(number):\n"
        "    current_job().count(requests=1, usd=0.25)\n"
        "    if number == 'b' and os.environ['COLLECTOR_ATTEMPT'] == '1':\n"
        "        raise ValueError\n"
    )
    line = ["-j1", "--attempts", "2", "-o", "B", "--events", "events", "--python", "mine:work"]
    once = {"requests": 1, "usd": 0.25}
    assert run(*line, ":::", "a", "b", where=tmp_path).returncode == 0
    ended = events(tmp_path / "events", "ended")
    assert sorted(map(counted, ended)) == [(1, 1, once), (2, 1, once), (2, 2, once)]
    assert events(tmp_path / "events", "closed")[0]["meters"] == {"requests": 3, "usd": 0.75}
    assert run(*line, ":::", "a", "b", where=tmp_path).returncode == 0
    ended = events(tmp_path / "events", "ended")
    assert [(event["resumed"], event["meters"]) for event in ended] == 2 * [(True, once)]
    with Batch.open(tmp_path / "B") as batch:
        assert batch.status()["meters"] == {"requests": 3, "usd": 0.75}


def test_what_counts_nothing_has_no_meters(tmp_path: Path) -> None:
    assert run("--events", "events", "true", ":::", "a", where=tmp_path).returncode == 0
    (ended,) = events(tmp_path / "events", "ended")
    (closed,) = events(tmp_path / "events", "closed")
    assert ended["meters"] == closed["meters"] == {}


@pytest.mark.parametrize(
    ("closed", "status"),
    [
        ("2>&-", 0),
        pytest.param(">&-", 255, marks=pytest.mark.slow),
        pytest.param("<&- >&- 2>&-", 255, marks=pytest.mark.slow),
    ],
)
def test_no_file_of_ours_gets_what_a_closed_stream_would(
    closed: str, status: int, tmp_path: Path
) -> None:
    words = [*RUN, "--events", "events", "--joblog", "log", "echo {}; echo {} >&2", ":::", "a"]
    ended = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *words],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == status
    (closed_at,) = events(tmp_path / "events", "closed")  # each line is an event
    assert closed_at["total"] == 1
    assert len((tmp_path / "log").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_closed_gate_is_an_event_and_so_is_that_it_has_opened(tmp_path: Path) -> None:
    asks_until_it_is_told = 'grep -q \'^{"event": "waiting"\' events || exit 75; : {}'
    line = ["-j2", "--resource", "api", "--later", "0.3", "--events", "events"]
    assert run(*line, asks_until_it_is_told, ":::", "a", "b", "c", where=tmp_path).returncode == 0
    waiting = [event["why"] for event in events(tmp_path / "events", "waiting")]
    assert "for api, which has asked for a pause of" in waiting[0]
    assert waiting[-1] is None
    (closed,) = events(tmp_path / "events", "closed")
    assert (closed["passed"], closed["failed"], closed["retried"]) == (3, 0, 0)


@pytest.mark.slow
def test_a_job_that_waits_alone_is_an_event_too(tmp_path: Path) -> None:
    asks_until_it_is_told = 'grep -q \'^{"event": "waiting"\' events || exit 75; : {}'
    line = ["--later", "0.3", "--events", "events", asks_until_it_is_told, ":::", "a"]
    assert run(*line, where=tmp_path).returncode == 0
    waiting = [event["why"] for event in events(tmp_path / "events", "waiting")]
    assert waiting[0].startswith("1 job waits to be run again, the first in ")
    assert waiting[-1] is None


@pytest.mark.parametrize("option", ["--events", "--joblog"])
@pytest.mark.parametrize("name", ["/dev/stdout", "all"])
def test_lines_that_go_where_outputs_go_take_none_of_them_away(
    name: str, option: str, tmp_path: Path
) -> None:
    with open(tmp_path / "all", "wb", buffering=0) as file:
        file.write(b"from before\n")
        words = [*RUN, *QUIET, option, name, "echo {}", ":::", *map(str, range(20))]
        subprocess.run(words, stdout=file, cwd=tmp_path, check=True, timeout=PATIENCE_S)
    lines = (tmp_path / "all").read_text().splitlines()
    assert lines[0] == "from before"
    assert {*map(str, range(20))} < {*lines}
    ended = '{"event": "ended"' if option == "--events" else "\t:\t"
    assert sum(ended in line for line in lines) == 20
