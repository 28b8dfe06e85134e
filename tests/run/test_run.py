"""`collector run` as a person uses it: what is printed, kept, refused, and how it ends."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from collector.cli.program import main
from tests.support.leaks import wait_until
from tests.support.running import QUIET, RUN, run

OF_THE_BATCH = [
    ["-0"], ["--colsep", ","], ["--header", ":"], ["-n", "2"], ["--shuf"], ["--shell", "bash"],
    ["--no-shell"],
]  # fmt: skip
"""What a batch directory knows already."""


def refusal(*words: str) -> tuple[int, str]:
    """Return the status and the message of what is refused before anything runs."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            status = main(["run", *words])
        except SystemExit as left:
            status = int(left.code or 0)
    return status, said.getvalue()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ([], "there is no COMMAND"),
        ([":::", "echo a"], "collector run sh -c"),
        (["--retries", "2", "true"], "--attempts"),
        (["--pipe", "wc"], "not built"),
        (["-X", "echo"], "-n N"),
        *((words, "-j N") for words in (["-P", "4", "echo"], ["-P4", "echo"], ["--max-procs=4"])),
        *((words, "{} is the input") for words in (["-I@", "echo", "@"], ["-I", "@", "echo"])),
        (["-L1", "echo"], "-n N"),
        (["-vj2", "echo"], "--show all"),
        (["--lb", "echo"], "--line-buffer"),
        *(
            (words, "-n N")
            for words in (["-N2", "echo"], ["--max-lines=2", "echo"], ["-m", "echo"])
        ),
        *((words, ":::+") for words in (["--link", "echo"], ["--xapply", "echo"])),
        *((words, "--line-buffer") for words in (["-u", "echo"], ["--ungroup", "echo"])),
        *((words, "--show all") for words in (["-t", "echo"], ["-v", "echo"], ["--verbose"])),
        *((words, "leave it out") for words in (["-r", "echo"], ["--will-cite"], ["--group"])),
        *((words, "write tr ") for words in (["-d,", "echo"], ["--delimiter", ",", "echo"])),
        (["--progress", "echo"], "it is there"),
        (["--dryrun", "echo"], "write --dry-run"),
        (["-q", "echo"], "no shell reads several words"),
        (["--tagstring", "{}", "echo"], "write --tag"),
        (["--wd", "/tmp", "pwd"], "'cd DIR && ...'"),
        (["--tmpdir", "/tmp", "echo"], "write --temp-root DIR"),
        (["--env", "NAME", "echo"], "environment of collector run"),
        (["--rpl", "{f} s/a/b/", "echo"], "a shell can"),
        (["--pipepart", "wc"], "not built"),
        (["--pipe", "--bar", "wc"], "--pipe is refused"),
        (["--jobs", "0", "true", ":::", "a"], "0 jobs"),
        (["--jobs", "x", "true", ":::", "a"], "argument -j/--jobs: 'x' is no number of jobs"),
        (["-j", "100000000", "true", ":::", "a"], "argument -j/--jobs: 100000000 is too large"),
        (["-j", "1000000%", "true", ":::", "a"], "argument -j/--jobs: 1000000% is too large"),
        (["echo {1} {2}", "::::", "-", "-"], "stdin (-) can be read once only"),
        (["-a", "-", "echo {1} {2}", "::::", "-"], "stdin (-) can be read once only"),
        (["--timeout", "soon", "true", ":::", "a"], "no time"),
        (["--max-output", "much", "true", ":::", "a"], "5MiB"),
        (["--halt", "now", "true", ":::", "a"], "soon,fail=10%"),
        (["--colsep", "(", "echo", ":::", "a"], "no regular expression"),
        (["-n", "0", "echo", ":::", "a"], "from 1 on"),
        *(
            ([f"--load={load}", "true", ":::", "a"], f"argument --load: {load!r} is no load")
            for load in ("much", "nan", "0", "0%", "-1", "1e9")
        ),
        (["--save", "one.txt", "echo", ":::", "a"], "one file for all"),
        (["echo `{}`", ":::", "a"], "write $(...)"),
        (["--shell", "/no/sh", "echo {};", ":::", "a"], "no shell '/no/sh'"),
        (["--shell", "bash", "echo", "{}", ":::", "a"], "quote it"),
        (["--python", "nothing", ":::", "a"], "MODULE:FUNCTION"),
        (["--python", "./lib/extract.py:f", ":::", "a"], "as `import` does, extract:f;"),
        (["--python", "os:stat", "echo", ":::", "a"], "would be a command"),
        (["--python", "os:stat", "--max-output", "1k", ":::", "a"], "for commands"),
        (["--retry", "D", "echo", ":::", "a"], "leave out"),
        *((["--retry", "D", *words], f"leave out {words[0]}") for words in OF_THE_BATCH),
        (["--header", "x", "echo", ":::", "a"], "invalid choice"),
        *(
            ([option, "", "echo", ":::", "a"], "not an empty one")
            for option in ("-o", "--save", "--joblog", "--events", "--temp-root", "--shell")
        ),
        (["--retry", ""], "not an empty one"),
        (["--nice", "x", "true", ":::", "a"], "no niceness"),
        (["--delay", "-1", "true", ":::", "a"], "'-1' is no time"),
        (["--nice=--5", "true", ":::", "a"], "no niceness"),
        (["--delay", "99999d", "true", ":::", "a"], "longer than 36500 days"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_to_write(words: list[str], hint: str) -> None:
    status, said = refusal(*words)
    assert (status, hint in said) == (2, True), said


def test_a_file_of_inputs_that_is_missing_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *QUIET, "true", "::::", "/no/such"]) in {2, 255}
    assert "/no/such" in capfd.readouterr().err


