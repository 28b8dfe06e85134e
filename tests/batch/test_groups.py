"""Attempts are stored in groups, and each counts or fails by itself."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector import Batch, SpillError
from collector.batch import keeping
from collector.batch.lines import Ended, decode
from collector.batch.table import Table
from collector.batch.writer import Options
from collector.store.output import spill_file
from tests.support.batchdir import ended, failed, journal, output, run, writer
from tests.support.disks import fill, small_disk

LONG = 2500
"""Bytes of an input: two lines that tell of such take more than the page that a journal has."""

BOTH = pytest.mark.parametrize("options", [Options(), Options(durable=True)], ids=["", "durable"])


@pytest.fixture(name="disk")
def _disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, 1 << 20) as disk:
        yield disk


def contents(path: Path) -> dict[str, bytes]:
    """Return the output of each job that is done, by the first letter of its input."""
    with Batch.open(path) as batch:
        assert batch.verify() == []
        return {one.input[0]: one.output().read() for one in batch if one.status == "done"}


@BOTH
def test_of_a_group_those_count_whose_lines_the_disk_takes(disk: Path, options: Options) -> None:
    path = disk / "b"
    with writer(path, options=options) as writing:
        writing.store(writing.task("first"), ended(output("f")))  # the pack has a page by that
        writing.flush()
        puts = [writing.put(writing.task(text * LONG), ended(output(text))) for text in "ab"]
        ballast = fill(disk)
        with pytest.raises(SpillError):
            writing.flush()
        assert [put.counts for put in puts] == [True, False]
        assert (path / "shard-0" / "pack-000001").read_bytes() == output("f") + output("a")
        ballast.unlink()
        writing.store(writing.task("c"), ended(output("c")))
        writing.flush()
    assert contents(path) == {"f": output("f"), "a": output("a"), "c": output("c")}
    assert run(path, ["a" * LONG, "b" * LONG, "c"]) == ["b" * LONG]


@BOTH
def test_of_a_group_those_count_whose_bytes_the_disk_takes(disk: Path, options: Options) -> None:
    path = disk / "b"
    with writer(path, options=options) as writing:
        texts = "abcd"
        tasks = [writing.task(text) for text in texts]
        fill(disk, spare_bytes=64 << 10)
        sizes = [60_000, 30_000, 60_000, 20]
        puts = [
            writing.put(task, ended(output(text, size)))
            for task, text, size in zip(tasks, texts, sizes, strict=True)
        ]
        with pytest.raises(SpillError, match="pack-000001"):
            writing.flush()
        assert [put.counts for put in puts] == [True, False, False, True]
        pack = path / "shard-0" / "pack-000001"
        assert pack.read_bytes() == output("a", 60_000) + output("d")
    assert contents(path) == {"a": output("a", 60_000), "d": output("d")}


@BOTH
def test_a_large_output_of_what_does_not_count_is_removed(disk: Path, options: Options) -> None:
    path = disk / "b"
    with writer(path, options=options) as writing:
        puts = [
            writing.put(writing.task(text * LONG), ended(output(text, 70_000))) for text in "ab"
        ]
        fill(disk)
        with pytest.raises(SpillError):
            writing.flush()
        assert [put.counts for put in puts] == [True, False]
        assert len(list(path.glob("shard-0/files/*/*"))) == 1
    assert contents(path) == {"a": output("a", 70_000)}


@BOTH
def test_attempts_of_one_job_have_their_numbers(tmp_path: Path, options: Options) -> None:
    path = tmp_path / "b"
    with writer(path, options=options) as writing:
        task = writing.task("a")
        first = writing.put(task, failed(output("no")))
        second = writing.put(task, ended(output("a")))
        writing.flush()
        assert (first.ended.attempt, second.ended.attempt) == (1, 2)
    lines = journal(path).read_bytes().splitlines(keepends=True)
    told = [one for one in map(decode, lines) if isinstance(one, Ended)]
    assert [(one.attempt, one.before is None) for one in told] == [(1, True), (2, False)]
    assert contents(path) == {"a": output("a")}


def test_a_number_that_was_not_used_is_that_of_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with writer(tmp_path / "b") as writing:
        task = writing.task("a")
        first = writing.put(task, failed(output("no")))
        with monkeypatch.context() as patch:
            patch.setattr(keeping, "write_all", refuse)
            second = writing.put(task, ended(output("a")))
        writing.flush()
        assert isinstance(first.failure, SpillError)
        assert (second.failure, second.ended.attempt) == (None, 1)
    assert contents(tmp_path / "b") == {"a": output("a")}


def test_an_error_of_ours_lets_nothing_count_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be raised while another attempt is put."""

    def fail(_fd: int, _data: bytes) -> None:
        raise RuntimeError("ours")

    with writer(tmp_path / "b") as writing:
        task = writing.task("a")
        first = writing.put(task, failed(output("no")))
        with monkeypatch.context() as patch:
            patch.setattr(keeping, "write_all", fail)
            with pytest.raises(RuntimeError):
                writing.put(task, ended(output("a")))
        assert isinstance(first.failure, RuntimeError)


def test_what_is_small_is_held_in_few_bytes(tmp_path: Path) -> None:
    """64 jobs with outputs, logs and values of nearly 64 KiB each would be 12 MB."""
    with writer(tmp_path / "b") as writing:
        held = 0
        for number in range(64):
            writing.put(writing.task(number), ended(bytes(60_000)))
            waiting = writing._writing._waiting.values()
            held = max(held, sum(len(one) for put in waiting for one in put.small.values()))
        assert 500_000 < held < 2_000_000
        writing.flush()
    with Batch.open(tmp_path / "b") as batch:
        assert batch.status()["done"] == 64


def test_who_reads_inputs_does_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that iterates stood still while others' results were written."""
    writes, goes_on, was_read = threading.Event(), threading.Event(), threading.Event()
    write_all = spill_file.write_all

    def slow(fd: int, data: bytes) -> None:
        writes.set()
        assert goes_on.wait(60)
        write_all(fd, data)

    def read() -> None:
        writing.task("b")
        was_read.set()

    with writer(tmp_path / "b") as writing:
        task = writing.task("a")
        monkeypatch.setattr(keeping, "write_all", slow)
        storing = threading.Thread(target=writing.store, args=(task, ended(output("a"))))
        storing.start()
        assert writes.wait(60)
        reading = threading.Thread(target=read)
        reading.start()
        arrived = was_read.wait(30)
        goes_on.set()
        storing.join()
        reading.join()
        assert arrived


def test_an_error_of_ours_behind_the_lines_takes_nothing_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files went of which the journal tells."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise MemoryError

    path = tmp_path / "b"
    with writer(path) as writing:
        puts = [writing.put(writing.task(text), ended(output(text, 70_000))) for text in "ab"]
        with monkeypatch.context() as patch:
            patch.setattr(Table, "ended", fail)
            with pytest.raises(MemoryError):
                writing.flush()
        assert [(put.counts, put.failure) for put in puts] == [(True, None)] * 2
    assert contents(path) == {text: output(text, 70_000) for text in "ab"}


def test_what_was_put_and_never_counted_is_removed_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "b"
    with writer(path) as writing:
        writing.put(writing.task("a"), ended(output("a", 70_000)))
    with writer(path):
        assert not [*path.glob("shard-0/files/*/*")]
