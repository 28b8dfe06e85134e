"""What `collector run -o` writes into the journal while it runs, for whoever looks meanwhile."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from collector import Batch
from collector.cli.program import main
from tests.support.leaks import wait_until
from tests.support.running import QUIET, RUN, run


def lines(where: Path, kind: str) -> list[dict[str, Any]]:
    """Return the lines of a kind."""
    batch = where / "B"
    text = "".join(path.read_text() for path in batch.glob("shard-*/journal.jsonl"))
    found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in found if line["event"] == kind]


@contextlib.contextmanager
def running(
    where: Path, *words: str, program: Sequence[str] = RUN
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a batch whose jobs wait for gates."""
    for name in "abc":
        os.mkfifo(where / f"go-{name}")
    process = subprocess.Popen(
        [*program, *QUIET, "-o", "B", *words],
        cwd=where,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_an_attempt_that_takes_long_is_told_of_while_it_runs(tmp_path: Path) -> None:
    script = "[ {} = a ] && exit; : < go-{}; [ $COLLECTOR_ATTEMPT = 2 ]"
    words = ["-j2", "--attempts", "2", script, ":::", "a", "b"]
    with running(tmp_path, *words) as process:
        assert wait_until(lambda: len(lines(tmp_path, "started")) == 1)
        (tmp_path / "go-b").open("wb").close()
        assert wait_until(lambda: len(lines(tmp_path, "started")) == 2)
        (tmp_path / "go-b").open("wb").close()
        assert process.wait() == 0
    told = [(line["input"], line["attempt"]) for line in lines(tmp_path, "started")]
    assert told == [("b", 1), ("b", 2)]


SLOWLY = """
import sys
from collector import settings
from collector.cli.program import main
settings.TOLD_AFTER_S = 5
sys.exit(main())
"""


@pytest.mark.slow
def test_a_job_that_waits_for_its_next_run_is_not_told_of_as_one_that_runs(tmp_path: Path) -> None:
    script = ": < go-{}; exit 75"
    words = ["-j1", "--later", "3600", "--events", "events", script]
    program = [sys.executable, "-c", SLOWLY, "run"]
    with running(tmp_path, *words, ":::", "a", "b", program=program) as process:
        events = tmp_path / "events"
        assert wait_until(lambda: events.exists() and b'"started"' in events.read_bytes())
        (tmp_path / "go-a").open("wb").close()
        assert wait_until(lambda: bool(lines(tmp_path, "started")))
        process.send_signal(signal.SIGKILL)
    assert [line["input"] for line in lines(tmp_path, "started")] == ["b"]


def test_what_ran_when_all_was_killed_is_interrupted(tmp_path: Path) -> None:
    with running(tmp_path, "-j2", ": < go-{}", ":::", "a", "b", "c") as process:
        assert wait_until(lambda: len(lines(tmp_path, "started")) == 2)
        process.send_signal(signal.SIGKILL)
    with Batch.open(tmp_path / "B") as batch:
        assert [record.status for record in batch] == ["interrupted", "interrupted", "waiting"]


@pytest.mark.slow
def test_the_number_of_inputs_is_there_from_the_beginning_where_it_is_known(tmp_path: Path) -> None:
    words = ["-j1", ": < go-a; : {}", ":::", *map(str, range(100))]  # not all are read at once
    with running(tmp_path, *words) as process:
        assert wait_until(lambda: bool(lines(tmp_path, "run")))
        with contextlib.chdir(tmp_path):
            asked = (["status", "B"], ["cat", "B"], ["report", "B", "--csv", "table"])
            assert [main(list(words)) for words in asked] == [1, 1, 1]
        assert wait_until(
            lambda: bool(lines(tmp_path, "started"))
        )  # its sink is there, to clean up
        process.send_signal(signal.SIGKILL)
    with Batch.open(tmp_path / "B") as batch:
        assert batch.status()["waiting"] + batch.status()["interrupted"] == 100
    (tmp_path / "go-a").unlink()
    (tmp_path / "go-a").touch()
    run("--retry", "B", where=tmp_path)  # it knows of those that were read
    run("-o", "B", words[1], stdin=b"0\n1\n", where=tmp_path)
    assert [line["inputs"] for line in lines(tmp_path, "run")] == [100, 100, None]


@pytest.mark.parametrize("halt", [[], ["--halt", "soon,fail=50%"]])
@pytest.mark.parametrize("place", ["words", "file"])
def test_a_shard_tells_how_many_inputs_the_whole_batch_has(
    place: str, halt: list[str], tmp_path: Path
) -> None:
    inputs = [*map(str, range(20))]
    (tmp_path / "inputs").write_text("\n".join(inputs))
    given = [":::", *inputs] if place == "words" else ["::::", "inputs"]
    words = [*halt, "--shard", "2/2", "-o", "B", "true", *given]
    assert run(*words, where=tmp_path).returncode == 0
    assert [line["inputs"] for line in lines(tmp_path, "run")] == [20]
    with Batch.open(tmp_path / "B") as batch:
        assert 0 < batch.status()["waiting"] < 20


@pytest.mark.slow
def test_the_worker_of_a_command_is_its_slot(tmp_path: Path) -> None:
    script = ": {}; echo $COLLECTOR_SLOT; [ {} != b ]"
    run("-j2", "-o", "B", script, ":::", "a", "b", "c", where=tmp_path)
    (tmp_path / "slots.py").write_text(
        "import os\ndef work(x):\n    print(os.environ['COLLECTOR_SLOT'])\n"
    )
    run("-j2", "-o", "F", "--python", "slots:work", ":::", "a", "b", "c", where=tmp_path)
    for name in "BF":
        with Batch.open(tmp_path / name) as batch:
            slots = [(record.output().text().strip(), str(record.worker)) for record in batch]
        assert len(slots) == 3
        assert all(told == kept for told, kept in slots)
