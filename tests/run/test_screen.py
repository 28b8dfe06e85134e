"""What `collector run` shows of its jobs: on a terminal, when asked, and at the end."""

import os
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from tests.support.person import Person
from tests.support.running import RUN, on_terminal, run

LONG = "echo {} >> ran; if [ -e no ]; then echo a long script that nobody wants to read; fi; exit 3"


def program(where: Path) -> Path:
    """Return a script that is the program."""
    script = where / "run.py"
    script.write_text("import sys\nfrom collector.cli.program import main\nsys.exit(main())\n")
    return script


@pytest.mark.slow
@pytest.mark.parametrize("words", [["ls", "-d", "{}"], [LONG]])
def test_a_job_is_named_so_that_its_input_is_seen(words: list[str], tmp_path: Path) -> None:
    ended = run(*words, ":::", "/no/such-file", where=tmp_path, quiet=False)
    name = " ".join(words).replace("{}", "/no/such-file") if len(words) > 1 else "/no/such-file"
    assert f"  {name}: exit status".encode() in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["-o", "B"], ["--attempts", "2"]])
def test_the_digest_has_the_end_of_what_a_failed_job_said(words: list[str], tmp_path: Path) -> None:
    script = "printf '%s\\n' a b c d e f >&2; exit {}"
    ended = run(*words, script, ":::", "3", where=tmp_path, quiet=False)
    digest = ended.stderr.partition(b"Summary")[2]
    assert [line.strip() for line in digest.splitlines()[-7:] if len(line.strip()) == 1] == [
        b"b", b"c", b"d", b"e", b"f",
    ]  # fmt: skip


def test_t_prints_the_last_line_of_each_running_job(tmp_path: Path) -> None:
    script = "echo first {}; echo last-of-{}; until [ -e go ]; do sleep 0.05; done"
    with on_terminal(f"stty rows 24 cols 100; $RUN -j2 '{script}' ::: x y", tmp_path) as shell:
        shell.read_until(b" 36B")  # all of what they write
        shell.press(b"t")
        shell.read_until(b"    last-of-x\x1b")
        shell.read_until(b"    last-of-y\x1b")
        (tmp_path / "go").touch()
        shell.read_until(b"2 passed")


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGQUIT, marks=pytest.mark.slow)]
)
def test_when_it_is_killed_its_sink_gives_the_terminal_back(number: int, tmp_path: Path) -> None:
    cooked = termios.ICANON | termios.ECHO
    with Person(80, 24) as person:
        person.run(program(tmp_path), "run", "-j1", "echo {}; sleep 1000", ":::", "a")
        person.wait_for(lambda: "2B" in person.rows[-1] and person.screen.margins)
        assert not person.mode[3] & cooked
        os.kill(person.pid, number)
        assert person.wait() == -number
        assert person.screen.margins is None
        assert person.mode[3] & cooked == cooked


def test_on_one_row_lines_and_what_jobs_print_are_apart(tmp_path: Path) -> None:
    with Person(80, 1) as person:
        words = ["run", "--show", "all", "-j1", "echo output {}", ":::", "a", "b"]
        person.run(program(tmp_path), *words)
        assert person.wait() == 0
        lines = [line for line in person.lines if line]
    assert [line for line in lines if line.startswith("output")] == ["output a", "output b"]
    passed = [line for line in lines if line.startswith("        PASS [")]
    assert [line.rpartition("  ")[2] for line in passed] == ["echo output a", "echo output b"]
    assert lines[-1].startswith("     Summary [")


@pytest.mark.slow
def test_sigusr1_asks_for_the_same_where_there_is_no_terminal(tmp_path: Path) -> None:
    script = (
        "head -c 300000 /dev/zero | tr '\\0' x; echo; echo half {}; : > up; while [ ! -e go ]; "
    )
    words = [*RUN, f"{script} do sleep 0.05; done", ":::", "a"]
    with subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        while not (tmp_path / "up").exists():
            os.sched_yield()
        said = b""
        while b"half a" not in said:  # what it has written may still be on its way
            process.send_signal(signal.SIGUSR1)
            said += process.stderr.readline()
        (tmp_path / "go").touch()
        said += process.stderr.read()
    assert process.returncode == 0
    assert b"RUNNING" in said


@pytest.mark.slow
def test_on_a_terminal_what_would_run_is_shown_and_steers_nothing(tmp_path: Path) -> None:
    steers = "\x1b]0;x\x07\r"
    (tmp_path / "inputs").write_text(f"a{steers}\n")
    with on_terminal("$RUN --dry-run 'echo {} | cat' :::: inputs; echo OVER", tmp_path) as shell:
        shown = shell.read_until(b"\r\nOVER")
    assert b"echo 'a\\x1b]0;x\\x07\\r' |" in shown
    assert b"\x1b]0" not in shown
    read = run("--dry-run", "-a", "inputs", "echo", where=tmp_path).stdout
    assert read == f"echo 'a{steers}'\n".encode(), "a shell is to read the same bytes"


@pytest.mark.slow
def test_nothing_is_shown_before_the_log_of_jobs_is_open(tmp_path: Path) -> None:
    ended = run("--joblog", "no/such", "echo", ":::", "a", where=tmp_path, quiet=False)
    assert ended.returncode == 255
    assert ended.stderr == b"collector: No such file or directory (no/such)\n"


PUT_OFF = """
import os, time
from collector import Collector, RetryLater
def work(waits):
    while not (waits and os.path.exists(os.environ["GO"])):
        time.sleep(0.05)
    raise RetryLater(3600, resource="gate")
with Collector(max_workers=2) as collector:
    list(collector.collect(work, [True, False]))
"""
RUNS = "import sys\nfrom collector.cli.program import main\nsys.exit(main())\n"
AT_GATE = 'until [ {} = a ] && [ -e "$GO" ]; do sleep 0.05; done; exit 75'


@pytest.mark.parametrize(
    ("script", "words", "runs"),
    [
        pytest.param(PUT_OFF, [], "work-2", id="collect"),
        pytest.param(
            RUNS,
            ["run", "--later=3600", "--resource=gate", AT_GATE, ":::", "a", "b"],
            "b",
            id="run",
        ),
    ],
)
def test_a_job_that_waits_at_a_gate_is_not_shown_as_one_that_runs(
    script: str, words: list[str], runs: str, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(script)
    with Person(100, 24, GO=str(tmp_path / "go")) as person:

        def rows() -> list[str]:
            names = [row.partition(": 0B [") for row in person.rows]
            return [name.strip() for name, is_row, _ in names if is_row]

        person.run(tmp_path / "script.py", *words)
        person.wait_for(lambda: len(rows()) == 2)
        (tmp_path / "go").touch()
        person.wait_for(lambda: any(row.startswith("  waiting: ") for row in person.rows))
        person.wait_for(lambda: [name.endswith(runs) for name in rows()] == [True])
        person.press(b"\x03")
        person.wait()


@pytest.mark.parametrize(
    "words",
    ["'cat /dev/tty || stty -echo < /dev/tty'", "--python asks:password"],
    ids=["command", "function"],
)
def test_a_job_has_no_terminal_so_that_none_is_stopped_for_ever_when_it_reads_there(
    words: str, tmp_path: Path
) -> None:
    (tmp_path / "asks.py").write_text("def password(name):\n    open('/dev/tty').read()\n")
    with on_terminal(f"$RUN -j1 {words} ::: a; echo status $?", tmp_path) as shell:
        assert b"No such device or address" in shell.read_until(b"status 1")
