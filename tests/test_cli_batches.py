"""`collector status`, `cat`, `export` and `verify`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.cli.program import main
from tests.support.batchdir import failed, journal, output, run, writer
from tests.support.scripts import ROOT


@pytest.fixture(name="batch")
def _batch(tmp_path: Path) -> Path:
    """A batch of two jobs that are done, one that has failed and one that waits."""
    path = tmp_path / "b"
    run(path, ["x/a.mp4", "b\x1b[2J"], sizes={"x/a.mp4": 70_000})
    with writer(path, inputs=4) as writing:
        for text in ("x/a.mp4", "b\x1b[2J"):
            writing.task(text)
        attempt = failed(b"so far")
        writing.store(writing.task("bad\n", name="job-bad"), attempt)
    return path


Called = Callable[..., tuple[int, bytes, str]]


@pytest.fixture(name="called")
def _called(capfdbinary: pytest.CaptureFixture[bytes]) -> Called:
    """Run the program; gives its status, and what it wrote to stdout and stderr."""

    def called(*arguments: str | Path) -> tuple[int, bytes, str]:
        try:
            status = main(list(map(str, arguments)))
        except SystemExit as leaving:
            status = int(str(leaving.code))
        said = capfdbinary.readouterr()
        return status, said.out, said.err.decode()

    return called


def test_status_counts(batch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", os.fspath(batch)]) == 1
    said = capsys.readouterr().out
    assert said.splitlines()[0] == f"{batch}: function tests:job"
    for line in ("done         2", "failed       1", "interrupted  0", "waiting      1"):
        assert line in said
    assert main(["status", os.fspath(batch), "--json"]) == 1
    status = json.loads(capsys.readouterr().out)
    assert (status["done"], status["failed"], status["waiting"]) == (2, 1, 1)
    assert status["bytes"] == 70_020
    (failure,) = status["failures"]
    assert failure == {
        "key": failure["key"],
        "name": "job-bad",
        "input": "bad\n",
        "status": "error",
        "error": "ValueError: no good",
    }


def test_status_lists_failures_and_steers_no_terminal(
    batch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", os.fspath(batch), "--failed"]) == 1
    said = capsys.readouterr().out
    assert "bad\\n" in said
    assert "ValueError: no good" in said
    assert "\x1b" not in said


def test_status_of_a_batch_that_is_done_is_0(tmp_path: Path) -> None:
    run(tmp_path / "b", ["a"])
    assert main(["status", os.fspath(tmp_path / "b")]) == 0


def test_cat_gives_bytes_in_the_order_of_the_inputs(batch: Path, called: Called) -> None:
    told = "collector: left out: 1 failed, 1 waiting; see collector status DIR --failed\n"
    assert called("cat", batch) == (1, output("x/a.mp4", 70_000) + output("b\x1b[2J"), told)
    assert called("cat", batch, "--log")[1] == b"log of x/a.mp4log of b\x1b[2J"
    assert called("cat", batch, "--failed") == (1, b"so far", "")


def test_cat_gives_what_is_named_in_that_order(batch: Path, called: Called) -> None:
    key = json.loads(journal(batch).read_bytes().splitlines()[1])["key"]
    code, out, error = called("cat", batch, "b\x1b[2J", key)
    assert (code, out, error) == (0, output("b\x1b[2J") + output("x/a.mp4", 70_000), "")
    code, out, error = called("cat", batch, "bad\n", "not there\x1b")
    assert (code, out) == (1, b"so far")
    assert error == (
        "collector: no job has the input or key not there\\x1b, or it has not begun: "
        "collector report DIR --csv - lists those that have\n"
    )


def test_options_may_stand_between_the_other_words(batch: Path, called: Called) -> None:
    wanted = 0, b"log of x/a.mp4log of b\x1b[2J", ""
    assert called("cat", batch, "--log", "x/a.mp4", "b\x1b[2J") == wanted
    assert called("cat", batch, "x/a.mp4", "--log", "b\x1b[2J") == wanted
    assert called("cat", "--log", batch, "--", "x/a.mp4", "b\x1b[2J") == wanted
    assert "the input or key --log" in called("cat", batch, "--", "--log")[2]
    # One that looks at a root needs none of its runs to be understood.
    code, _, said = called("follow", "run-0", "--root", batch, "7")
    assert (code, "no live run has the name 'run-0'" in said) == (1, True)
    for line in (("cat", batch, "--lgo", "x/a.mp4"), ("run", "--jbos", "2", "true")):
        code, _, said = called(*line)
        assert (code, f"collector {line[0]}: error: unrecognized arguments" in said) == (2, True)


def test_cat_into_a_pipe_that_is_closed_ends_quietly(batch: Path) -> None:
    line = f"{sys.executable} -m collector cat '{batch}' x/a.mp4 | head -c 3"
    done = subprocess.run(
        ["sh", "-c", line],
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
        capture_output=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (b"x/a", b"")


@pytest.mark.parametrize(
    ("words", "status"),
    [("cat b", 1), ("report b --csv -", 2), ("run --dry-run echo ::: a", 255)],
)
@pytest.mark.parametrize(
    ("to", "why"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")]
)
@pytest.mark.usefixtures("batch")
def test_a_stdout_that_takes_nothing_is_said_once(
    words: str, status: int, to: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # what is buffered is met again at exit
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m collector {words} {to}"],
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert why in line


def test_cat_says_of_a_named_job_that_it_has_not_failed(batch: Path, called: Called) -> None:
    status, out, error = called("cat", batch, "--failed", "x/a.mp4", "bad\n")
    assert (status, out) == (1, b"so far")
    assert error == "collector: the job of x/a.mp4 has not failed: it is done\n"


def test_export_copies_each_output_to_a_name(
    batch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = os.fspath(tmp_path / "out" / "{seq}-{input.stem}.txt")
    assert main(["export", os.fspath(batch), template]) == 1  # one has failed, one waits
    said = capsys.readouterr()
    told = "collector: left out: 1 failed, 1 waiting; see collector status DIR --failed\n"
    assert (said.out, said.err) == ("2 outputs were exported\n", told)
    assert (tmp_path / "out" / "0-a.txt").read_bytes() == output("x/a.mp4", 70_000)
    assert main(["export", os.fspath(batch), template]) == 1
    said = capsys.readouterr()
    assert said.out == "0 outputs were exported, 2 not\n"
    assert "the name is taken; pass --overwrite to replace what is there" in said.err
    assert main(["export", os.fspath(batch), template, "--overwrite"]) == 1
    assert capsys.readouterr().out == "2 outputs were exported\n"


def test_export_puts_no_two_outputs_under_one_name(
    batch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", os.fspath(batch), f"{tmp_path}/same{{input[x]}}"]) == 1
    assert "cannot be filled for 'x/a.mp4'" in capsys.readouterr().err
    assert main(["export", os.fspath(batch), f"{tmp_path}/one"]) == 1
    said = capsys.readouterr()
    assert "'x/a.mp4' has that name already" in said.err


def test_verify_tells_what_is_not_there(batch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", os.fspath(batch)]) == 0
    assert capsys.readouterr().out == "3 jobs: every byte is there\n"
    os.truncate(batch / "shard-0" / "pack-000001", 3)
    assert main(["verify", os.fspath(batch)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    assert all("pack-000001 has 3 bytes where" in line for line in said)


@pytest.mark.parametrize("command", ["status", "cat", "verify", "export"])
def test_what_is_no_batch_is_one_line_and_2(command: str, tmp_path: Path, called: Called) -> None:
    (tmp_path / "mine\n").write_text("")
    more = ["{key}"] if command == "export" else []
    code, out, error = called(command, tmp_path, *more)
    assert (code, out) == (2, b"")
    assert error.startswith("collector: this is no batch directory")
    assert error.count("\n") == 1
    assert called(command, tmp_path / "missing", *more)[0] == 2
    assert called(command, "", *more)[0] == 2


def test_a_template_that_is_none_is_2(batch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", os.fspath(batch), "{nothing}"]) == 2
    assert "has a field {nothing}" in capsys.readouterr().err


def test_only_the_words_that_must_be_there_are_missed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["cat"])
    assert capsys.readouterr().err.endswith("the following arguments are required: DIR\n")
