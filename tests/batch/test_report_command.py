"""`collector report`, of real directories: whole, running, killed, damaged; and wrong use."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from collector import Batch
from collector.batch.keeping import is_held
from collector.batch.report import source
from collector.batch.report.source import Source
from collector.batch.shard import Shard
from collector.batch.writer import Options
from collector.cli.program import main
from tests.support.batchdir import ended, failed, journal, run, writer

Captured = pytest.CaptureFixture[str]

RUNNING = """
import sys, time
from tests.support.batchdir import ended, failed, writer
with writer(sys.argv[1], inputs=10) as batch:
    tasks = [batch.task(str(n), name=f"job-{n}") for n in range(6)]
    batch.store(tasks[0], ended(b"out", b"log"))
    batch.store(tasks[1], failed(b"out"))
    batch.store(tasks[2], failed(b"out", "crash"))
    batch.flush()
    for task in tasks[2:4]:
        batch.started(task, time.time())
    batch.flush()
    print("ready", flush=True)
    for _ in sys.stdin:
        batch.store(tasks[3], ended(b"out"))
        batch.flush()
        print("ended", flush=True)
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that writes to a batch and waits: one done, two failed, one of these again, ...

    For a line one of the two that run is done.
    """
    with subprocess.Popen(
        [sys.executable, "-c", RUNNING, str(tmp_path / "b")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def statuses(directory: Path) -> Counter[str]:
    with Source(directory) as source:
        return Counter(job.status for job in source)


def report(
    directory: Path, *arguments: str | Path, pass_fds: tuple[int, ...] = ()
) -> "subprocess.CompletedProcess[bytes]":
    """Have another process make one."""
    return subprocess.run(
        [sys.executable, "-m", "collector", "report", directory, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        pass_fds=pass_fds,
    )


def all_reports(directory: Path) -> list[str]:
    """Arguments for all reports, beside the directory."""
    kinds = ("html", "junit", "trace", "csv")
    return [text for kind in kinds for text in (f"--{kind}", str(directory / f"r.{kind}"))]


def test_all_reports_of_a_batch_are_made_at_once(tmp_path: Path) -> None:
    run(tmp_path / "b", ["a", "b", "c"])
    assert main(["report", str(tmp_path / "b"), *all_reports(tmp_path)]) == 0
    assert ET.parse(tmp_path / "r.junit").getroot().get("tests") == "3"
    events = json.loads((tmp_path / "r.trace").read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) == 3
    with open(tmp_path / "r.csv", newline="") as table:
        assert [row["input"] for row in csv.DictReader(table)] == ["a", "b", "c"]
    page = (tmp_path / "r.html").read_text()
    assert page.endswith("</html>\n")
    assert str(tmp_path) not in page


def test_it_ends_with_1_if_a_job_has_failed_or_is_missing(tmp_path: Path) -> None:
    with writer(tmp_path / "b", inputs=1) as batch:
        batch.store(batch.task("a"), failed(b"x"))
        batch.flush()
    assert main(["report", str(tmp_path / "b"), *all_reports(tmp_path)]) == 1
    with writer(tmp_path / "b", inputs=2) as batch:
        batch.store(batch.task("a"), ended(b"x"))
        batch.flush()
    assert main(["report", str(tmp_path / "b"), *all_reports(tmp_path)]) == 1
    (case,) = ET.parse(tmp_path / "r.junit").getroot().iter("testcase")
    assert [child.tag for child in case] == ["flakyFailure"]


def test_a_running_batch_has_running_jobs(tmp_path: Path, running: "subprocess.Popen[str]") -> None:
    assert statuses(tmp_path / "b") == {"done": 1, "failed": 1, "running": 2}
    assert main(["report", str(tmp_path / "b"), *all_reports(tmp_path)]) == 1
    page = (tmp_path / "r.html").read_text()
    assert "The batch was running when this page was made" in page
    assert "<b>6</b> waiting" in page
    assert running.poll() is None


def test_of_a_batch_that_was_killed_they_are_interrupted(
    tmp_path: Path, running: "subprocess.Popen[str]"
) -> None:
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert statuses(tmp_path / "b") == {"done": 1, "failed": 2, "interrupted": 1}
    assert main(["report", str(tmp_path / "b"), *all_reports(tmp_path)]) == 1
    assert "was running" not in (tmp_path / "r.html").read_text()
    suite = ET.parse(tmp_path / "r.junit").getroot()
    assert suite.get("errors") == "2"
    with writer(tmp_path / "b"):  # the report holds no lock
        pass


@pytest.mark.parametrize("shard", ["0", "-", "1"])
def test_only_what_a_living_process_has_started_is_running(
    tmp_path: Path, running: "subprocess.Popen[str]", shard: str
) -> None:
    running.send_signal(signal.SIGKILL)
    running.wait()
    with writer(tmp_path / "b", options=Options(shard=shard)) as batch:
        batch.started(batch.task("4"), time.time())
        assert statuses(tmp_path / "b") == {"done": 1, "failed": 2, "interrupted": 1, "running": 1}


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        (False, {"done": 1, "failed": 1, "running": 2}),
        (True, {"done": 2, "failed": 2}),
    ],
)
def test_what_ends_while_the_journals_are_read_is_not_interrupted(
    tmp_path: Path,
    running: "subprocess.Popen[str]",
    monkeypatch: pytest.MonkeyPatch,
    leaves: bool,
    expected: dict[str, int],
) -> None:
    asked: list[Shard] = []

    def ends_first(shard: Shard) -> bool:
        if not asked:
            assert running.stdin is not None
            assert running.stdout is not None
            running.stdin.write("\n")
            running.stdin.flush()
            assert running.stdout.readline() == "ended\n"
            if leaves:
                running.stdin.close()
                running.wait()
        asked.append(shard)
        return is_held(shard)

    monkeypatch.setattr(source, "is_held", ends_first)
    assert statuses(tmp_path / "b") == expected
    assert asked


def test_a_torn_line_at_the_end_is_no_reason_to_read_again_and_again(
    tmp_path: Path, running: "subprocess.Popen[str]"
) -> None:
    running.send_signal(signal.SIGKILL)
    running.wait()
    with open(journal(tmp_path / "b"), "ab") as file:
        file.write(b'{"event": "ended"')
    assert statuses(tmp_path / "b") == {"done": 1, "failed": 2, "interrupted": 1}


def test_what_another_shard_has_done_since_has_one_bar(
    tmp_path: Path, running: "subprocess.Popen[str]"
) -> None:
    running.send_signal(signal.SIGKILL)
    running.wait()
    with writer(tmp_path / "b", options=Options(shard="-")) as batch:  # is read before "0"
        for number in range(6):
            task = batch.task(str(number))
            if task.runs:
                batch.store(task, ended(b"out"))
        batch.flush()
    with Source(tmp_path / "b") as found:
        assert [job.since for job in found] == [None] * 6
    assert main(["report", str(tmp_path / "b"), "--trace", str(tmp_path / "t")]) == 0
    events = json.loads((tmp_path / "t").read_text())["traceEvents"]
    assert Counter(e["cat"] for e in events if e["ph"] == "X") == {
        "done": 6,
        "error": 1,
        "crash": 1,
    }


def test_the_page_and_status_count_the_same_bytes(tmp_path: Path) -> None:
    with writer(tmp_path / "b") as batch:
        for text in ("a", "b"):
            batch.store(batch.task(text), ended(text.encode() * 102_400))
        batch.flush()
    next((tmp_path / "b" / "shard-0" / "files").rglob("*.out")).unlink()
    assert main(["report", str(tmp_path / "b"), "--html", str(tmp_path / "h")]) == 1
    assert "<dt>Output</dt><dd>100 KiB</dd>" in (tmp_path / "h").read_text()
    with Batch.open(tmp_path / "b") as read:
        assert read.status()["bytes"] == 102_400


def test_workers_of_two_processes_are_two(tmp_path: Path) -> None:
    for shard in ("0", "1of2", "2of2"):
        with writer(tmp_path / "b", options=Options(shard=shard)) as batch:
            batch.store(batch.task(shard), ended(b"x"))
            batch.flush()
    assert main(["report", str(tmp_path / "b"), *all_reports(tmp_path)]) == 0
    with open(tmp_path / "r.csv", newline="") as table:
        workers = [row["worker"] for row in csv.DictReader(table)]
    assert sorted(workers) == ["1", "1of2/1", "2of2/1"]
    events = json.loads((tmp_path / "r.trace").read_text())["traceEvents"]
    tracks = [event["args"]["name"] for event in events if event["name"] == "thread_name"]
    assert tracks == ["worker 1", "worker 1of2/1", "worker 2of2/1"]


def test_a_journal_that_is_torn_is_said(tmp_path: Path) -> None:
    run(tmp_path / "b", ["a", "b"])
    with open(journal(tmp_path / "b"), "ab") as file:
        file.write(b"garbage\n" + b'{"event": "ended"')
    assert main(["report", str(tmp_path / "b"), *all_reports(tmp_path)]) in {0, 1}
    assert "2 lines of the journal cannot be read" in (tmp_path / "r.html").read_text()


def test_a_log_that_is_gone_is_said_in_its_place(tmp_path: Path) -> None:
    with writer(tmp_path / "b") as batch:
        bad = failed(b"x")
        bad.log = ended(b"", b"L" * 200_000).log
        batch.store(batch.task("a"), bad)
        batch.flush()
    with Source(tmp_path / "b") as source:
        (job,) = source
        assert job.log_tail() == b"L" * 8192
        for file in (tmp_path / "b" / "shard-0" / "files").rglob("*.log"):
            file.unlink()
        assert b"its log cannot be read" in job.log_tail()


def test_a_batch_that_cannot_be_written_to_can_be_reported(tmp_path: Path) -> None:
    run(tmp_path / "b", ["a"])
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "b").rglob("*"))
    assert main(["report", str(tmp_path / "b"), *all_reports(tmp_path)]) == 0
    after = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "b").rglob("*"))
    assert after == before


def test_a_dash_is_stdout(tmp_path: Path, capfd: Captured) -> None:
    run(tmp_path / "b", ["a"])
    assert main(["report", str(tmp_path / "b"), "--csv", "-"]) == 0
    out = capfd.readouterr().out
    assert [row["name"] for row in csv.DictReader(out.splitlines())] == ["job-a"]


def test_a_report_replaces_another_and_leaves_it_if_it_cannot(
    tmp_path: Path, capsys: Captured
) -> None:
    run(tmp_path / "b", ["a"])
    target = tmp_path / "report.html"
    target.write_text("old")
    assert main(["report", str(tmp_path / "b"), "--html", str(target)]) == 0
    assert target.read_text().startswith("<!DOCTYPE html>")
    (tmp_path / "taken").mkdir()
    assert main(["report", str(tmp_path / "b"), "--html", str(tmp_path / "taken")]) == 2
    assert "cannot make the report" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["b", "report.html", "taken"]


@pytest.mark.slow
def test_what_is_no_file_is_written_to_and_stays_also_behind_a_link(tmp_path: Path) -> None:
    run(tmp_path / "b", ["a"])
    link = tmp_path / "stdout"
    link.symlink_to("/proc/self/fd/1")
    told = report(tmp_path / "b", "--csv", link)
    assert (told.returncode, told.stdout.count(b"\n"), told.stderr) == (0, 2, b"")
    assert link.is_symlink()
    link = tmp_path / "full"
    link.symlink_to("/dev/full")
    told = report(tmp_path / "b", "--csv", link)
    assert (told.returncode, told.stderr.count(b"cannot make the report")) == (2, 1)
    assert os.fsencode(f"({link})") in told.stderr
    assert link.is_symlink()
    os.mkfifo(tmp_path / "fifo")
    with ThreadPoolExecutor(1) as threads:
        read = threads.submit((tmp_path / "fifo").read_bytes)
        assert report(tmp_path / "b", "--csv", tmp_path / "fifo").returncode == 0
        assert read.result().count(b"\n") == 2
    assert (tmp_path / "fifo").is_fifo()


def test_nobody_who_reads_on_is_no_failure_of_a_report(tmp_path: Path) -> None:
    run(tmp_path / "b", ["a"])
    reads, writes = os.pipe()
    os.close(reads)
    try:
        told = report(tmp_path / "b", "--csv", f"/proc/self/fd/{writes}", pass_fds=(writes,))
    finally:
        os.close(writes)
    assert (told.returncode, told.stderr) == (0, b"")


@pytest.mark.parametrize("to", [">/dev/full", ">&-"])
def test_a_stdout_that_takes_nothing_is_a_report_that_was_not_made(to: str, tmp_path: Path) -> None:
    run(tmp_path / "b", ["a"])
    line = f'exec "{sys.executable}" -m collector report b --csv - {to}'
    told = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, check=False)
    assert (told.returncode, told.stderr.count(b"cannot print: ")) == (2, 1)


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    run(tmp_path / "b", ["a"])
    (tmp_path / "old").write_text("old")
    for name, behind in (("link", "old"), ("dangling", "new")):
        (tmp_path / name).symlink_to(behind)
        assert main(["report", str(tmp_path / "b"), "--csv", str(tmp_path / name)]) == 0
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / behind).read_text().count("\n") == 2
    two = ["--csv", str(tmp_path / "link"), "--html", str(tmp_path / "old")]
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path / "b"), *two])


def test_a_file_without_a_name_is_written_to(tmp_path: Path) -> None:
    run(tmp_path / "b", ["a"])
    with open(tmp_path / "gone", "w+b") as file:
        (tmp_path / "gone").unlink()
        where = f"/proc/self/fd/{file.fileno()}"
        told = report(tmp_path / "b", "--csv", where, pass_fds=(file.fileno(),))
        assert (told.returncode, told.stderr, file.read().count(b"\n")) == (0, b"", 2)
    assert os.listdir(tmp_path) == ["b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["b"], "say which report to make"),
        (["b", "--html", ""], "a report needs a file name"),
        (["b", "--html", "x", "--csv", "./x"], "two reports cannot be one file"),
        (["b", "--html", "-", "--csv", "-"], "two reports cannot be one file"),
        ([], "DIR"),
    ],
)
def test_wrong_use_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    arguments: list[str],
    message: str,
) -> None:
    run(tmp_path / "b", ["a"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended_with:
        main(["report", *arguments])
    assert ended_with.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "No such file"),
        ("file", "Not a directory"),
        ("other", "this is no batch"),
        ("", ""),
    ],
)
def test_what_is_no_batch_directory_is_one_clear_error(
    tmp_path: Path, capsys: Captured, name: str, message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").touch()
    where = str(tmp_path / name) if name else ""
    assert main(["report", where, "--html", str(tmp_path / "r")]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "r").exists()
