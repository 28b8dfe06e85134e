"""Several processes share a batch directory: each has its part, some are killed, others go on."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from collector import Batch, BatchHaltedError, ClosedError, Collector, Job
from collector.batch import history, leftovers
from collector.batch.keys import Keys, key_text, part_of
from collector.batch.report.source import Source
from collector.batch.states import Resume
from collector.batch.writer import Options
from collector.cli.program import main
from collector.store.rundir.directory import RunDirectory
from tests.support.batchdir import ended, failed, journal, writer
from tests.support.killpoints import in_child
from tests.support.leaks import wait_until
from tests.support.tree import Script, kill_at_once, script

SCRIPT: Final = """
import sys
from collector import Collector
from collector.batch.parts import parse_shard

def job(number):
    yield f"{number:06d}".encode() * (number % 50)
    if number % 1000 == 999:
        yield bytes(100_000)
    return number * number

directory, count, shard = sys.argv[1], int(sys.argv[2]), parse_shard(sys.argv[3], {})
with Collector(1, progress=False, ask=False) as collector:
    for job in collector.collect(job, range(count), batch=directory, shard=shard):
        assert job.result() == job.args[0] ** 2
"""


def written(number: int) -> bytes:
    return f"{number:06d}".encode() * (number % 50) + bytes(100_000) * (number % 1000 == 999)


def lines_of(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def assert_keeps(path: Path, count: int) -> None:
    with Batch.open(path) as batch:
        assert batch.verify() == []
        assert len(batch) == count
        found = {int(record.input): record for record in batch}
        assert sorted(found) == list(range(count))
        for number, record in found.items():
            assert record.status == "done"
            assert record.output().read() == written(number)
            assert record.value() == number * number
            assert sum(attempt.status == "returned" for attempt in record.attempts) <= 1


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(2000, marks=pytest.mark.slow),
        pytest.param(5000, marks=pytest.mark.campaign),
    ],
)
def test_eight_shards_at_once_some_killed_are_finished_by_three_of_another_split(
    count: int, tmp_path: Path
) -> None:
    path = tmp_path / "b"
    with ExitStack() as stack:
        eight: list[Script] = [
            stack.enter_context(script(SCRIPT, str(path), str(count), f"{part}/8"))
            for part in range(1, 9)
        ]
        for part in (2, 5, 7):
            journal = path / f"shard-{part}of8" / "journal.jsonl"
            assert wait_until(lambda journal=journal: lines_of(journal) >= 50, 120)  # type: ignore[misc]
            kill_at_once(eight[part - 1].tree)
        seen = 0
        while any(running.process.poll() is None for running in eight):
            with Batch.open(path) as batch:
                status = batch.status()
            assert seen <= status["done"] <= count
            assert status["failed"] == 0
            assert status["done"] + status["interrupted"] + status["waiting"] == count
            seen = status["done"]
        assert [running.process.wait() for running in eight] == [
            -9 if part in (2, 5, 7) else 0 for part in range(1, 9)
        ]
    with Batch.open(path) as batch:
        assert 0 < batch.status()["waiting"] + batch.status()["interrupted"] < count
    with ExitStack() as stack:
        three = [
            stack.enter_context(script(SCRIPT, str(path), str(count), f"{part}/3"))
            for part in (1, 2, 3)
        ]
        assert [running.process.wait() for running in three] == [0, 0, 0]
    assert_keeps(path, count)


def test_an_inserted_input_moves_no_other_into_another_part() -> None:
    keys = Keys("module:function")
    before = {number: part_of(keys.key(key_text(number)), 8) for number in range(2000)}
    inputs = [*range(1000), "inserted", *range(1000, 2000)]
    after = {item: part_of(keys.key(key_text(item)), 8) for item in inputs}
    assert {number: after[number] for number in range(2000)} == before
    sizes = [list(before.values()).count(part) for part in range(1, 9)]
    assert all(150 < size < 350 for size in sizes), sizes


def refuses(number: int) -> None:
    raise ValueError(number)


def test_a_share_of_failures_is_one_of_the_part(tmp_path: Path) -> None:
    with Collector(1, progress=False) as collector:
        jobs = collector.collect(
            refuses, range(100), batch=tmp_path / "b", shard=(1, 2), halt="soon,fail=20%"
        )
        ended: list[Job[None]] = []
        with pytest.raises(BatchHaltedError, match=r"10 jobs have failed \(of 50\)"):
            ended.extend(jobs)
    assert 10 <= len(ended) < 20


@pytest.mark.slow
def test_two_processes_with_one_part_are_not_let_in_together(tmp_path: Path) -> None:
    with script(SCRIPT, str(tmp_path / "b"), "1200", "1/2") as first:
        journal = tmp_path / "b" / "shard-1of2" / "journal.jsonl"
        assert wait_until(lambda: lines_of(journal) >= 10, 60)
        first.process.send_signal(signal.SIGSTOP)  # else it may be over before the second begins
        second = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "b"), "1000", "1/2"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 1
        assert "BatchError" in second.stderr
        first.process.send_signal(signal.SIGCONT)
        assert first.process.wait() == 0


def runs_shard(path: Path, shard: str, inputs: Iterable[str], *, total: int) -> None:
    """Run a shard that has these inputs, of so many."""
    with writer(path, options=Options(shard=shard), inputs=total) as batch:
        for text in inputs:
            task = batch.task(text)
            if task.runs:
                batch.store(task, ended(text.encode()))
        batch.flush()


def test_the_run_that_began_last_tells_how_many_inputs_wait_in_whatever_shard(
    tmp_path: Path,
) -> None:
    runs_shard(tmp_path / "b", "2of2", "ab", total=4)
    runs_shard(tmp_path / "b", "1of2", "cd", total=4)
    with Batch.open(tmp_path / "b") as batch:
        assert batch.status()["waiting"] == 0
    runs_shard(tmp_path / "b", "1of2", "cdef", total=9)
    with Batch.open(tmp_path / "b") as batch:
        assert batch.status()["waiting"] == 3
    assert main(["status", str(tmp_path / "b")]) == 1


def test_the_run_that_began_last_tells_the_order_of_the_inputs_in_whatever_shard(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    runs_shard(tmp_path / "b", "1of2", "abc", total=3)
    runs_shard(tmp_path / "b", "0", "cdba", total=4)
    assert main(["cat", str(tmp_path / "b")]) == 0
    assert capfdbinary.readouterr().out == b"cdba"
    before = journal(tmp_path / "b").read_bytes()
    runs_shard(tmp_path / "b", "0", "cdba", total=4)
    assert b'"input"' not in journal(tmp_path / "b").read_bytes()[len(before) :]


def test_a_report_tells_of_runs_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    for shard in ("2of2", "1of2", "2of2", "0"):
        runs_shard(tmp_path / "b", shard, "", total=0)
    with Source(tmp_path / "b") as source:
        times = [session.time for session in source.batch.sessions]
    assert len(times) == 4
    assert times == sorted(times)


def test_what_a_killed_process_had_in_the_works_goes_with_the_next_run_of_any_shard(
    tmp_path: Path,
) -> None:
    path = tmp_path / "b"

    def is_killed() -> None:
        writing = writer(path, options=Options(shard="1of2"))
        run = RunDirectory.create(writing.run_root)
        (run.path / "output.spill").write_bytes(bytes(1000))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(is_killed)[0] == signal.SIGKILL
    with writer(path, options=Options(shard="2of2")) as other:
        live = RunDirectory.create(other.run_root)
        assert len(os.listdir(path / "shard-1of2" / "run")) == 0
        writer(path, options=Options(shard="0")).close()
        assert os.listdir(path / "shard-2of2" / "run") == [live.path.name]
        live.dispose()


def test_a_run_directory_of_another_shard_that_cannot_be_read_keeps_no_batch_from_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def refuses(roots: list[str]) -> None:
        tried.append(roots)
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(leftovers, "reclaim", refuses)
    path = tmp_path / "b"
    writing = writer(path, options=Options(shard="1of2"))
    RunDirectory.create(writing.run_root).dispose()
    with writer(path, options=Options(shard="2of2")):
        assert tried == [[str(path / "shard-1of2" / "run")]]
    writing.close()


def test_a_shard_whose_journal_is_gone_takes_nothing_from_the_others(tmp_path: Path) -> None:
    path = tmp_path / "b"
    with writer(path, options=Options(shard="1of2")) as writing:
        writing.store(writing.task("a"), failed(b"half"))
    runs_shard(path, "2of2", "ab", total=2)
    (path / "shard-1of2" / "journal.jsonl").unlink()
    with Batch.open(path) as batch:
        assert batch.verify() == []
        assert [record.output().read() for record in batch] == [b"a", b"b"]
        assert [[one.number for one in record.attempts] for record in batch] == [[2], [1]]
    runs_shard(path, "0", "abc", total=3)
    assert main(["status", str(path)]) == 0


def test_of_many_shards_few_hold_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as an array of SLURM has tasks, where a process may have 1,024 files."""
    monkeypatch.setattr(history, "_KEPT", 3)
    path, count = tmp_path / "b", 21
    for number in range(count):
        runs_shard(path, f"{number}", [f"{number}", f"{number}" * 30_000][number % 2 :], total=9)
    before = len(os.listdir("/proc/self/fd"))
    with Batch.open(path) as batch:
        assert all(record.output().read() == record.input.encode() for record in batch)
        assert len(os.listdir("/proc/self/fd")) - before <= 3 * 3 + 2
        assert len(batch) == count + count // 2 + 1
        assert batch.verify() == []
        last = next(record for record in batch if record.input == f"{count - 1}")
    with pytest.raises(ClosedError):
        last.output()
    with writer(path, options=Options(shard=f"{count - 2}")) as writing:
        task = writing.task(f"{count - 1}")
        assert not task.runs
        writing.store(writing.task("new"), ended(b"new"))
    found = writing.history.attempt(task.row)  # as of a job that is taken from the directory
    assert found is not None
    assert found[0].read(found[1].out) == f"{count - 1}".encode()
    writing.history.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 1


