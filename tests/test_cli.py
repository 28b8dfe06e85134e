"""The `collector` program: `gc` and `ls`, as a user and as a script see them."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
from importlib import metadata
from pathlib import Path

import pytest

import collector
from collector.cli import printing
from collector.cli.program import main
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.reclaim import list_runs, reclaim
from tests.support.rundirs import (
    NOBODY,
    REPOSITORY,
    a_process,
    immutable,
    make_orphan,
    names,
    needs_root,
)
from tests.support.tiers import everyday_are

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def in_dollar_root(temp_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLLECTOR_TMPDIR", os.fspath(temp_root))
    return temp_root


class TestGc:
    def test_it_prints_a_table_and_a_line_of_counts(
        self, in_dollar_root: Path, capsys: Captured
    ) -> None:
        orphan = make_orphan(in_dollar_root, files=3, size=1000)
        live = RunDirectory.create()
        (in_dollar_root / "unknown").touch()
        assert main(["gc"]) == 0
        head, row, counts = capsys.readouterr().out.splitlines()
        assert head.split() == ["RUN", "PID", "AGE", "FILES", "BYTES"]
        assert row.split() == [os.fspath(orphan), "4194304", "0", "s", "3", "2.9", "KiB"]
        assert counts == (
            "reclaimed 1, live 1, unknown 1, foreign 0, unreadable 0; 3000 bytes freed"
        )
        assert not orphan.exists()
        live.dispose()

    def test_its_json_is_one_object(self, in_dollar_root: Path, capsys: Captured) -> None:
        orphan = make_orphan(in_dollar_root, files=2, size=5)
        assert main(["gc", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert list(report) == [
            "reclaimed",
            "live",
            "unknown",
            "foreign",
            "unreadable",
            "bytes",
            "dry_run",
        ]
        (run,) = report["reclaimed"]
        assert list(run) == ["path", "pid", "age_s", "files", "bytes"]
        assert (run["path"], run["files"], run["bytes"]) == (os.fspath(orphan), 2, 10)
        assert (report["bytes"], report["dry_run"]) == (10, False)

    def test_a_dry_run_removes_nothing_and_prints_the_same(
        self, in_dollar_root: Path, capsys: Captured
    ) -> None:
        make_orphan(in_dollar_root)
        before = sorted(in_dollar_root.rglob("*"))
        assert main(["gc", "--dry-run"]) == 0
        rehearsal = capsys.readouterr()
        assert sorted(in_dollar_root.rglob("*")) == before
        assert "nothing was removed" in rehearsal.err
        assert main(["gc"]) == 0
        assert capsys.readouterr().out == rehearsal.out
        assert names(in_dollar_root) == []

    def test_named_roots_are_looked_at_and_no_others(
        self, in_dollar_root: Path, tmp_path: Path, capsys: Captured
    ) -> None:
        make_orphan(in_dollar_root)
        for name in ("a", "b"):
            make_orphan(tmp_path / name)
        arguments = ["--root", os.fspath(tmp_path / "a"), "--root", os.fspath(tmp_path / "b")]
        assert main(["gc", "--json", *arguments]) == 0
        assert len(json.loads(capsys.readouterr().out)["reclaimed"]) == 2
        assert len(names(in_dollar_root)) == 1
        shutil.rmtree(in_dollar_root)

    def test_what_could_not_be_removed_is_named_and_the_status_is_one(
        self, in_dollar_root: Path, capsys: Captured
    ) -> None:
        orphan = make_orphan(in_dollar_root)
        (orphan / "kept\x1b[31m").touch()
        with immutable(orphan / "kept\x1b[31m"):
            assert main(["gc", "--json"]) == 1
            said = capsys.readouterr()
            assert json.loads(said.out)["reclaimed"] == []
            assert "Operation not permitted" in said.err
            assert "kept\\x1b[31m" in said.err
            assert "\x1b" not in said.err
        assert main(["gc"]) == 0

    @pytest.mark.parametrize("command", ["gc", "ls"])
    @needs_root
    def test_a_root_that_cannot_be_used_is_wrong_usage(
        self, temp_root: Path, command: str, capsys: Captured
    ) -> None:
        assert main([command, "--root", os.fspath(temp_root / "missing")]) == 2
        assert "No such file" in capsys.readouterr().err
        os.chown(temp_root, NOBODY, NOBODY)
        assert main([command, "--root", os.fspath(temp_root)]) == 2
        assert f"belongs to user {NOBODY}" in capsys.readouterr().err
        os.chown(temp_root, os.geteuid(), -1)

    @pytest.mark.parametrize("command", ["gc", "ls"])
    def test_a_root_without_a_name_is_wrong_usage(self, command: str, capsys: Captured) -> None:
        with pytest.raises(SystemExit) as caught:
            main([command, "--root", ""])
        assert caught.value.code == 2
        assert "argument --root: a temp root must be a path" in capsys.readouterr().err

    def test_a_bar_is_drawn_on_a_terminal_where_it_takes_long(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for delay, drawn in (("0", True), ("1000", False)):
            make_orphan(temp_root, files=30)
            code = (
                "import collector.cli.gc as gc, collector.cli.program as program; "
                f"gc._BAR_DELAY_S = {delay}; program.main()"
            )
            seen = _on_a_terminal([sys.executable, "-c", code, "gc", "--root", str(temp_root)])
            assert (b"collector gc" in seen) == drawn
            assert b"reclaimed 1" in seen

    def test_no_bar_is_drawn_where_stderr_is_none(self, temp_root: Path) -> None:
        make_orphan(temp_root)
        done = _run("gc", "--root", temp_root)
        assert (done.returncode, done.stderr) == (0, "")

    def test_what_tqdm_refuses_is_named_and_no_error(self, temp_root: Path) -> None:
        done = _run("gc", "--root", temp_root, TQDM_DELAY="x", TQDM_NCOLS="10")
        assert (done.returncode, len(done.stderr.splitlines())) == (0, 1), done.stderr
        assert done.stderr.startswith("tqdm refuses the value of TQDM_DELAY (")


class TestLs:
    def test_it_lists_live_and_stale_runs(self, in_dollar_root: Path, capsys: Captured) -> None:
        assert main(["ls"]) == 0
        assert capsys.readouterr().out == ""
        stale = make_orphan(in_dollar_root, files=2, size=5)
        code = "run = RunDirectory.create(); say(run.path); wait(); run.dispose()"
        with a_process(code) as other:
            live = other.hear()
            assert main(["ls"]) == 0
            head, *rows = capsys.readouterr().out.splitlines()
            columns = ["RUN", "STATE", "PID", "AGE", "FILES", "BYTES", "DOING", "COMMAND"]
            assert head.split() == columns
            by_path = {row.split()[0]: row.split()[1:] for row in rows}
            assert by_path[os.fspath(stale)][:2] == ["stale", "4194304"]
            assert by_path[live][:2] == ["live", str(other.pid)]
            assert main(["ls", "--json"]) == 0
            runs = json.loads(capsys.readouterr().out)
            assert list(runs) == ["runs"]
            assert {run["path"]: run["state"] for run in runs["runs"]} == {
                os.fspath(stale): "stale",
                live: "live",
            }
            for run in runs["runs"]:
                assert list(run) == [
                    *("path", "state", "pid", "age_s", "files", "bytes", "command", "doing")
                ]
                assert run["doing"] is None  # nobody is there to be asked
            other.tell()
            assert other.end() == 0
        assert main(["gc"]) == 0

    def test_what_others_wrote_cannot_steer_the_terminal(
        self, in_dollar_root: Path, capsys: Captured
    ) -> None:
        orphan = make_orphan(in_dollar_root)
        command = "evil \x1b]0;title\x07 \n new line \u202e right to left \ud800"
        (orphan / "owner.json").write_text(json.dumps({"pid": 1, "command": command}))
        assert main(["ls"]) == 0
        printed = capsys.readouterr().out
        assert len(printed.splitlines()) == 2
        assert all(char.isprintable() for char in printed.replace("\n", ""))
        assert "\\x1b]0;title\\x07" in printed
        assert "\\u202e" in printed
        shutil.rmtree(orphan)

    def test_a_root_whose_name_is_no_utf8_is_printed_escaped(self, tmp_path: Path) -> None:
        root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff\n"))
        make_orphan(root)
        for environment in ({}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}):
            done = _run("ls", "--root", root, **environment)
            assert (done.returncode, done.stderr) == (0, "")
            assert "/r\\udcff\\n/run-" in done.stdout
        shown = json.loads(_run("ls", "--json", "--root", root).stdout)
        assert shown["runs"][0]["path"].startswith(os.fspath(root))
        shutil.rmtree(os.fsencode(root))


class TestTheProgram:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "COMMAND"),
            (["nonsense"], "invalid choice"),
            (["gc", "--nonsense"], "unrecognized arguments"),
            (["gc", "--root"], "expected one argument"),
        ],
    )
    def test_wrong_usage_is_status_two(
        self, arguments: list[str], said: str, capsys: Captured
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert said in capsys.readouterr().err

    def test_help_tells_what_there_is(self, capsys: Captured) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["--help"])
        assert caught.value.code == 0
        told = capsys.readouterr().out
        assert "gc" in told
        assert "ls" in told

    @pytest.mark.parametrize(
        "asked", everyday_are(["--help"], of=["--help", "--version", "run --help", "demo"])
    )
    def test_a_stdout_that_takes_nothing_ends_it_without_a_traceback(self, asked: str) -> None:
        program = [sys.executable, "-m", "collector", *asked.split()]
        reads, writes = os.pipe()
        os.close(reads)
        for to, status, said in (
            (os.open("/dev/full", os.O_WRONLY), 1, b"cannot print: No space left on device\n"),
            (writes, 0, b""),  # whoever read has gone
        ):
            done = subprocess.run(program, stdout=to, stderr=subprocess.PIPE, check=False)
            os.close(to)
            assert (done.returncode, done.stderr) == (status, said and b"collector: " + said)

    def test_the_version_is_that_of_the_installed_package(self, capsys: Captured) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["--version"])
        assert caught.value.code == 0
        assert capsys.readouterr().out == f"collector {metadata.version('collector')}\n"
        assert collector.__version__ == metadata.version("collector")

    def test_the_version_is_told_without_loading_a_command(self) -> None:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "collector", "--version"],
            capture_output=True,
            text=True,
            check=True,
        )
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "collector.cli.program" in loaded
        assert not loaded & {"collector.cli.run", "collector.cli.demo", "collector.batch.batch"}

    def test_python_m_collector_is_the_same_program(self, temp_root: Path) -> None:
        make_orphan(temp_root)
        assert json.loads(_run("gc", "--json", "--root", temp_root).stdout)["live"] == 0
        assert names(temp_root) == []
        assert _run("nonsense").returncode == 2

    def test_a_reader_that_goes_away_is_no_error(self, temp_root: Path) -> None:
        for _ in range(200):
            make_orphan(temp_root, files=0)
        program = f"{sys.executable} -m collector ls --root {temp_root}"
        done = _shell(f"PYTHONUNBUFFERED=1 {program} | head -1; echo ${{PIPESTATUS[0]}}")
        assert done.stdout.splitlines()[-1] == "0"
        assert done.stderr == ""
        shutil.rmtree(temp_root)

    @pytest.mark.parametrize("files", everyday_are([1], of=[1, 1000]))
    def test_a_reader_that_goes_away_hides_no_failure(self, temp_root: Path, files: int) -> None:
        for _ in range(files):
            make_orphan(temp_root, files=0)
        kept = make_orphan(temp_root) / "kept"
        kept.touch()
        reading, writing = os.pipe()
        os.close(reading)
        with immutable(kept):
            done = subprocess.run(
                [sys.executable, "-m", "collector", "gc", "--root", temp_root],
                stdout=writing,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                env=os.environ | {"PYTHONPATH": os.fspath(REPOSITORY)},
            )
        os.close(writing)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "kept: Operation not permitted" in line
        assert main(["gc", "--root", os.fspath(temp_root)]) == 0

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("closed", "status", "said", "complained"),
        [
            (">&-", 1, "", "kept: Operation not permitted"),
            ("2>&-", 1, '{"reclaimed": []', ""),
            (">&- 2>&-", 1, "", ""),
            ("2>/dev/full", 1, '{"reclaimed": []', ""),
            (">/dev/full", 1, "", "collector: cannot print: No space left on device"),
            (">/dev/full 2>&1", 1, "", ""),
        ],
    )
    def test_it_needs_no_place_to_print(
        self, temp_root: Path, closed: str, status: int, said: str, complained: str
    ) -> None:
        kept = make_orphan(temp_root) / "kept"
        kept.touch()
        program = f"{sys.executable} -m collector"
        with immutable(kept):
            done = _shell(f"{program} gc --json --root {temp_root} {closed}")
        assert done.returncode == status
        assert done.stdout.startswith(said)
        assert len(done.stdout.splitlines()) == bool(said)
        assert complained in done.stderr
        assert len(done.stderr.splitlines()) == bool(complained)
        done = _shell(f"{program} gc --root {temp_root} {closed}")
        assert done.returncode == (">/dev/full" in closed.split())
        assert _shell(f"{program} gc --root {temp_root}/missing {closed}").returncode == 2
        assert names(temp_root) == []

    def test_ctrl_c_ends_it_without_a_traceback(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
    ) -> None:
        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("collector.cli.ls.list_runs", interrupt)
        assert main(["ls"]) == 130
        assert capsys.readouterr().err == ""

    def test_ctrl_c_ends_it_without_a_traceback_while_it_loads_what_it_needs(
        self, monkeypatch: pytest.MonkeyPatch, capsys: Captured
    ) -> None:
        def load() -> None:
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr("collector.cli.run._load", load)
        assert main(["run", "true", ":::", "1"]) == 130
        assert capsys.readouterr().err == ""

    def test_a_wrong_option_before_the_command_steers_no_terminal(self, capsys: Captured) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["-\x1b]0;x\x07", "ls"])
        assert "-\\x1b]0;x\\x07" in (said := capsys.readouterr().err)
        assert "\x1b" not in said

    @pytest.mark.parametrize(
        ("age_s", "said"),
        [(0, "0 s"), (119, "119 s"), (180, "3 min"), (7200, "2 h"), (864000, "10 d")],
    )
    def test_ages_are_readable(self, age_s: float, said: str) -> None:
        assert printing.age(age_s) == said

    @pytest.mark.parametrize(
        ("size", "said"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")]
    )
    def test_sizes_are_readable(self, size: int, said: str) -> None:
        assert printing.size(size) == said


def test_the_functions_are_exported() -> None:
    assert collector.reclaim is reclaim
    assert collector.list_runs is list_runs


def _run(
    *arguments: str | os.PathLike[str], **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "collector", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.fspath(REPOSITORY)} | environment,
    )


def _shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.fspath(REPOSITORY)},
    )


def _on_a_terminal(command: list[str]) -> bytes:
    """Run a command on a pseudo-terminal; all that it showed there."""
    primary, secondary = pty.openpty()
    termios.tcsetwinsize(secondary, (24, 100))
    environment = os.environ | {"PYTHONPATH": os.fspath(REPOSITORY)}
    with subprocess.Popen(
        command, stdin=secondary, stdout=secondary, stderr=secondary, env=environment
    ):
        os.close(secondary)
        seen = b""
        while True:
            try:
                seen += os.read(primary, 10_000)
            except OSError:
                break  # EIO: the other side is closed
    os.close(primary)
    return seen