def test_inputs_that_cannot_be_read_are_named_where_they_are_counted_first(
    capfd: pytest.CaptureFixture[str],
) -> None:
    line = ["run", *QUIET, "--halt", "soon,fail=10%", "true", "::::", "/proc/self/mem"]
    assert main(line) == 2
    assert "cannot read the inputs in '/proc/self/mem': " in capfd.readouterr().err


def test_a_file_is_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "extract.py").touch()
    status, said = refusal("--python", "extract.py:f", ":::", "a")
    assert (status, "as `import` does, extract:f;" in said) == (2, True)


def test_an_error_before_anything_runs_is_all_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = run("--temp-root", "file", "echo", ":::", "1", where=tmp_path, quiet=False)
    assert (ended.returncode, ended.stderr.count(b"\n")) == (255, 1)
    assert b"cannot use the temp root" in ended.stderr


def test_a_log_of_jobs_that_cannot_be_begun_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *QUIET, "--joblog", "/dev/full", "true", ":::", "a"]) == 255
    assert capfd.readouterr().err == "collector: No space left on device (/dev/full)\n"


def test_a_rehearsal_prints_what_would_run_and_runs_nothing(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "made"
    assert main(["run", "--dry-run", f"touch {file}; echo {{}}", ":::", "a b", "c"]) == 0
    assert main(["run", "--dry-run", "touch", os.fspath(file), "{}", ":::", "$(x)"]) == 0
    assert capfd.readouterr().out.splitlines() == [
        f"touch {file}; echo 'a b'",
        f"touch {file}; echo c",
        f"touch {file} '$(x)'",
    ]
    assert not file.exists()


def test_outputs_are_whole_blocks_in_order_and_stderr_is_apart() -> None:
    ended = run(
        "-k", "-j3", "for i in 1 2 3; do echo {} $i; echo e{} >&2; done", ":::", "a", "b", "c"
    )
    assert ended.stdout.decode() == "".join(f"{x} {i}\n" for x in "abc" for i in (1, 2, 3))
    assert ended.stderr.decode() == "".join(f"e{x}\n" * 3 for x in "abc")
    assert ended.returncode == 0


def test_a_job_has_an_empty_stdin_its_own_group_and_is_told_which_it_is() -> None:
    script = (
        "cat; echo $COLLECTOR_SEQ $COLLECTOR_ATTEMPT $COLLECTOR_SLOT {#} {%}; "
        "test $(ps -o pgid= -p $$) = $$ && echo leads"
    )
    ended = run("-k", "-j1", script, stdin=b"x\ny\n")
    assert ended.stdout == b"1 1 1 1 1\nleads\n2 1 1 2 1\nleads\n"


@pytest.mark.parametrize(
    "what",
    [["env; : {}"], pytest.param(["--python", "jobs:print_them"], marks=pytest.mark.slow)],
)
def test_a_job_is_told_of_no_batch_that_it_is_not_of(
    what: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os\ndef print_them(_):\n    for name in os.environ: print(name, end='=\\n')\n"
    (tmp_path / "jobs.py").write_text(code)
    monkeypatch.setenv("COLLECTOR_BATCH", "of the job that starts this run")
    alone = run(*what, ":::", "a", where=tmp_path)
    assert b"COLLECTOR_SEQ=" in alone.stdout
    assert b"COLLECTOR_BATCH=" not in alone.stdout
    kept = run("-o", "B", *what, ":::", "a", where=tmp_path)
    assert b"COLLECTOR_BATCH=" in kept.stdout


def test_what_cannot_be_started_fails_its_job_alone() -> None:
    big = b"x" * 200_000
    ended = run("-k", "-0", "echo", stdin=big + b"\0fine\0", quiet=False)
    assert (ended.stdout, ended.returncode) == (b"fine\n", 1)
    assert b"longer than the system takes" in ended.stderr
    ended = run("-k", "no-such-program", "{}", ":::", "a", quiet=False)
    assert ended.returncode == 1
    assert b"no-such-program: No such file" in ended.stderr
    assert b"no-such-program: No such file or directory; a" not in ended.stderr
    ended = run("{}", "x", ":::", "", quiet=False)
    assert b"could not be started: '': No such file" in ended.stderr


def test_one_job_less_than_there_are_cpus_and_inputs_that_end_in_a_nul() -> None:
    ended = run("-k", "-j", "-1", "-0", "echo", "-1", stdin=b"a\0b\0")
    assert (ended.returncode, ended.stdout) == (0, b"-1 a\n-1 b\n")


def test_a_script_that_is_not_the_whole_command_is_told_what_it_is_taken_for() -> None:
    for words in (["--later", "1"], ["|", "wc"]):  # an option behind it, half of a pipe
        ended = run("echo {}; true", *words, ":::", "a", quiet=False)
        assert ended.returncode == 1
        assert b"a script is one quoted text, behind the options" in ended.stderr


def test_an_empty_stdin_runs_nothing() -> None:
    ended = run("echo {}")
    assert (ended.stdout, ended.returncode) == (b"", 0)


@pytest.mark.slow
def test_the_failures_are_counted_and_told_with_the_end_of_their_stderr() -> None:
    ended = run("-j1", "echo why-{} >&2; exit {}", ":::", "0", "3", "5", quiet=False)
    said = ended.stderr.decode()
    assert ended.returncode == 2
    assert "1 passed, 2 failed" in said
    assert "exit status 3" in said
    assert said.count("why-3") >= 2  # as it was printed, and in the digest


@pytest.mark.slow
def test_attempts_are_tries_all_together_and_the_last_one_counts(tmp_path: Path) -> None:
    script = "echo $COLLECTOR_ATTEMPT; [ $COLLECTOR_ATTEMPT = {} ]"
    ended = run("-k", "--attempts", "3", script, ":::", "1", "3", "4", quiet=False)
    assert (ended.stdout, ended.returncode) == (b"1\n3\n3\n", 1)
    assert b"TRY 1 FAIL" in ended.stderr
    assert b"FLAKY" in ended.stderr


@pytest.mark.slow
def test_too_much_output_ends_a_job_with_exactly_so_much_kept() -> None:
    ended = run("--max-output", "100000", "yes {}", ":::", "abc", quiet=False)
    assert ended.stdout == (b"abc\n" * 25_000)[:100_000]
    assert ended.returncode == 1
    assert b"--max-output" in ended.stderr
    assert run("--max-output", "4", "echo {}", ":::", "abc").returncode == 0


@pytest.mark.slow
def test_a_time_limit_ends_a_job_and_its_children(tmp_path: Path) -> None:
    script = "sh -c 'echo $$ > pid; exec sleep 1000' & wait"
    ended = run("--timeout", "0.5", script + " # {}\n: {}", ":::", "a", where=tmp_path, quiet=False)
    assert ended.returncode == 1
    assert b"ran longer than its 0.5 s" in ended.stderr
    pid = int((tmp_path / "pid").read_text())
    assert not os.path.exists(f"/proc/{pid}") or "Z" in Path(f"/proc/{pid}/stat").read_text()


@pytest.mark.slow
@pytest.mark.slow
def test_a_limit_of_so_many_medians_holds_for_jobs_that_were_read_before_it_was_known() -> None:
    ended = run("-j1", "--timeout", "300%", "sleep {}", ":::", *["0.3"] * 3, "1000")
    assert ended.returncode == 1


def test_no_number_is_too_large() -> None:
    words = ["--timeout", "30d", "--grace", "36500d", "--slow", "36500d", "--nice", "9" * 20]
    ended = run(*words, "-n", "9" * 20, "echo", ":::", "a", "b")
    assert (ended.returncode, ended.stdout) == (0, b"a b\n")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["echo"], ["--python", "os:getcwd"]])