@pytest.mark.parametrize("shards", [("0", "1of2"), ("1of2", "0")])
def test_a_later_attempt_that_fails_counts_where_it_was_to_replace_a_success(
    tmp_path: Path, shards: tuple[str, str]
) -> None:
    """The old result counted on and ran no more; its two attempts had one number and one file."""
    path, (first, second) = tmp_path / "b", shards
    runs_shard(path, first, "ab", total=2)
    with writer(path, options=Options(shard=second, resume=Resume.ALL)) as writing:
        task = writing.task("a")
        for size in (70_000, 80_000):
            writing.store(task, failed(bytes(size)))
        assert writing.attempts(task) == 3
    with Batch.open(path) as batch:
        assert batch.verify() == []
        assert [record.status for record in batch] == ["failed", "done"]
        attempts = next(iter(batch)).attempts
        assert [one.number for one in attempts] == [1, 2, 3]
        assert [one.output().size for one in attempts] == [1, 70_000, 80_000]
    runs_shard(path, "1of3", "ab", total=2)
    with Batch.open(path) as batch:
        assert [len(record.attempts) for record in batch] == [4, 1]
        assert batch.status()["done"] == 2


@pytest.mark.parametrize("shards", [("0", "1of2"), ("1of2", "0")])
def test_a_failure_that_knew_of_no_success_takes_nothing_from_it(
    tmp_path: Path, shards: tuple[str, str]
) -> None:
    path, (first, second) = tmp_path / "b", shards
    with writer(path, options=Options(shard=second)) as writing:
        task = writing.task("a")
        runs_shard(path, first, "a", total=1)
        for _ in range(2):
            writing.store(task, failed(b"no"))
    with Batch.open(path) as batch:
        assert [(one.status, one.output().read()) for one in batch] == [("done", b"a")]
