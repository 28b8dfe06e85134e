"""`collector run` over inputs of all kinds: hostile, none, very many; and all killed."""

import os
import subprocess
from pathlib import Path

import pytest

from collector import Batch
from tests.support.leaks import descendants, is_running, wait_until
from tests.support.running import QUIET, RUN, on_terminal, run
from tests.support.tree import kill_at_once

HOSTILE = [
    b"a b", b"'", b'"', b"$(touch pwned)", b"`touch pwned`", b"a\nb", b"\t", b"!", b"~", b"*",
    b"-n", b"--help", b"\xff\xfe", b"", b";touch pwned", b"{}", b"\\", b"#", b"%s", b"$HOME",
]  # fmt: skip


@pytest.mark.parametrize("words", [["printf", "%s|", "{}"], ["printf '%s|' {}"]])
def test_an_input_is_data_whatever_it_holds(words: list[str], tmp_path: Path) -> None:
    ended = run("-k", "-0", *words, stdin=b"\0".join(HOSTILE) + b"\0", where=tmp_path)
    assert ended.returncode == 0
    assert ended.stdout.split(b"|")[:-1] == HOSTILE
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_an_input_of_a_megabyte_fails_its_job_alone_and_is_data_for_a_function(
    tmp_path: Path,
) -> None:
    stdin = b"x" * 2**20 + b"\nsmall\n"
    ended = run("-k", "printf %s {}", stdin=stdin, quiet=False)
    assert (ended.returncode, ended.stdout) == (1, b"small")
    assert b"longer than the system takes" in ended.stderr
    assert len(ended.stderr) < 10_000
    (tmp_path / "mine.py").write_text("def work(x):\n    print(len(x))\n")
    ended = run("-k", "--python", "mine:work", stdin=stdin, where=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, b"1048576\n5\n")


@pytest.mark.parametrize("kept", [[], ["-o", "B"]])
@pytest.mark.parametrize(
    "count",
    [pytest.param(1500, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.campaign)],
)
def test_thousands_of_inputs_and_none(kept: list[str], count: int, tmp_path: Path) -> None:
    stdin = b"".join(b"%d\n" % number for number in range(count))
    ended = run("-k", *kept, "echo", stdin=stdin, where=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, stdin)
    again = run("-k", *kept, "echo", where=tmp_path)
    assert (again.returncode, again.stdout, again.stderr) == (0, b"", b"")


@pytest.mark.campaign
def test_memory_is_flat_over_a_hundred_thousand_inputs_from_stdin() -> None:
    """The second half of them takes no more than the first has taken."""
    with subprocess.Popen(
        [*RUN, *QUIET, "--python", "builtins:len"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        sizes = []
        for _ in range(4):
            process.stdin.write(b"a line of input\n" * 25_000)  # taken as it is needed: a pipe
            process.stdin.flush()
            sizes.append(resident_kib(process.pid))
        process.stdin.close()
    assert process.returncode == 0
    assert sizes[3] - sizes[1] < 4096, sizes


def resident_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


@pytest.mark.slow
def test_when_every_process_is_killed_retry_runs_what_is_missing(tmp_path: Path) -> None:
    script = "echo {} >> ran; [ -e ok ] || [ {} -lt 3 ] || sleep 1000; echo out {}"
    inputs = [str(number) for number in range(8)]
    words = [*RUN, *QUIET, "-j2", "-o", "B", script, ":::", *inputs]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: len(lines_of(tmp_path / "ran")) == 5)
        kill_at_once(lambda: [process.pid, *(one.pid for one in descendants(process.pid))])
    (tmp_path / "ran").unlink()
    (tmp_path / "ok").touch()
    ended = run("-k", "--retry", "B", where=tmp_path)
    assert ended.returncode == 0
    assert not {"0", "1", "2"} & set(lines_of(tmp_path / "ran"))
    # What was never read is known to nobody: the same line has it.
    ended = run("-k", "-o", "B", script, ":::", *inputs, where=tmp_path)
    assert (ended.returncode, ended.stdout.count(b"out")) == (0, len(inputs))
    with Batch.open(tmp_path / "B") as batch:
        assert {r.input: r.output().read() for r in batch} == {
            name: f"out {name}\n".encode() for name in inputs
        }
        assert batch.verify() == []
    subprocess.run([*RUN[:-1], "gc"], check=True, capture_output=True)  # the entry of the killed


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.slow
def test_on_a_terminal_of_twenty_columns_no_line_of_ours_is_wider(tmp_path: Path) -> None:
    line = "stty rows 24 cols 20; $RUN -j2 'sleep 0.3; exit {}' ::: 0 1 0; echo status $?"
    with on_terminal(line, tmp_path) as shell:
        seen = shell.read_until(b"status 1")
    rows = [part.partition(b"\x1b[K")[0] for part in seen.split(b";1H")[1:]]
    assert rows
    assert max(len(row.decode()) for row in rows) <= 20


@pytest.mark.slow
def test_a_terminal_that_is_closed_ends_the_run_and_its_jobs(tmp_path: Path) -> None:
    with on_terminal("$RUN -j1 'echo $$ > pid; sleep 1000; {}' ::: a", tmp_path) as shell:
        wait_until(lambda: bool(lines_of(tmp_path / "pid")))
        job = int(lines_of(tmp_path / "pid")[0])
        tree = [one.pid for one in descendants(shell.pid)]
        assert job in tree
        with open(os.devnull, "r+b") as nothing:
            os.dup2(nothing.fileno(), shell.screen_fd)  # nobody holds the terminal any more
        assert wait_until(lambda: not any(map(is_running, tree)))


@pytest.mark.slow
def test_a_module_that_ends_the_program_when_it_is_loaded_is_named(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("import sys\nsys.exit('usage: ends.py FILE')\n")
    ended = run("--python", "ends:work", ":::", "a", "b", where=tmp_path)
    assert ended.returncode == 255
    assert ended.stderr == b"collector: cannot load ends:work: SystemExit: usage: ends.py FILE\n"


@pytest.mark.slow
def test_what_a_module_prints_when_it_is_loaded_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "talks.py").write_text(
        "import os, subprocess\n"
        "print('loading')\n"
        "os.write(1, b'raw\\n')\n"
        "subprocess.run(['echo', 'child'])\n"
        "def work(text):\n    print(text)\n"
    )
    ended = run("-j1", "-k", "--python", "talks:work", ":::", "a", "b", where=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, b"a\nb\n")
    assert sorted(ended.stderr.split()) == [b"child", b"loading", b"raw"]
    silent = ["sh", "-c", '"$@" 2>&-', "sh", *RUN, *QUIET, "-j1", "--python", "talks:work"]
    alone = subprocess.run([*silent, ":::", "a"], cwd=tmp_path, capture_output=True, check=True)
    assert alone.stdout == b"a\n"