def test_a_niceness_that_only_root_may_have_is_refused(words: list[str]) -> None:
    program = (
        "import sys; from collector.cli.program import main; "
        "from tests.support.otheruser import lose_privileges; "
        "lose_privileges(); sys.exit(main(sys.argv[1:]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "run", *QUIET, "--nice=-5", *words, ":::", "a"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr.startswith(b"collector: argument --nice: -5 is not for this user")
    assert ended.stderr.count(b"\n") == 1


@pytest.mark.slow
def test_what_ignores_sigterm_is_killed_when_the_grace_is_over() -> None:
    script = "trap '' TERM; while :; do sleep 0.05; done; : {}"
    ended = run("--timeout", "0.3", "--grace", "0.2", script, ":::", "a", quiet=False)
    assert ended.returncode == 1
    assert b"ran longer" in ended.stderr


@pytest.mark.slow
def test_what_a_job_leaves_in_the_background_is_left_alone(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = "echo out; (read line < fifo; echo $line > lived; echo late) & echo {}"
    ended = run("-k", script, ":::", "a", "b", where=tmp_path)
    assert ended.stdout == b"out\na\nout\nb\n"  # and it did not wait
    with open(fifo, "w", encoding="ascii") as gate:
        gate.write("yes\nyes\n")
    subprocess.run(
        ["sh", "-c", "until [ -s lived ]; do sleep 0.05; done"],
        cwd=tmp_path,
        check=True,
        timeout=60,
    )


@pytest.mark.slow
def test_lines_come_as_they_are_written_and_are_never_mixed() -> None:
    script = "for i in 1 2 3; do printf '%s' {}; sleep 0.1; echo $i; done"
    with subprocess.Popen(
        [*RUN, *QUIET, "-j2", "--line-buffer", "--tag", script, ":::", "a", "b"],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert process.poll() is None  # it comes before the end
        rest = process.stdout.read().splitlines(keepends=True)
    found = sorted([first, *rest])
    assert found == sorted(f"{x}\t{x}{i}\n".encode() for x in "ab" for i in (1, 2, 3))


@pytest.mark.slow
def test_lines_come_in_the_order_of_the_inputs_where_that_is_asked_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    script = (
        "echo a{}; [ {} != 1 ] || read x < go; echo b{}; echo c{} >&2; [ -e ok ] || [ {} != 2 ]"
    )
    line = [*QUIET, "-j2", "-k", "--line-buffer", "-o", "B", script, ":::", "1", "2", "3"]
    with subprocess.Popen(
        [*RUN, *line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"a1\n"  # it comes before the end
        wait_until(lambda: (tmp_path / "B/shard-0/journal.jsonl").read_text().count("ended") == 2)
        (tmp_path / "go").write_text("\n", encoding="ascii")
        rest = process.stdout.read()
    assert rest.split() == b"b1 c1 a2 b2 c2 a3 b3 c3".split()
    (tmp_path / "ok").touch()
    again = run(*line, where=tmp_path)
    assert again.stdout.split() == b"a1 b1 a2 b2 a3 b3".split()
    assert again.stderr.split() == b"c1 c2 c3".split()


@pytest.mark.slow
def test_inputs_that_come_late_run_when_they_come() -> None:
    with subprocess.Popen(
        [*RUN, *QUIET, "echo {}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for word in (b"one", b"two", b"three"):
            process.stdin.write(word + b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == word + b"\n"
        process.stdin.write(b"last")
        process.stdin.close()
        assert process.stdout.read() == b"last\n"
    assert process.returncode == 0


@pytest.mark.slow
def test_a_closed_stdout_ends_it_quietly_with_141() -> None:
    line = " ".join([*RUN, *QUIET, "-j1", "'seq 1000; : {}'", "::: $(seq 1000)"])
    ended = subprocess.run(
        ["bash", "-c", f"{line} | head -n 1; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        check=True,
        timeout=300,
    )
    assert ended.stdout == b"1\n141\n"
    assert ended.stderr == b""


@pytest.mark.slow
def test_a_full_stdout_is_an_error_that_is_said_and_ends_it() -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [*RUN, *QUIET, "echo {}", ":::", "a", "b"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=300,
        )
    assert ended.returncode == 255
    assert ended.stderr == b"collector: cannot write to stdout: No space left on device\n"


@pytest.mark.slow
def test_a_function_of_python_is_called_with_each_input(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import os, subprocess, sys\n"
        "def work(a, b='-'):\n"
        "    print('printed', a, b, os.environ['COLLECTOR_SEQ'])\n"
        "    print('err', a, file=sys.stderr)\n"
        "    subprocess.run(['echo', 'child', a])\n"
        "    yield os.fsencode(f'yielded {a}\\n')\n"
        "    if a == 'bad': raise ValueError('no good')\n"
    )
    words = ["-k", "--python", "mine:work", ":::", "x", "bad", os.fsdecode(b"\xff")]
    ended = run(*words, where=tmp_path, quiet=False)
    assert b"ValueError: no good" in ended.stderr
    assert b"err x" in ended.stderr
    assert ended.returncode == 1
    assert sorted(ended.stdout.splitlines()[:3]) == sorted(
        [b"printed x - 1", b"child x", b"yielded x"]
    )
    assert b"printed \xff - 3\n" in ended.stdout


@pytest.mark.slow
def test_a_function_that_raises_a_cancellation_has_run_and_failed(tmp_path: Path) -> None:
    module = (
        "from concurrent.futures import CancelledError\ndef work(x):\n    raise CancelledError\n"
    )
    (tmp_path / "cancelling.py").write_text(module)
    ended = run("--python", "cancelling:work", ":::", "a", where=tmp_path, quiet=False)
    assert (ended.returncode, b": CancelledError" in ended.stderr) == (1, True)


@pytest.mark.parametrize("where", ["", pytest.param("-o", marks=pytest.mark.slow)])
def test_a_function_may_raise_what_has_no_text(where: str, tmp_path: Path) -> None:
    """It ended the run in a traceback of ours, and the other inputs were not run."""
    (tmp_path / "mute.py").write_text(
        "class Mute(Exception):\n"
        "    def __str__(self): raise RuntimeError\n"
        "def work(x):\n"
        "    if x == 'bad': raise Mute\n"
        "    print(x)\n"
    )
    kept = [where, os.fspath(tmp_path / "kept")] if where else []
    words = ["-j1", *kept, "--python", "mute:work", ":::", "bad", "good"]
    ended = run(*words, where=tmp_path, quiet=False)
    assert ended.returncode == 1
    assert ended.stdout.startswith(b"good")
    assert b"its text cannot be had: RuntimeError" in ended.stderr
    assert b"outcome.py" not in ended.stderr


@pytest.mark.parametrize("target", ["no_such_module:f", "os:no_such", "os:sep"])
def test_a_function_that_cannot_be_had_is_one_error(target: str) -> None:
    ended = run("--python", target, ":::", *"abcdef", quiet=False)
    assert ended.returncode == 255
    assert ended.stderr.count(b"\n") == 1
    assert f"cannot load {target}".encode() in ended.stderr


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_inputs() -> None:
    """The peak of the parent, for 200 and for 4,000 inputs from stdin."""
    program = (
        "import resource, sys; from collector.cli.program import main; status = main(); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(status)"
    )
    peaks = []
    for count in (200, 4000):
        ended = subprocess.run(
            [sys.executable, "-c", program, "run", *QUIET, "true"],
            input=b"".join(b"%d\n" % number for number in range(count)),
            capture_output=True,
            check=True,
            timeout=300,
        )
        peaks.append(int(ended.stdout))
    assert peaks[1] < peaks[0] + 4096
