"""A disk that refuses also what is done about its refusals: nothing is torn, mixed or forgotten."""

import errno
import os
from pathlib import Path

import filelock
import pytest

from collector import Batch, SpillError
from collector.batch import keeping, shard
from collector.batch.lines import Ended, decode
from collector.batch.writer import Options
from tests.support.batchdir import ended, failed, journal, output, writer
from tests.support.faultyos import FaultyOs

DURABLE = Options(durable=True)
WHOLE = {"batch.json", "shard-0/journal.jsonl", "shard-0/lock", "shard-0/pack-000001"}


@pytest.fixture(name="disk")
def _disk(monkeypatch: pytest.MonkeyPatch) -> FaultyOs:
    return FaultyOs(monkeypatch, keeping)


def results(path: Path) -> dict[str, bytes]:
    """Return what each job that is done has written."""
    with Batch.open(path) as batch:
        assert batch.verify() == []
        return {r.input: r.output().read() for r in batch if r.status == "done"}


def files(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("size", [20, 70_000])
def test_a_line_that_cannot_be_cut_off_at_once_is_before_the_next(
    tmp_path: Path, disk: FaultyOs, size: int
) -> None:
    """It was left there, and told of bytes in whose place those of others stood by then."""
    path = tmp_path / "b"
    with writer(path, options=DURABLE) as writing:
        writing.store(writing.task("a"), ended(output("a", size)))
        disk.fail("fsync", at=2 if size == 20 else 3, error=errno.EIO)
        disk.fail("ftruncate", error=errno.EIO)
        with pytest.raises(SpillError):
            writing.flush()
        assert disk.fired == 2
        assert b'"input":"a"' in journal(path).read_bytes()
        writing.store(writing.task("b"), ended(output("b", size)))
        writing.flush()
    assert results(path) == {"b": output("b", size)}
    with writer(path) as writing:
        writing.store(writing.task("a"), ended(output("a", size)))
    assert results(path) == {"a": output("a", size), "b": output("b", size)}


def test_what_another_process_has_appended_meanwhile_is_not_cut_off(
    tmp_path: Path, disk: FaultyOs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where locks are refused there may be one; the line before its own counts then."""

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    path = tmp_path / "b"
    with writer(path, options=DURABLE) as one, writer(path) as other:
        one.store(one.task("a"), ended(output("a", 70_000)))
        disk.fail("fsync", at=3, error=errno.EIO)
        disk.fail("ftruncate", error=errno.EIO)
        with pytest.raises(SpillError):
            one.flush()
        assert disk.fired == 2
        other.store(other.task("b"), ended(output("b")))
        one.store(one.task("c"), ended(output("c")))
        one.flush()
    assert results(path) == {"a": output("a", 70_000), "b": output("b"), "c": output("c")}


def test_nothing_is_written_behind_half_a_line(
    tmp_path: Path, disk: FaultyOs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next line was torn by it: a job that was over counted as not done."""
    path = tmp_path / "b"

    def half(fd: int, data: bytes) -> None:
        os.write(fd, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with writer(path) as writing:
        one, other = writing.task("a"), writing.task("b")
        disk.fail("ftruncate", times=2, error=errno.EIO)
        with monkeypatch.context() as patch:
            patch.setattr(keeping, "write_all", half)
            with pytest.raises(SpillError, match="No space left"):
                writing.store(one, ended(b""))
        with pytest.raises(SpillError, match="Input/output error"):
            writing.store(other, ended(output("b")))
        writing.store(other, ended(output("b")))
    assert disk.fired == 2
    assert results(path) == {"b": output("b")}


def test_a_file_that_cannot_be_removed_goes_when_the_directory_is_opened_next(
    tmp_path: Path, disk: FaultyOs
) -> None:
    """It stayed for ever: a process that has ended well was believed to leave nothing."""
    path = tmp_path / "b"
    with writer(path) as writing:
        task = writing.task("a")
        writing.store(task, failed(output("no", 70_000)))
        disk.fail("unlink", times=2, error=errno.EBUSY)
        writing.store(task, ended(output("a")))
    assert disk.fired == 1
    assert len(files(path) - WHOLE) == 1
    for _ in range(2):  # refused once more, then not
        with writer(path) as writing:
            assert not writing.task("a").runs
    assert disk.fired == 2
    assert files(path) == WHOLE
    assert results(path) == {"a": output("a")}


def test_a_journal_that_cannot_be_read_fails_no_job_that_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its line was written, and it was said to have failed."""
    path = tmp_path / "b"
    disk = FaultyOs(monkeypatch, shard)
    with writer(path) as writing:
        task = writing.task("a")
        writing.store(task, failed(output("no", 70_000)))
        disk.fail("pread", error=errno.EIO)
        writing.store(task, ended(output("a")))
        assert disk.fired == 1
        assert writing.attempts(task) == 2
    with writer(path) as writing:
        assert not writing.task("a").runs
    assert files(path) == WHOLE
    found = [decode(line) for line in journal(path).read_bytes().splitlines(keepends=True)]
    assert [one.attempt for one in found if isinstance(one, Ended)] == [1, 2]
