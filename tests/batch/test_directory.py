"""The directory itself: made, continued, read, and refused where it is not what it should be."""

import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from collector import Batch, BatchError, ClosedError
from collector.batch import keeping
from collector.batch.states import Resume
from collector.batch.writer import Options
from collector.store.rundir.locks import share
from tests.support.batchdir import COUNT, command, ended, failed, journal, output, run, writer


def test_what_was_stored_is_read_again(tmp_path: Path) -> None:
    run(tmp_path / "b", ["a", "b", "c"])
    with Batch.open(tmp_path / "b") as batch:
        assert [(r.input, r.name, r.status) for r in batch] == [
            ("a", "job-a", "done"),
            ("b", "job-b", "done"),
            ("c", "job-c", "done"),
        ]
        assert [r.output().read() for r in batch] == [output("a"), output("b"), output("c")]
        assert [r.log().text() for r in batch] == ["log of a", "log of b", "log of c"]
        assert [r.value() for r in batch] == ["A", "B", "C"]
        assert [len(r.attempts) for r in batch] == [1, 1, 1]
        first = next(iter(batch))
        assert first.start is not None
        assert first.end is not None
        assert first.start <= first.end
        assert (first.worker, first.error, first.seq) == (1, None, 0)
        assert batch.find(first.key) is not None
        assert batch.verify() == []
        assert batch.runs == "tests:job"


def test_what_is_done_runs_no_second_time(tmp_path: Path) -> None:
    assert run(tmp_path / "b", ["a", "b"]) == ["a", "b"]
    assert run(tmp_path / "b", ["a", "b"]) == []
    assert run(tmp_path / "b", ["new", "b", "a", "b"]) == ["new", "b"]
    assert run(tmp_path / "b", ["b", "b", "b"]) == ["b"]


def test_records_come_in_the_order_of_the_last_run(tmp_path: Path) -> None:
    run(tmp_path / "b", ["a", "b"])
    run(tmp_path / "b", ["x", "b", "a"])
    with Batch.open(tmp_path / "b") as batch:
        assert [r.input for r in batch] == ["x", "b", "a"]


@pytest.mark.parametrize("size", [0, 1, 64 * 1024 - 1, 64 * 1024, 300_000])
def test_outputs_of_any_size_are_exact(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    with writer(tmp_path / "b") as writing:
        task = writing.task("a")
        writing.store(task, ended(data))
    with Batch.open(tmp_path / "b") as batch:
        record = next(iter(batch))
        assert record.output().read() == data
        assert record.size == size
        assert batch.status()["bytes"] == size
    files = list((tmp_path / "b" / "shard-0").glob("files/*/*"))
    assert len(files) == (size >= 64 * 1024)


@pytest.mark.parametrize("size", [1, 64 * 1024])
def test_what_is_asked_of_a_closed_batch_is_not_said_to_be_lost(tmp_path: Path, size: int) -> None:
    with writer(tmp_path / "b") as writing:
        writing.store(writing.task("a"), ended(bytes(size)))
    with Batch.open(tmp_path / "b") as batch:
        (record,) = batch
        kept = record.output()
    assert kept.size == len(kept.read()) == size
    for late in (record.output, batch.verify, lambda: list(batch)):
        with pytest.raises(ClosedError, match=r"this batch is closed; .* before close\(\)"):
            late()


def test_small_outputs_make_few_files(tmp_path: Path) -> None:
    with writer(tmp_path / "b") as writing:
        for number in range(COUNT):
            writing.store(writing.task(number), ended(b"x" * 2000))
    assert sum(len(names) for *_, names in os.walk(tmp_path)) < 10
    with Batch.open(tmp_path / "b") as batch:
        assert batch.status()["done"] == COUNT


def test_all_of_it_is_ours_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with writer(tmp_path / "b") as writing:
            writing.store(writing.task("a"), ended(os.urandom(100_000)))
            writing.store(writing.task("b"), ended(b"small"))
    finally:
        os.umask(old)
    for parent, directories, names in os.walk(tmp_path / "b"):
        for name in directories:
            assert stat.S_IMODE(os.lstat(os.path.join(parent, name)).st_mode) == 0o700
        for name in names:
            assert stat.S_IMODE(os.lstat(os.path.join(parent, name)).st_mode) == 0o600


def test_it_may_be_moved(tmp_path: Path) -> None:
    run(tmp_path / "b", ["a"], sizes={"a": 200_000})
    os.rename(tmp_path / "b", tmp_path / "moved")
    with Batch.open(tmp_path / "moved") as batch:
        assert len(next(iter(batch)).output().read()) == 200_000
    assert run(tmp_path / "moved", ["a"]) == []


def test_a_second_writer_of_one_process_is_told_what_to_close(tmp_path: Path) -> None:
    with writer(tmp_path / "b"):
        with pytest.raises(BatchError, match=r"this process writes into it: call close\(\) on"):
            writer(tmp_path / "b")
        with Batch.open(tmp_path / "b") as batch:
            assert batch.status()["done"] == 0
    with writer(tmp_path / "b"):
        pass


def test_one_who_looks_whether_a_process_writes_keeps_nobody_from_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "b", ["a"])
    look = os.open(tmp_path / "b" / "shard-0" / "lock", os.O_RDONLY)

    def shared_with_the_one_who_goes(fd: int) -> bool:
        shared = share(fd)
        os.close(look)
        return shared

    fcntl.flock(look, fcntl.LOCK_SH)
    monkeypatch.setattr(keeping, "share", shared_with_the_one_who_goes)
    assert run(tmp_path / "b", ["a", "b"]) == ["b"]


