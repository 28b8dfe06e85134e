"""`verify` beside a process that writes: what it is just replacing is no problem."""

import os
from pathlib import Path

from collector import Batch
from collector.batch.states import Resume
from collector.batch.writer import Options
from tests.support.batchdir import ended, output, run, writer

ALL = Options(resume=Resume.ALL)
SIZE = 70_000
SIZES = dict.fromkeys("abc", SIZE)


def test_what_was_replaced_since_the_batch_was_opened_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "b"
    run(path, SIZES, sizes=SIZES)
    with Batch.open(path) as batch:
        with writer(path, options=ALL) as writing:
            for text in "abc":
                writing.store(writing.task(text), ended(output(text.upper(), SIZE + 1)))
            assert batch.verify() == []
        with Batch.open(path) as later:
            assert later.verify() == []


def test_what_is_gone_is_told_also_while_a_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "b"
    run(path, SIZES, sizes=SIZES)
    with Batch.open(path) as batch, writer(path, options=ALL) as writing:
        writing.store(writing.task("a"), ended(output("A", SIZE)))
        (gone,) = (r for r in batch if r.input == "b")
        os.unlink(gone.output())
        (problem,) = batch.verify()
        assert f"job job-b (key {gone.key}), attempt 1: its output: files/" in problem


def test_a_saved_file_that_is_just_replaced_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "b"

    def store(options: Options, data: bytes, *, flush: bool) -> list[str]:
        with writer(path, options=options._replace(durable=True)) as writing:
            attempt = ended(data)
            attempt.save = os.fspath(tmp_path / "a.txt")
            writing.store(writing.task("a"), attempt)
            if flush:
                writing.flush()
            with Batch.open(path) as batch:
                return batch.verify()

    assert store(Options(), b"one", flush=True) == []
    assert store(ALL, b"two!", flush=False) == []  # its line waits for others
    with Batch.open(path) as batch:  # and never came
        (problem,) = batch.verify()
        assert "attempt 2 was replacing" in problem


def test_a_line_that_is_just_written_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "b"
    journal = path / "shard-0" / "journal.jsonl"
    with writer(path) as writing:
        writing.store(writing.task("a"), ended(b"a"))
        whole = journal.stat().st_size
        writing.store(writing.task("b"), ended(b"b"))
        line = journal.read_bytes()[whole:]
        os.truncate(journal, whole + 10)
        with Batch.open(path) as batch:
            assert len(batch) == 1
            with journal.open("ab") as rest:
                rest.write(line[10:])
            assert batch.verify() == []
