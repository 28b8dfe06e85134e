"""`durable=True`: what counts is on the disk."""

import errno
import os
from pathlib import Path

import pytest

from collector import Batch, SpillError
from collector.batch.states import Resume
from collector.batch.writer import Options
from tests.support.batchdir import ended, journal, output, run, writer

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