def test_a_second_process_is_told_who_has_it(tmp_path: Path) -> None:
    source = (
        "import sys; from tests.support.batchdir import writer\n"
        "try: writer(sys.argv[1])\nexcept Exception as e: print(type(e).__name__, e)"
    )
    with writer(tmp_path / "b"):
        done = subprocess.run(
            [sys.executable, "-c", source, tmp_path / "b"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert f"BatchError: process {os.getpid()}" in done.stdout.replace(
        "BatchError [Errno 11] ", "BatchError: "
    )


def test_something_else_is_not_run_in_it(tmp_path: Path) -> None:
    run(tmp_path / "b", ["a"])
    with pytest.raises(
        BatchError, match="runs the function tests:job, not the function tests:other"
    ):
        writer(tmp_path / "b", what="tests:other")
    with pytest.raises(BatchError, match=r"not the command echo \{\}"):
        command(tmp_path / "b", "echo {}")


def test_a_changed_function_is_said_and_not_run_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "b", ["a", "b"])
    assert run(tmp_path / "b", ["a", "b", "c"], source="other") == ["c"]
    assert "tests:job, or what it is bound to, has changed since: 2 results are" in caplog.text


def test_a_directory_with_results_is_refused_if_that_is_asked_for(tmp_path: Path) -> None:
    with writer(tmp_path / "b", options=Options(resume=Resume.NEVER)) as writing:
        writing.store(writing.task("a"), ended(b"1"))
    with pytest.raises(BatchError, match="has results already"):
        writer(tmp_path / "b", options=Options(resume=Resume.NEVER))


def test_a_batch_of_which_nothing_has_ended_has_no_results(tmp_path: Path) -> None:
    with writer(tmp_path / "b") as writing:
        writing.started(writing.task("a"), 1.0)
        writing.read(writing.task("b"))
    with journal(tmp_path / "b").open("ab") as file:
        file.write(b"torn")
    never = Options(resume=Resume.NEVER)
    with writer(tmp_path / "b", options=never) as writing:
        writing.store(writing.task("a"), failed(b"1"))
    with pytest.raises(BatchError, match="has results already"):
        writer(tmp_path / "b", options=never)


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BatchError, match="no batch directory, and it is not empty"):
        writer(tmp_path)
    with pytest.raises(BatchError, match="no batch directory, and it is not empty"):
        Batch.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for path, why in (
        ("file", "Not a directory"),
        ("missing", "No such file"),
        ("empty", "is empty"),
    ):
        with pytest.raises(BatchError, match=why):
            Batch.open(tmp_path / path)
    with pytest.raises(BatchError, match="Not a directory"):
        writer(tmp_path / "file")
    with pytest.raises(ValueError, match="not an empty one"):
        Batch.open("")


@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b"[1]", b"\xff", b'{"format": "1"}', b"[" * 10**5]
)
def test_without_its_facts_nothing_runs_and_nothing_is_removed(
    tmp_path: Path, content: bytes | None
) -> None:
    run(tmp_path / "b", ["a"])
    facts = tmp_path / "b" / "batch.json"
    facts.unlink()
    if content is not None:
        facts.write_bytes(content)
    before = sorted(map(str, (tmp_path / "b").rglob("*")))
    for opening in (writer, Batch.open):
        with pytest.raises(BatchError, match=r"batch\.json"):
            opening(tmp_path / "b")
    assert sorted(map(str, (tmp_path / "b").rglob("*"))) == before


@pytest.mark.parametrize("time", [10**400, float("nan"), -1, 2e12, None])
def test_a_time_that_is_none_is_one_error(tmp_path: Path, time: float | None) -> None:
    run(tmp_path / "b", ["a"])
    facts = tmp_path / "b" / "batch.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"time": time}))
    for opening in (writer, Batch.open):
        with pytest.raises(BatchError, match=r"batch\.json cannot be read"):
            opening(tmp_path / "b")


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "b", ["a"])
    facts = tmp_path / "b" / "batch.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"format": 2, "version": "9.9"}))
    for opening in (writer, Batch.open):
        with pytest.raises(BatchError, match=r"of format 2.*knows formats up to 1.*\(9\.9\)"):
            opening(tmp_path / "b")


def test_lines_of_a_later_minor_version_are_passed_over(tmp_path: Path) -> None:
    run(tmp_path / "b", ["a"])
    with journal(tmp_path / "b").open("ab") as file:
        file.write(b'{"event":"new","what":1}\n')
    with Batch.open(tmp_path / "b") as batch:
        assert batch.verify() == []
    assert run(tmp_path / "b", ["a"]) == []
