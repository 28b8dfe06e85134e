"""What `collector run -o` writes into the journal while it runs, for whoever looks meanwhile."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collector import Batch
from tests.support.leaks import wait_until
from tests.support.running import QUIET, RUN


def lines(where: Path, kind: str) -> list[dict[str, Any]]:
    """Return the lines of a kind."""
    journal = where / "B" / "shard-0" / "journal.jsonl"
    text = journal.read_text() if journal.exists() else ""
    found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in found if line["event"] == kind]


@contextlib.contextmanager
def running(where: Path, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a batch whose jobs wait for gates."""
    for name in "abc":
        os.mkfifo(where / f"go-{name}")
    process = subprocess.Popen(
        [*RUN, *QUIET, "-o", "B", *words],
        cwd=where,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


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


def test_what_ran_when_all_was_killed_is_interrupted(tmp_path: Path) -> None:
    with running(tmp_path, "-j2", ": < go-{}", ":::", "a", "b", "c") as process:
        assert wait_until(lambda: len(lines(tmp_path, "started")) == 2)
        process.send_signal(signal.SIGKILL)
    with Batch.open(tmp_path / "B") as batch:
        assert [record.status for record in batch] == ["interrupted", "interrupted", "waiting"]
