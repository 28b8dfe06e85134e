"""Attempts of one job: each has its number, its files and its line."""

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from collector import Batch, Collector, JobError, OutputLostError, ProgressEvent, current_job
from collector.batch.writer import Options
from collector.store.output.output import Output
from tests.support.batchdir import ended, failed, journal, run, writer

SIZE = 100_000


def store_together(path: Path, options: Options) -> None:
    """Store an attempt that failed, and one that succeeded, as one group."""
    with writer(path, options=options) as writing:
        task = writing.task("a", name="job-a")
        writing.store(task, failed(b"1" * SIZE))
        writing.store(task, ended(b"2" * SIZE))
        writing.flush()


@pytest.mark.parametrize("durable", [False, True])
def test_a_success_keeps_its_output_when_its_failure_is_stored_with_it(
    tmp_path: Path, durable: bool
) -> None:
    store_together(tmp_path / "b", Options(durable=durable))
    with Batch.open(tmp_path / "b") as batch:
        assert batch.verify() == []
        (record,) = batch
        assert [(a.number, a.status, a.kept) for a in record.attempts] == [
            (1, "error", False),
            (2, "done", True),
        ]
        assert record.output().read() == b"2" * SIZE
    assert len(list((tmp_path / "b").glob("shard-0/files/*/*"))) == 1
    assert run(tmp_path / "b", ["a"]) == []


@pytest.mark.parametrize("durable", [False, True])
def test_failures_that_are_kept_have_files_of_their_own(tmp_path: Path, durable: bool) -> None:
    store_together(tmp_path / "b", Options(durable=durable, keep_failed=True))
    with Batch.open(tmp_path / "b") as batch:
        assert batch.verify() == []
        (record,) = batch
        assert [a.output().read()[:1] for a in record.attempts] == [b"1", b"2"]
    assert journal(tmp_path / "b").read_text().count('"before":{"shard"') == 1


@pytest.mark.parametrize("size", [1, SIZE])
def test_what_a_later_attempt_has_replaced_is_not_given_for_kept(tmp_path: Path, size: int) -> None:
    with writer(tmp_path / "b") as writing:
        task = writing.task("a", name="job-a")
        first = failed(b"1" * size)
        first.log = Output.in_memory(b"3" * size, chunks=1)
        writing.store(task, first)
        writing.store(task, ended(b"2" * size))
    with Batch.open(tmp_path / "b") as batch:
        (record,) = batch
        replaced, last = record.attempts
        assert [replaced.kept, last.kept] == [False, True]
        why = "is lost: a later attempt has replaced it"
        with pytest.raises(OutputLostError, match=f"the output {why}"):
            replaced.output()
        with pytest.raises(OutputLostError, match=f"what the job printed {why}"):
            replaced.log()
        assert last.output().read() == b"2" * size


class Heard:
    """Notes which attempts of this run it was told of."""

    def __init__(self) -> None:
        self.attempts: list[int] = []
        self.meters: Mapping[str, float] = {}

    def update(self, event: ProgressEvent) -> None:
        if event.job_id is not None:
            self.attempts.append(event.attempt)
            self.meters = event.meters

    def close(self) -> None:
        """Nothing is left to do."""


def dies(_: str) -> Iterator[str]:
    yield str(current_job().attempt)
    current_job().count(tries=1)
    current_job().flush()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_attempts_and_what_they_count_go_on_over_all_runs(tmp_path: Path) -> None:
    heard = Heard()
    with Collector(1, progress=heard) as collector:
        again = collector.with_options(retries=1)
        for last in (2, 4):
            (job,) = again.collect(dies, ["a"], batch=tmp_path / "b")
            error = job.exception()
            assert isinstance(error, JobError)
            assert (job.attempt, error.attempt, job.output().text()) == (last, last, str(last))
            assert f"(attempt {last})" in str(error)
            assert job.meters == {"tries": last}
        (job,) = collector.collect(dies, ["a"], batch=tmp_path / "b", resume="new")
        assert (job.resumed, job.attempt, job.meters) == (True, 4, {"tries": 4})
    with Batch.open(tmp_path / "b") as batch:
        (record,) = batch
        assert [(one.number, one.meters) for one in record.attempts] == [
            (number, {"tries": 1}) for number in (1, 2, 3, 4)
        ]
        assert "(attempt 4)" in (record.error or "")
    # What is shown counts the attempts of this run: none, of a job that an earlier one has ended.
    assert set(heard.attempts) == {1, 2}
    assert heard.attempts[-1] == 1
    assert heard.meters == {"tries": 4}
