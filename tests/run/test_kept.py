"""`collector run -o`, `--save`, `--retry`: what is kept, continued and refused."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from collector import Batch
from collector.cli.program import main
from tests.support.disks import small_disk
from tests.support.leaks import wait_until
from tests.support.running import QUIET, RUN, run

pytestmark = pytest.mark.slow

PLAIN_ROOT = """
import sys
from collector.cli.program import main
from tests.support.otheruser import lose_privileges
lose_privileges()
sys.exit(main(sys.argv[1:]))
"""
"""A program for which the mode of a file holds, also if root runs it."""
HOSTILE = ["a b", "'", "$(touch pwned)", "a\nb", "(x", "()", "('a', 'b')", os.fsdecode(b"\xff"), ""]


def ran(where: Path) -> list[str]:
    """Return which inputs have run since the last time."""
    log = where / "ran"
    found = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return sorted(found)


def test_the_same_line_again_runs_what_has_failed_and_prints_all(tmp_path: Path) -> None:
    script = "echo {} >> ran; echo out {}; echo err {} >&2; [ -e ok ] || [ {} != b ]"
    line = ["-k", "-o", "B", script, ":::", "a", "b", "c"]
    assert run(*line, where=tmp_path).returncode == 1
    assert ran(tmp_path) == ["a", "b", "c"]
    (tmp_path / "ok").touch()
    again = run(*line, where=tmp_path)
    assert (again.returncode, again.stdout) == (0, b"out a\nout b\nout c\n")
    assert ran(tmp_path) == ["b"]
    third = run("--only-new", *line, "d", where=tmp_path)
    assert (third.returncode, third.stdout) == (0, b"out d\n")
    with Batch.open(tmp_path / "B") as batch:
        records = {record.input: record for record in batch}
        assert records["b"].output().read() == b"out b\n"
        assert records["b"].log().read() == b"err b\n"
        assert [attempt.exitcode for attempt in records["b"].attempts] == [1, 0]
        assert batch.verify() == []


@pytest.mark.parametrize(
    ("size", "new", "status"),
    [
        pytest.param(10, b"", 1, id="in a pack, which takes nothing new either"),
        pytest.param(100_000, b"b\n", 255, id="in a file"),
    ],
)
def test_a_result_that_cannot_be_read_keeps_no_other_job_from_running(
    size: int, new: bytes, status: int, tmp_path: Path
) -> None:
    line = ["-k", "-o", "B", f"[ {{}} = b ] || head -c {size} /dev/zero; echo {{}}", ":::", "a"]
    assert run(*line, where=tmp_path).returncode == 0
    (stored,) = [
        file for kind in ("pack-*", "files/*/*.out") for file in (tmp_path / "B/shard-0").glob(kind)
    ]
    stored.chmod(0)

    def again(*line: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-c", PLAIN_ROOT, "run", *QUIET, *line],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.fspath(Path(__file__).parents[2])},
            capture_output=True,
            check=False,
        )

    ended = again(*line, "b")
    assert (ended.returncode, ended.stdout) == (status, new)
    assert b"cannot print the output of" in ended.stderr
    assert b"Permission denied" in ended.stderr
    assert b"lost" not in ended.stderr  # it is there
    assert again("--only-new", *line).stderr == b""
    stored.chmod(0o600)
    assert run(*line, "b", where=tmp_path).stdout == bytes(size) + b"a\nb\n"


def test_attempts_are_kept_apart_and_go_on_over_all_runs(tmp_path: Path) -> None:
    script = "echo $COLLECTOR_ATTEMPT; [ $COLLECTOR_ATTEMPT = 4 ] && : {}"
    line = ["--attempts", "2", "-o", "B", script, ":::", "a"]
    assert run(*line, where=tmp_path).stdout == b"2\n"
    ended = run(*line, where=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, b"4\n")
    with Batch.open(tmp_path / "B") as batch:
        (record,) = batch
        assert [attempt.status for attempt in record.attempts] == ["error"] * 3 + ["done"]


def test_retry_runs_what_is_missing_whatever_its_inputs_are(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    script = "[ -e ok ] && printf '%s|' {}"
    line = ["-k", "-0", "-o", "B", script]
    stdin = b"\0".join(map(os.fsencode, HOSTILE)) + b"\0"
    assert run(*line, stdin=stdin, where=tmp_path).returncode == len(HOSTILE)
    (tmp_path / "ok").touch()
    ended = run("-k", "--retry", "B", where=tmp_path)
    assert ended.returncode == 0
    assert [os.fsdecode(item) for item in ended.stdout.split(b"|")[:-1]] == HOSTILE
    assert run("--retry", "B", where=tmp_path).stdout == b""
    with contextlib.chdir(tmp_path):
        with Batch.open("B") as batch:
            assert {"(x", "()"} <= {record.input for record in batch}
        for text in HOSTILE:
            assert main(["cat", "B", text]) == 0, text
            assert capfdbinary.readouterr().out == os.fsencode(text) + b"|"
    assert not (tmp_path / "pwned").exists()


def test_retry_knows_all_that_makes_the_command(tmp_path: Path) -> None:
    line = ["-o", "B", "--shell", "bash", "[[ -e ok ]] && echo $BASH {1} {y}", "--header", ":"]
    del line[5:]
    words = ["--header", ":", *line, ":::", "x", "1", ":::", "y", "2", "3"]
    assert run(*words, where=tmp_path).returncode == 2
    (tmp_path / "ok").touch()
    ended = run("-k", "--retry", "B", where=tmp_path)
    assert [line.split(b" ", 1)[1] for line in ended.stdout.splitlines()] == [b"1 2", b"1 3"]


def test_another_command_is_refused_and_shown(tmp_path: Path) -> None:
    run("-o", "B", "echo {}", ":::", "a", where=tmp_path)
    ended = run("-o", "B", "echo other {}", ":::", "a", where=tmp_path)
    assert ended.returncode == 255
    assert b"echo {}" in ended.stderr
    assert b"echo other {}" in ended.stderr
    assert b"Errno" not in ended.stderr


def test_a_rehearsal_says_why_each_job_would_run(tmp_path: Path) -> None:
    line = ["-o", "B", "[ {} != b ]", ":::", "a", "b"]
    run(*line, where=tmp_path)
    said = run("--dry-run", *line, "c", where=tmp_path).stdout.decode().splitlines()
    assert ["does not run" in text for text in said] == [True, False, False]
    assert "attempt 1 failed" in said[1]


def test_what_a_rehearsal_prints_is_for_a_shell_whatever_the_inputs_are(tmp_path: Path) -> None:
    stdin = b"\0".join(map(os.fsencode, HOSTILE)) + b"\0"
    said = run("--dry-run", "-0", "printf", "%s|", "{}", stdin=stdin, where=tmp_path).stdout
    ran_by_shell = subprocess.run(["sh"], input=said, capture_output=True, check=True)
    assert ran_by_shell.stdout.split(b"|")[:-1] == [os.fsencode(text) for text in HOSTILE]


def test_a_rehearsal_knows_inputs_that_stand_twice_apart_and_refuses_another_command(
    tmp_path: Path,
) -> None:
    line = ["-o", "B", "[ {#} != 2 ]", ":::", "a", "a", "a"]
    assert run(*line, where=tmp_path).returncode == 1
    for words in (line, ["--retry", "B"]):
        said = run("--dry-run", *words, where=tmp_path).stdout.decode().splitlines()
        assert ["does not run" in text for text in said] == [True, False, True]
    other = run("--dry-run", "-o", "B", "[ {#} != 3 ]", ":::", "a", where=tmp_path)
    assert (other.returncode, other.stdout) == (255, b"")
    assert b"take another directory" in other.stderr


def test_retry_after_two_lines_has_a_number_for_each_input(tmp_path: Path) -> None:
    line = ["-o", "B", "echo {#}:{}; false", ":::"]
    run(*line, "a", "b", where=tmp_path)
    run(*line, "c", "d", where=tmp_path)
    ended = run("-k", "--retry", "B", where=tmp_path)
    assert (ended.returncode, ended.stdout) == (4, b"1:a\n2:c\n3:b\n4:d\n")


def test_what_was_done_before_names_were_given_is_saved_and_not_run_again(tmp_path: Path) -> None:
    line = ["-k", "-o", "B", "echo {} >> ran; echo out {}", ":::", "a", "b", "c"]
    assert run(*line, where=tmp_path).returncode == 0
    assert ran(tmp_path) == ["a", "b", "c"]
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.txt").write_bytes(b"mine.\n")  # as long as the output is
    told = run("--save", "out/{}.txt", *line, "d", where=tmp_path)
    assert (told.returncode, ran(tmp_path)) == (255, ["d"])
    assert told.stderr.count(b"cannot save the output of") == 1
    assert b"has that name: move it away" in told.stderr
    assert (out / "b.txt").read_bytes() == b"mine.\n"
    (out / "b.txt").unlink()
    for _ in range(2):
        assert run("--save", "out/{}.txt", *line, "d", where=tmp_path).returncode == 0
        found = {file.name: file.read_bytes() for file in out.iterdir()}
        assert found == {f"{name}.txt": f"out {name}\n".encode() for name in "abcd"}
    assert ran(tmp_path) == []


@pytest.mark.parametrize("kept", [[], ["-o", "B"]])
def test_equal_inputs_have_one_name_which_the_first_one_gets(
    tmp_path: Path, kept: list[str]
) -> None:
    words = ["-j1", *kept, "--save", "out/{}.txt", "echo {} {#}"]
    told = run(*words, ":::", "a", "a", where=tmp_path, quiet=False)
    assert told.returncode == 1
    assert b"'out/a.txt' is the name of the output of " in told.stderr
    assert (tmp_path / "out" / "a.txt").read_bytes() == b"a 1\n"


def test_outputs_are_saved_under_their_names_and_not_printed(tmp_path: Path) -> None:
    ended = run("--save", "out/{/.}.txt", "echo {}", ":::", "x/a.b", "y/c", where=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, b"")
    assert (tmp_path / "out" / "a.txt").read_text() == "x/a.b\n"
    assert (tmp_path / "out" / "c.txt").read_text() == "y/c\n"


@pytest.mark.parametrize("kept", [[], ["-o", "B"]])
def test_a_name_that_leads_out_or_is_taken_fails_its_job_alone(
    kept: list[str], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("of the user")
    words = ["-j1", *kept, "--save", "out/{}.txt", "echo {}"]
    ended = run(*words, ":::", "../x", "a", "./a", "mine", where=tmp_path, quiet=False)
    assert ended.returncode == 3
    assert sorted(os.listdir(tmp_path / "out")) == ["a.txt", "mine.txt"]
    assert (tmp_path / "out" / "mine.txt").read_text() == "of the user"
    assert not (tmp_path / "x.txt").exists()
    told = ended.stderr.decode()
    for why in ("leads out", "is the name", "of yours has that name: move it away (out/mine.txt)"):
        assert told.count(why) == 2, told  # in its line, and in the digest of failures
    assert "Errno" not in told


@pytest.mark.parametrize("kept", [[], ["-o", "B"]], ids=["alone", "kept"])
def test_a_job_whose_output_cannot_get_its_name_is_not_run_and_paid_for(
    kept: list[str], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "mine.txt"
    mine.touch()
    words = [*kept, "-j1", "--attempts", "3", "--save", "out/{}.txt", "echo {} >> ran; echo {}"]
    assert run(*words, ":::", "mine", "../x", "a", "./a", where=tmp_path).returncode == 3
    assert ran(tmp_path) == ["a"]
    mine.unlink()
    if kept:
        told = run("--retry", "B", where=tmp_path)
        assert (told.returncode, ran(tmp_path)) == (2, ["mine"])
        assert (tmp_path / "out" / "a.txt").read_text() == "a\n"
    else:
        assert run(*words, ":::", "mine", "a", where=tmp_path).returncode == 1
        assert ran(tmp_path) == ["mine"]
    assert mine.read_text() == "mine\n"


@pytest.mark.parametrize("kept", [[], ["-o", "B"]], ids=["alone", "kept"])
def test_a_name_that_somebody_takes_while_the_job_runs_is_refused_at_its_end(
    kept: list[str], tmp_path: Path
) -> None:
    script = "mkdir -p out; echo mine > out/{}.txt; echo of the job"
    ended = run(*kept, "--save", "out/{}.txt", script, ":::", "a", where=tmp_path, quiet=False)
    assert ended.returncode == 1
    assert ended.stderr.count(b"a file of yours has that name: move it away (out/a.txt)") == 2
    assert (tmp_path / "out" / "a.txt").read_text() == "mine\n"


def test_a_batch_on_a_full_disk_fails_what_does_not_fit_and_goes_on(tmp_path: Path) -> None:
    with small_disk(tmp_path, 8 * 2**20) as disk:
        line = ["-k", "-j1", "-o", os.fspath(disk / "B"), "head -c {} /dev/zero"]
        ended = run(*line, ":::", "1000", "30000000", "2000", quiet=False)
        assert ended.returncode == 1
        assert len(ended.stdout) == 3000
        assert b"No space left" in ended.stderr
        with Batch.open(disk / "B") as batch:
            assert batch.status()["done"] == 2
            assert batch.verify() == []
        again = run(*line, ":::", "1000", "2000")
        assert (again.returncode, len(again.stdout)) == (0, 3000)


def test_a_rehearsal_says_why_on_the_line_of_the_command(tmp_path: Path) -> None:
    error = 'ValueError("two\\ntouch pwned \\x1b[31m")'
    (tmp_path / "lengths.py").write_text(f"def f(text):\n    raise {error}\n")
    line = ["-o", "B", "--python", "lengths:f", ":::", "a", "b"]
    assert run(*line, where=tmp_path).returncode == 2
    (tmp_path / "lengths.py").write_text(f"raise {error}\n")
    told = run("--dry-run", *line, where=tmp_path).stdout.decode()
    assert told.isascii()
    assert [text.split("  # ")[0] for text in told.split("\n")] == [
        "lengths:f('a')",
        "lengths:f('b')",
        "",
    ]
    ended = run(*line, where=tmp_path)
    assert ended.stderr.decode().splitlines() == [
        "collector: cannot load lengths:f: ValueError: two\\ntouch pwned \\x1b[31m"
    ]


def test_a_rehearsal_says_of_a_command_how_it_ended(tmp_path: Path) -> None:
    line = ["-o", "B", "exit 2", ":::", "a"]
    assert run(*line, where=tmp_path).returncode == 1
    told = run("--dry-run", *line, where=tmp_path).stdout
    assert told == b"exit 2 a  # runs: attempt 1 failed (exit status 2)\n"


def test_a_locale_that_lacks_the_letters_of_an_input_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("-o", "B", "echo {}; [ -e ok ]", ":::", "\xe9", "a", where=tmp_path).returncode == 2
    (tmp_path / "ok").touch()
    for name, value in (("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(name, value)
    told = run("--retry", "B", "--dry-run", where=tmp_path).stdout.decode()
    assert [text.split("; ")[0] for text in told.splitlines()] == ["echo '\xe9'", "echo a"]
    words = ["--retry", "B", "-k", "--tag", "--joblog", "log"]
    assert run(*words, where=tmp_path).stdout == b"a\ta\n"
    assert "echo '\xe9'" in (tmp_path / "log").read_text("utf-8")


def test_saving_on_a_full_disk_leaves_nothing_half(tmp_path: Path) -> None:
    with small_disk(tmp_path, 4 * 2**20) as disk:
        template = os.fspath(disk / "{}.bin")
        ended = run(
            "-j1",
            "--save",
            template,
            "head -c {} /dev/zero",
            ":::",
            "1000",
            "20000000",
            quiet=False,
        )
        assert ended.returncode == 1
        assert os.listdir(disk) == ["1000.bin"]


def test_a_tree_that_was_killed_is_continued_with_retry(tmp_path: Path) -> None:
    script = "echo {} >> ran; [ -e ok ] || [ {} = 1 ] || sleep 1000; echo out {}"
    words = [*RUN, *QUIET, "-j2", "-o", "B", script, ":::", "1", "2", "3", "4"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"out 1\n"
        wait_until(lambda: len((tmp_path / "ran").read_text().split()) == 3)
        process.send_signal(signal.SIGKILL)
    ran(tmp_path)
    (tmp_path / "ok").touch()
    ended = run("-k", "--retry", "B", where=tmp_path)
    assert ended.returncode == 0
    assert "1" not in ran(tmp_path)
    with Batch.open(tmp_path / "B") as batch:
        found = {record.input: record.output().read() for record in batch}
    assert found["1"] == b"out 1\n"
    assert {found[name] for name in found} >= {b"out 2\n", b"out 3\n"}
