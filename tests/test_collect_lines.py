"""Which events of a `collect` have lines, and that they cost it nothing."""

import os
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from collector import Mode, Progress, settings
from collector.progress.batch import Batch
from collector.progress.ends import Ended
from collector.progress.line_texts import status_of
from collector.progress.tally import LateJob, LeftOut
from tests.support import shows
from tests.support.person import Person


class FakeJob:
    """A job as far as its progress goes."""

    name = "job"

    def __init__(self, number: int = 1) -> None:
        self.id = number
        self.attempt_of_run = 1
        self.error: BaseException | None = None
        self.size = 0
        self.meters: dict[str, float] = {}

    @property
    def progress(self) -> Progress:
        return Progress(Mode.MEMORY, self.size, 1, None, threshold_exceeded=False)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if isinstance(self.error, CancelledError):
            raise self.error
        return self.error


def said(batch: Batch) -> list[str]:
    """What has lines."""
    return [status_of(one) for one in batch.news() if isinstance(one, Ended)]


def test_a_retried_job_has_a_line_for_each_attempt_also_if_its_starts_are_not_told() -> None:
    batch, job, fast = Batch("", 2), FakeJob(1), FakeJob(2)
    batch.started(job)
    job.size = 7
    assert batch.view().bytes_total == 7
    job.attempt_of_run = 2
    batch.started(job)
    job.error = ValueError("two")
    batch.ended(job)
    fast.attempt_of_run = 3
    batch.ended(fast)
    assert said(batch) == ["TRY 1 FAIL", "FAIL", "TRY 1 FAIL", "TRY 2 FAIL", "FLAKY 3"]
    seen = batch.view()
    assert (seen.done, seen.failed, seen.retried) == (2, 1, 3)
    assert said(batch) == []


def test_jobs_that_end_well_or_are_cancelled_have_no_lines() -> None:
    batch = Batch("", 2)
    for job in (FakeJob(1), FakeJob(2)):
        batch.submitted()
        job.error = CancelledError() if job.id == 2 else None
        batch.started(job)
        batch.ended(job)
    assert batch.news() == []
    assert batch.view().done == 1


def test_of_very_many_failures_at_once_the_number_is_told() -> None:
    batch = Batch("", 1000)
    for number in range(1000):
        job = FakeJob(number)
        job.error = ValueError("no")
        batch.ended(job)
    news = batch.news()
    assert len(news) == settings.ENDS_WAITING + 1
    assert news[-1] == LeftOut(1000 - settings.ENDS_WAITING, "ends of attempts")


def test_a_slow_job_has_a_line_and_a_quiet_one_only_a_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    batch = Batch("", 1)
    batch.started(FakeJob())
    now_s[0] = 61.0
    (late,) = batch.news()
    assert isinstance(late, LateJob)
    (running,) = batch.view().running
    assert (late.what, running.slow, running.quiet) == ("SLOW", True, True)


def test_what_a_batch_waits_for_has_a_row() -> None:
    batch = Batch("", 1)
    batch.waiting("27 s for gate api")
    assert batch.view().waiting == "27 s for gate api"


def test_a_person_sees_what_fails_and_is_tried_again(tmp_path: Path) -> None:
    with Person(80, 24) as person:
        person.run(Path(shows.__file__), "collect_with_retries", os.fspath(tmp_path))
        assert person.wait() == 0
        lines = [line for line in person.lines if line]
        assert sum("  TRY 1 FAIL [" in line for line in lines) == 2
        assert sum("FLAKY 2 [" in line and "  try_it-1" in line for line in lines) == 1
        assert sum(line.endswith("  try_it-2: ValueError: always") for line in lines) == 1
        assert "2 retried, 1 failed" in lines[-2]
        assert lines[-1] == "<the end>"
