"""Disks that are full, read-only or without locks, and directories of others."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock
import pytest

from collector import Batch, BatchError, Collector, SpillError
from tests.support.batchdir import ended, journal, output, run, writer
from tests.support.batchjobs import many_bytes
from tests.support.disks import fill, free, small_disk
from tests.support.scripts import ROOT

PAGE = 4096
SIZES = {f"job {n}": (n * 1237) % 9000 for n in range(20)} | {"large": 70_000, "larger": 130_000}


@pytest.fixture(name="disk")
def _disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, 1 << 20) as disk:
        yield disk


def store_what_fits(path: Path) -> tuple[list[str], list[str]]:
    """Run the batch; returns which jobs were stored, and which the disk refused."""
    stored, refused = [], []
    with writer(path) as writing:
        for text, size in SIZES.items():
            task = writing.task(text, name=text)
            if not task.runs:
                continue
            try:
                data = output(text, size)
                writing.store(task, ended(data, log=b"log" * 100, value=data[:3000]))
            except SpillError as error:
                if error.errno != errno.ENOSPC or os.fspath(path) not in str(error.filename):
                    raise
                refused.append(text)
            else:
                stored.append(text)
    return stored, refused


@pytest.mark.parametrize("pages", [2, 5, pytest.param(None, marks=pytest.mark.slow)])
def test_a_full_disk_fails_the_jobs_that_it_refuses_and_keeps_the_others(
    disk: Path, pages: int | None
) -> None:
    for spare in range(2, 60) if pages is None else [pages]:
        path = disk / f"b{spare}"
        run(path, [])
        ballast = fill(disk, spare * PAGE)
        stored, refused = store_what_fits(path)
        assert refused
        with Batch.open(path) as batch:
            assert batch.verify() == []
            assert sorted(r.input for r in batch if r.status == "done") == sorted(stored)
            for record in batch:
                if record.status == "done":
                    assert record.output().read() == output(record.input, SIZES[record.input])
                assert len(record.attempts) == (record.status == "done")
        ballast.unlink()
        again, none = store_what_fits(path)
        assert (sorted(again), none) == (sorted(refused), [])
        with Batch.open(path) as batch:
            assert {r.input: r.output().read() for r in batch} == {
                text: output(text, size) for text, size in SIZES.items()
            }
        shutil.rmtree(path)


def test_what_a_full_disk_refuses_takes_no_room(disk: Path) -> None:
    path = disk / "b"
    run(path, [])
    fill(disk, 4 * PAGE)
    with writer(path) as writing:
        task = writing.task("huge")
        writing.store(writing.task("first"), ended(b"first"))
        before = free(disk)
        for size in (30_000, 100_000):
            with pytest.raises(SpillError):
                writing.store(task, ended(bytes(size), log=bytes(size), value=bytes(size)))
            assert free(disk) == before


@pytest.mark.parametrize("sizes", [(100_000, 100_000, 10), (100_000, 10, 100_000)])
def test_a_file_whose_attempt_does_not_fit_is_taken_away_again(
    disk: Path, sizes: tuple[int, int, int]
) -> None:
    path = disk / "b"
    run(path, ["a"])
    fill(disk, 40 * PAGE)
    with writer(path) as writing:
        task = writing.task("large")
        before = free(disk)
        out, log, value = map(bytes, sizes)
        with pytest.raises(SpillError):
            writing.store(task, ended(out, log=log, value=value))
        assert free(disk) == before
        assert list(path.glob("shard-0/files/*/*")) == []


def test_a_disk_that_is_too_full_to_begin_is_one_error_before_anything_runs(disk: Path) -> None:
    path = disk / "b"
    ballast = fill(disk)
    with (
        Collector(1, progress=False) as collector,
        pytest.raises(BatchError, match="No space left"),
    ):
        next(collector.collect(many_bytes, [1], batch=path))
    ballast.unlink()
    run(path, ["a"])
    end = b'{"event":"left"' + b"x" * (PAGE - journal(path).stat().st_size % PAGE - 16) + b"\n"
    with journal(path).open("ab") as file:
        file.write(end)  # the next line needs a page of its own
    fill(disk)
    with pytest.raises(BatchError, match="No space left"):
        writer(path)
    with Batch.open(path) as batch:
        assert batch.status()["done"] == 1


def test_a_collect_onto_a_full_disk_goes_on(disk: Path) -> None:
    path = disk / "b"
    run_well = [100] * 3
    with Collector(1, progress=False) as collector:
        list(collector.collect(many_bytes, [1], batch=path))
        ballast = fill(disk, 8 * PAGE)
        jobs = list(collector.collect(many_bytes, [500_000, *run_well, 600_000], batch=path))
        errors = {job.args[0]: job.exception() for job in jobs}
        assert {size: type(error) for size, error in errors.items()} == {
            500_000: SpillError,
            600_000: SpillError,
            100: type(None),
        }
        ballast.unlink()
        again = list(collector.collect(many_bytes, [300_000, *run_well, 200_000], batch=path))
        assert [job.exception() for job in again] == [None] * 5
        assert sorted(job.args[0] for job in again if job.resumed) == run_well


def test_a_disk_that_can_only_be_read_is_read_and_not_written(tmp_path: Path, disk: Path) -> None:
    path = disk / "b"
    run(path, ["a"])
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        with Batch.open(path) as batch:
            assert [r.value() for r in batch] == ["A"]
            assert batch.verify() == []
        with pytest.raises(BatchError, match="Read-only file system"):
            writer(path)
        with pytest.raises(BatchError, match="Read-only file system"):
            writer(disk / "new")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


def as_nobody(source: str, *arguments: str | Path) -> str:
    """Run a script as another user, who may read everything; return what it prints."""
    begin = "from tests.support.otheruser import become; import sys; become(65534)\n"
    done = subprocess.run(
        [sys.executable, "-c", begin + source, *arguments],
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_another_user_s_directory_is_read_at_most(tmp_path: Path) -> None:
    run(tmp_path / "b", ["a"])
    os.chmod(tmp_path, 0o755)
    said = as_nobody(
        "from collector import Batch\n"
        "from tests.support.batchdir import writer\n"
        "for act in (lambda: print(next(iter(Batch.open(sys.argv[1]))).output().read()),\n"
        "            lambda: next(iter(Batch.open(sys.argv[1]))).value(),\n"
        "            lambda: writer(sys.argv[1])):\n"
        "    try: act()\n"
        "    except Exception as error: print(type(error).__name__, error)\n",
        tmp_path / "b",
    ).splitlines()
    assert said[0] == repr(output("a"))
    assert said[1].startswith("BatchError")
    assert "nothing of it is unpickled" in said[1]
    assert said[2].startswith("BatchError")
    assert "belongs to user 0, not to you (65534)" in said[2]


def test_nothing_is_unpickled_where_others_may_write(tmp_path: Path) -> None:
    run(tmp_path / "b", ["a"])
    os.chmod(tmp_path / "b", 0o770)
    with Batch.open(tmp_path / "b") as batch:
        (record,) = batch
        with pytest.raises(BatchError, match="others may write"):
            record.value()
        assert record.output().read() == output("a")


def test_where_locks_are_refused_it_is_said_and_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def refuse(lock: filelock.FileLock, *_arguments: object, **_options: object) -> None:
        tried.append(lock.lock_file)
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    assert run(tmp_path / "b", ["a", "b"]) == ["a", "b"]
    assert run(tmp_path / "b", ["a", "b"]) == []
    assert tried
    assert "locks are refused in" in caplog.text
    with writer(tmp_path / "b") as one, writer(tmp_path / "b") as other:
        # Nobody can tell them of each other; what each writes is read all the same.
        one.store(one.task("one"), ended(b"1"))
        other.store(other.task("other"), ended(b"22"))
        one.store(one.task("one more"), ended(b"333"))
    with Batch.open(tmp_path / "b") as batch:
        assert batch.verify() == []
        assert {r.input: r.output().read() for r in batch if r.name == ""} == {
            "one": b"1",
            "other": b"22",
            "one more": b"333",
        }
