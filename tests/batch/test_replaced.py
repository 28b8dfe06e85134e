"""What is read of a batch while a running process replaces it: each job always has a result."""

import pickle
from pathlib import Path

import pytest

from collector import Batch, OutputLostError
from collector.batch.record import with_output
from collector.batch.states import Resume
from collector.batch.writer import Options
from collector.store.output.output import Output
from tests.support.batchdir import ended, failed, writer

LARGE = 100_000


def fill(path: Path, byte: bytes, *, bad: bool = False) -> None:
    """Run all jobs, each with an output, a log and a value in files of their own."""
    with writer(path, options=Options(resume=Resume.ALL)) as batch:
        for text in ("a", "b"):
            attempt = ended(byte * LARGE, byte * LARGE, pickle.dumps(byte * LARGE))
            if bad:
                attempt.status, attempt.error = "error", failed(b"").error
            batch.store(batch.task(text), attempt)
        batch.flush()


def test_a_record_gives_what_has_replaced_its_result(tmp_path: Path) -> None:
    fill(tmp_path / "b", b"1")
    with Batch.open(tmp_path / "b") as batch:
        first, second = batch
        for byte in (b"2", b"3"):
            fill(tmp_path / "b", byte)
            assert first.output().read() == byte * LARGE
            assert first.log().read() == byte * LARGE
            assert first.value() == byte * LARGE
        assert second.output().read() == b"3" * LARGE
        paths = batch.export(str(tmp_path / "{input}.txt"))
        assert [path.read_bytes() for path in paths] == [b"3" * LARGE] * 2
        assert batch.verify() == []


def test_what_is_replaced_just_before_it_is_opened_is_looked_for_again(tmp_path: Path) -> None:
    fill(tmp_path / "b", b"1")
    later = iter(b"23")

    def read(output: Output) -> bytes:
        for byte in later:
            fill(tmp_path / "b", bytes([byte]))
            break
        return output.read()

    with Batch.open(tmp_path / "b") as batch:
        record, _ = batch
        assert with_output(record, read) == b"3" * LARGE
        later = iter(b"45")
        assert with_output(record, read, log=True) == b"5" * LARGE


def test_what_is_gone_and_not_replaced_is_lost(tmp_path: Path) -> None:
    fill(tmp_path / "b", b"1")
    with Batch.open(tmp_path / "b") as batch:
        record, _ = batch
        for file in (tmp_path / "b" / "shard-0" / "files").rglob("*.out"):
            file.unlink()
        fill(tmp_path / "b", b"2", bad=True)
        with pytest.raises(OutputLostError):
            with_output(record, Output.read)


def test_what_a_failed_attempt_left_goes_when_a_later_one_succeeds(tmp_path: Path) -> None:
    fill(tmp_path / "b", b"1", bad=True)
    with Batch.open(tmp_path / "b") as batch:
        record, _ = batch
        assert record.output().read() == b"1" * LARGE
        fill(tmp_path / "b", b"2")
        with pytest.raises(OutputLostError):
            record.output()
