"""What GNU parallel prints and returns, where the two mean the same: byte for byte."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.running import run

pytestmark = pytest.mark.skipif(
    shutil.which("parallel") is None, reason="GNU parallel is not installed"
)

PATHS = ["a/b.c.d", "x/", "/r", "./q.tar.gz", "..x", "plain", "a.b/c"]
BINARY = "head -c {} /dev/zero | tr '\\000' '\\377'"
SIZES = ["0", "1", "65535", "65536", "65537", "5242880", "20000000"]


def parallel(*words: str, stdin: bytes = b"", where: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["parallel", *words], input=stdin, cwd=where, capture_output=True, check=False, timeout=300
    )


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


SAME = {
    "appended": ["echo", ":::", "a", "b", "c"],
    "quoted": ["echo {}", ":::", "a", "b"],
    "paths": ["echo {} {.} {/} {//} {/.} {#}", ":::", *PATHS],
    "combinations": ["echo {1}-{2} {2.}", ":::", "a", "b", ":::", "1.x", "2.y"],
    "linked": ["echo", ":::", "a", "b", "c", ":::+", "1", "2"],
    "from the end": ["echo {1} {-1}", ":::", "a", ":::", "b", ":::", "c"],
    "groups": ["-n2", "echo", ":::", *numbers(5)],
    "groups joined": ["-n3", "echo x{}y {2}", ":::", *numbers(3)],
    "columns": ["--colsep", ",", "echo {2}{1}", ":::", "a,b", "c,d"],
    "columns that are not there": ["-C", ",", "echo", "{2}", "{1}", "x{2}", ":::", "a,b", "c"],
    "columns that are not there, quoted": ["-C", ",", "echo {2} {1} x{2} '{2}'", ":::", "a,b", "c"],
    "header": ["--header", ":", "echo {x}={y}", ":::", "x", "1", "2", ":::", "y", "3", "4"],
    "tags": ["--tag", "printf '%s\\n%s' {} z", ":::", "a", "b"],
    "tags of nothing": ["--tag", "true {}", ":::", "a"],
    "binary": [BINARY, ":::", *SIZES],
    "text": ["seq {}", ":::", "0", "1", "100000", "2000000"],
    "programs": ["cat {}", ":::", "/bin/true", "/bin/ls"],
    "stderr": ["echo {} >&2", ":::", "a"],
    "both": ["echo {}; echo {} >&2; echo {}", ":::", "a"],
    "loops": ["for i in 1 2; do echo {} $i; done", ":::", "a", "b"],
    "pipes": ["seq {} | sort -r | head -n 3", ":::", "10", "20"],
    "inner": ["echo $(echo {} | tr a b)", ":::", "a", "ba"],
    "one fails": ["exit {}", ":::", "0", "1", "0"],
    "some fail with output": ["echo {}; exit {}", ":::", "0", "3", "5"],
    "killed": ["echo {}; kill -9 $$", ":::", "1", "2", "3"],
    "a hundred fail": ["false {}", ":::", *numbers(100)],
    "more fail": ["false {}", ":::", *numbers(101)],
    "many fail": ["false {}", ":::", *numbers(130)],
    "no such program": ["no-such-program {}", ":::", "a"],
    "no inputs": ["echo", ":::"],
    "an empty one": ["echo x{}", ":::", ""],
    "halt now": ["--halt", "now,fail=1", "exit {}", ":::", "7"],
    "halt now by a signal": ["--halt", "now,fail=1", "kill -9 $$; : {}", ":::", "7"],
    "halt now with another": ["-j2", "--halt", "now,fail=1", "sleep {}; exit 9", ":::", "0", "99"],
    "halt soon": ["-j1", "--halt", "soon,fail=2", "exit {}", ":::", "7", "5", "3"],
    "halt by success": ["-j1", "--halt", "now,success=1", "exit {}", ":::", "7", "5", "0", "3"],
    "halt by ends": ["-j1", "--halt", "now,done=2", "exit {}", ":::", "7", "5", "0", "3"],
    "halt by percent": ["-j1", "--halt", "soon,fail=30%", "exit {}", ":::", *"7503110000"],
    "halt by percent at once": ["-j1", "--halt", "now,fail=1%", "exit {}", ":::", *"70000"],
    "halt by percent that is not reached": ["--halt", "soon,fail=90%", "exit {}", ":::", *"703050"],
    "halt by success that never comes": ["--halt", "now,success=50%", "exit {}", ":::", *"753"],
    "time limit": ["--timeout", "1", "echo {}; sleep {}", ":::", "0", "60"],
    "rehearsal": ["--dry-run", "echo {} x", ":::", "a", "b c"],
}  # fmt: skip

SAID_BEFORE = {
    *("quoted", "groups joined", "tags of nothing", "programs", "loops", "inner", "an empty one"),
    *("stderr", "one fails", "a hundred fail", "many fail", "halt now by a signal"),
    *("halt by ends", "halt by percent at once", "halt by percent that is not reached"),
    *("halt by success that never comes", "linked"),
}
"""Campaigns: much of what they do another of them does, too."""
QUOTED_APART = {"rehearsal"}
"""GNU parallel quotes with backslashes, we with quotes: the same to a shell."""


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.campaign if case in SAID_BEFORE else pytest.mark.slow)
        for case in sorted(SAME.keys() - QUOTED_APART)
    ],
)
def test_the_same_line_prints_and_returns_the_same(case: str, tmp_path: Path) -> None:
    words = ["-k", *SAME[case]]
    theirs, ours = parallel(*words, where=tmp_path), run(*words, where=tmp_path)
    assert ours.stdout == theirs.stdout
    assert ours.returncode == theirs.returncode
    if case in {"stderr", "both"}:
        assert ours.stderr == theirs.stderr


@pytest.mark.slow
@pytest.mark.parametrize("separator", [b"\n", b"\0"])
def test_inputs_from_stdin_are_the_same(separator: bytes, tmp_path: Path) -> None:
    items = [b"a b", b"", b"'", b"\\", b"$HOME", b"*", b"\xff", b"-n", b"x" * 50_000, b"last"]
    if separator == b"\0":
        items.insert(3, b"a\nb")
    stdin = separator.join(items)
    words = ["-k", *(["-0"] if separator == b"\0" else []), "printf '%s|' {}"]
    theirs = parallel(*words, stdin=stdin, where=tmp_path)
    ours = run(*words, stdin=stdin, where=tmp_path)
    assert ours.stdout == theirs.stdout
    assert ours.returncode == theirs.returncode == 0


@pytest.mark.slow
def test_a_hundred_jobs_of_all_sizes_some_failing_some_killed_are_the_same(tmp_path: Path) -> None:
    script = (
        "n={}; seq $((n * n * 37 % 90001)); head -c $((n * 7919 % 300007)) /dev/zero; "
        "case $n in *3) exit 3;; *7) kill -9 $$;; esac"
    )
    words = ["-k", "-j4", script, ":::", *numbers(100)]
    theirs, ours = parallel(*words, where=tmp_path), run(*words, where=tmp_path)
    assert ours.stdout == theirs.stdout
    assert ours.returncode == theirs.returncode == 20


@pytest.mark.slow
def test_the_log_of_jobs_has_the_same_columns(tmp_path: Path) -> None:
    words = ["-k", "-j1", "--joblog", "log", "echo {}; exit {}", ":::", "0", "3"]
    found = []
    for runner in (parallel, run):
        runner(*words, where=tmp_path)
        head, *rows = (tmp_path / "log").read_text().splitlines()
        cells = [row.split("\t") for row in rows]
        found.append((head, [(row[0], row[1], *row[4:]) for row in cells]))
    theirs, ours = found
    assert ours[0] == theirs[0]
    # `Receive` is what was written to stdout: GNU parallel knows it only of remote jobs.
    assert [(*row[:3], *row[4:]) for row in ours[1]] == [(*row[:3], *row[4:]) for row in theirs[1]]
