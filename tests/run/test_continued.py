"""A batch that is continued: what stops it, and what `--retry` knows of it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from collector import Batch
from tests.support.batchdir import journal
from tests.support.leaks import wait_until
from tests.support.running import PATIENCE_S, QUIET, RUN, run

INTERRUPTED = """
import signal, sys
from collector.batch.command.finishing import Finisher
from collector.cli.program import main
resumed = Finisher.resumed
def interrupted(*arguments):
    resumed(*arguments)
    signal.raise_signal(signal.SIGINT)
Finisher.resumed = interrupted
sys.exit(main(sys.argv[1:]))
"""
"""A program that is interrupted each time when it has printed what was done before."""


@pytest.mark.slow
def test_a_signal_ends_it_while_it_prints_what_was_done(tmp_path: Path) -> None:
    line = ["-k", "-o", "B", "echo", ":::", "a", "b", "c", "d"]
    assert run(*line, where=tmp_path).stdout == b"a\nb\nc\nd\n"
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "run", *QUIET, *line],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (ended.returncode, ended.stdout) == (130, b"a\n")
    run("--halt", "now,success=1", *line, where=tmp_path)
    lines = map(json.loads, journal(tmp_path / "B").read_text().splitlines())
    early = "left before its end"
    assert [one["how"] for one in lines if one["event"] == "left"] == ["complete", early, early]


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["signal", "halt"])
def test_what_is_ended_with_the_batch_has_no_result_and_takes_none_away(
    stop: str, tmp_path: Path
) -> None:
    script = "[ -e go ] || exit 0; [ {} = quick ] || exec sleep 1000"
    script += "; while [ ! -e stop ]; do sleep 0.1; done; exit 3"
    words = ["-j2", "-o", "B", script, ":::"]
    assert run(*words, "slow", where=tmp_path).returncode == 0
    (tmp_path / "go").touch()
    again = [*RUN, *QUIET, "--halt", "now,fail=1", "--resume", "all", *words, "quick", "slow"]
    with subprocess.Popen(again, cwd=tmp_path, stdin=subprocess.DEVNULL) as process:
        lines = journal(tmp_path / "B")
        wait_until(lambda: lines.read_text().count('"started"') == 2)
        if stop == "signal":
            process.send_signal(signal.SIGINT)
        else:
            (tmp_path / "stop").touch()
        assert process.wait(PATIENCE_S) == (130 if stop == "signal" else 3)
    with Batch.open(tmp_path / "B") as batch:
        states = {record.input: record.status for record in batch}
    assert states == {"quick": "interrupted" if stop == "signal" else "failed", "slow": "done"}
    rehearsed = run("--dry-run", "--resume", "new", *words, "quick", where=tmp_path).stdout
    assert (b"  # runs:" in rehearsed) == (stop == "signal")


def test_what_was_not_read_is_run_by_the_same_line_alone(tmp_path: Path) -> None:
    line = ["-j1", "--halt", "soon,fail=1", "-o", "B", "[ {} != 2 ] || [ -e go ]", ":::"]
    line += ["1", "2", "3"]
    first = run(*line, where=tmp_path, quiet=False).stderr
    assert b"To run what is missing: the same line again (" in first
    again = run(*line, where=tmp_path, quiet=False).stderr
    assert b"To run what is missing: the same line again (" in again
    (tmp_path / "go").touch()
    assert b"missing" not in run(*line, where=tmp_path, quiet=False).stderr
    (tmp_path / "go").unlink()
    whole = run("--resume", "all", *line, where=tmp_path, quiet=False).stderr
    assert b"To run what is missing: the same line again (" in whole
    retried = run("--retry", "B", where=tmp_path, quiet=False).stderr
    assert b"To run what is missing: collector run --retry B\n" in retried


@pytest.mark.slow
def test_why_a_job_has_failed_is_said_as_it_was_then(tmp_path: Path) -> None:
    line = ["-k", "-j1", "--timeout", "1", "--resume", "new", "-o", "B", "sleep {}; exit 3"]
    first, second = (run(*line, ":::", "0", "9", where=tmp_path, quiet=False) for _ in range(2))
    for said in (first.stderr, second.stderr):
        assert b"  sleep 0; exit 3: exit status 3\n" in said
        assert b"  sleep 9; exit 3: ran longer than its 1 s, and was ended\n" in said


@pytest.mark.slow
def test_what_was_done_waits_for_no_gate(tmp_path: Path) -> None:
    closed_for_ever = ["--memfree", "900PiB"]
    line = ["-k", "-o", "B", "echo", ":::", "a", "b"]
    run(*line, where=tmp_path)
    ended = run(*closed_for_ever, *line, where=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, b"a\nb\n")


@pytest.mark.slow
def test_retry_with_a_bound_of_nothing_keeps_nothing(tmp_path: Path) -> None:
    run("-o", "B", "--max-output", "3", "printf 12345; : {}", ":::", "a", where=tmp_path)
    ended = run("--retry", "B", "--max-output", "0", where=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, b"")


def test_retry_of_a_function_knows_the_names_of_its_inputs(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(
        "import os\ndef job(x):\n    print(x)\n    assert os.path.exists('ok')\n"
    )
    line = ["--header", ":", "-o", "B", "--save", "out/{x}", "--python", "jobs:job"]
    assert run(*line, ":::", "x", "1", "2", where=tmp_path).returncode == 2
    (tmp_path / "ok").touch()
    ended = run("--retry", "B", where=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert {file.name: file.read_text() for file in (tmp_path / "out").iterdir()} == {
        "1": "1\n",
        "2": "2\n",
    }


@pytest.mark.slow
def test_what_is_said_of_a_batch_steers_no_terminal(tmp_path: Path) -> None:
    steers = "\x1b]0;x\x07"
    line = ["-o", f"B{steers}", "--save", "saved/{}", "echo", ":::", f"a{steers}"]
    run(*line, where=tmp_path)
    (tmp_path / "saved" / f"a{steers}").unlink()
    again = run(*line, where=tmp_path)
    assert again.returncode == 0
    assert b"counts as not done" in again.stderr
    assert again.stderr.replace(b"\n", b"").decode().isprintable()


FEW = ["1", "2", "3"]
"""The last one fails, and stops the batch."""


@pytest.mark.parametrize("unread", [[], ["4", "5"]])
def test_the_line_that_is_printed_runs_what_is_missing(tmp_path: Path, unread: list[str]) -> None:
    """That was said of `--retry` also where it knew nothing of the inputs behind a halt."""
    line = ["-j1", "-o", "B", "--halt", "now,fail=1", "test {} -ne 3", ":::", *FEW, *unread]
    ended = run(*line, where=tmp_path, quiet=False)
    told = ended.stderr.decode().splitlines()[-1]
    assert ended.returncode == 1
    retry = "collector run --retry B"
    again = f"the same line again ({retry} knows only the inputs that were read)"
    assert told == f"To run what is missing: {again if unread else retry}"


def test_retry_says_how_many_inputs_no_run_has_read(tmp_path: Path) -> None:
    """It ended with status 0, and with a summary of all jobs that it knew."""
    command, inputs = ["echo {}"], [str(number) for number in range(9)]
    part = run("-o", "B", "--shard", "1/2", *command, ":::", *inputs, where=tmp_path)
    unread = len(inputs) - len(part.stdout.splitlines())
    assert 0 < unread < len(inputs)
    told = f"{unread} of its inputs are not known to B: no run has read them; give them again"
    ended = run("--retry", "B", where=tmp_path)
    assert (ended.returncode, told in ended.stderr.decode()) == (255, True)
    of_a_shard = run("--retry", "B", "--shard", "1/2", where=tmp_path)
    assert (of_a_shard.returncode, told in of_a_shard.stderr.decode()) == (0, True)
    assert run("-o", "B", *command, ":::", *inputs, where=tmp_path).returncode == 0
    whole = run("--retry", "B", where=tmp_path)
    assert (whole.returncode, whole.stderr) == (0, b"")
