"""`durable=True`: what counts is on the disk."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from collector import Batch, SpillError
from collector.batch import keeping
from collector.batch.states import Resume
from collector.batch.writer import Options
from collector.store.rundir.locks import open_private
from tests.support.batchdir import ended, journal, output, run, writer
from tests.support.faultyos import FaultyOs

DURABLE = Options(durable=True)


def contents(path: Path) -> dict[str, tuple[str, bytes]]:
    """Return status and output of each job that has a result, by the first letter of its input."""
    with Batch.open(path) as batch:
        assert batch.verify() == []
        return {
            record.input[0]: (record.status, record.output().read())
            for record in batch
            if record.attempts
        }


def test_a_saved_file_has_its_name_when_the_journal_tells_of_it_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a loss of power could leave a file that nobody knows to be ours."""
    path, name = tmp_path / "b", tmp_path / "a.txt"
    sync, told = os.fsync, []

    def note(fd: int) -> None:
        sync(fd)
        if os.path.samestat(os.fstat(fd), journal(path).stat()):
            told.append((b'"saving"' in journal(path).read_bytes(), name.exists()))

    with writer(path, options=DURABLE) as writing:
        attempt = ended(b"12345")
        attempt.save = os.fspath(name)
        monkeypatch.setattr(os, "fsync", note)
        writing.store(writing.task("a"), attempt)
        assert told == [(True, False)]
        writing.flush()
        assert told == [(True, False), (True, True)]


@pytest.mark.parametrize("large", [False, True])
def test_what_a_group_replaces_stays_until_its_lines_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    path = tmp_path / "b"
    size = 70_000 if large else 20
    run(path, ["a", "b"], sizes={"a": size, "b": size})
    sync, refused = os.fsync, []

    def refuse(fd: int) -> None:
        if os.path.samestat(os.fstat(fd), journal(path).stat()):
            refused.append(fd)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(fd)

    with writer(path, options=DURABLE._replace(resume=Resume.ALL)) as writing:
        for text in "ab":
            attempt = ended(output(text.upper(), size))
            attempt.meters = {"usd": 2}
            writing.store(writing.task(text), attempt)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refuse)
            with pytest.raises(SpillError, match=r"journal\.jsonl"):
                writing.flush()
        assert len(refused) == 1
        writing.store(writing.task("c"), ended(output("c", size)))
        writing.flush()
    assert contents(path) == {text: ("done", output(text, size)) for text in "abc"}
    with Batch.open(path) as batch:
        assert batch.status()["meters"] == {"usd": 4}


def test_a_group_needs_few_descriptors(tmp_path: Path) -> None:
    """64 jobs with large outputs, logs and values held 384: a process may have 1024."""
    with writer(tmp_path / "b", options=DURABLE) as writing:
        before, most = len(os.listdir("/proc/self/fd")), 0
        for number in range(30):
            large = output("x", 70_000)
            writing.put(writing.task(number), ended(large, log=large, value=large))
            most = max(most, len(os.listdir("/proc/self/fd")) - before)
        writing.flush()
    assert 30 < most < 90
    with Batch.open(tmp_path / "b") as batch:
        assert (batch.status()["done"], batch.verify()) == (30, [])


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("saved", [False, True])
def test_what_cannot_be_opened_to_be_synced_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, saved: bool
) -> None:
    """A file stayed for ever of which no line told, or the job was said to have failed."""
    path, calls = tmp_path / "b", []

    def refuse(name: str, *arguments: Any, **options: Any) -> int:
        calls.append(name)
        if len(calls) == call:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return open_private(name, *arguments, **options)

    with writer(path, options=DURABLE) as writing:
        attempt = ended(output("a", 70_000))
        attempt.save = os.fspath(tmp_path / "a.txt") if saved else ""
        with monkeypatch.context() as patch:
            patch.setattr(keeping, "open_private", refuse)
            with pytest.raises(SpillError, match="Too many open files"):
                writing.put(writing.task("a"), attempt)
        assert len(calls) == call
        writing.flush()
    assert not [*path.glob("shard-0/files/*/*")]
    run(path, ["a"], sizes={"a": 70_000}, options=DURABLE)
    assert contents(path) == {"a": ("done", output("a", 70_000))}


def test_a_disk_that_cannot_sync_is_no_disk_that_refuses_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems say so of a directory, and of all: every job failed there."""

    def cannot(_fd: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", cannot)
        run(tmp_path / "b", ["a", "b"], sizes={"b": 70_000}, options=DURABLE)
    assert contents(tmp_path / "b") == {
        "a": ("done", output("a")),
        "b": ("done", output("b", 70_000)),
    }


def test_a_refusal_is_believed_of_its_group_and_of_no_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From then on a disk that took only some of a group kept none."""
    disk = FaultyOs(monkeypatch, keeping)
    with writer(tmp_path / "b", options=DURABLE) as writing:
        disk.fail("fsync", error=errno.EIO)
        writing.put(writing.task("a"), ended(output("a")))
        with pytest.raises(SpillError):
            writing.flush()
        puts = [writing.put(writing.task(text), ended(output(text))) for text in "bc"]
        disk.fail("lseek", error=errno.ENOSPC)  # of the bytes of both
        writing.flush()
        assert [put.counts for put in puts] == [True, True]
    assert disk.fired == 2
