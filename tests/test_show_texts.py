"""Which rows and lines follow from what has happened, at which time and width."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.process.scheduler.gates import Waits
from collector.progress.closing import Style, closing_texts
from collector.progress.ends import Ended, How, Level, level_of, why
from collector.progress.line_texts import (
    end_text,
    for_workflow,
    rows_of,
    seconds_text,
    tail_texts,
)
from collector.progress.tally import Late, Tally
from collector.progress.text import columns_of, job_line, waiting_line
from collector.progress.view import ShownJob, View
from collector.progress.waits import waits_text
from collector.settings import RESOURCES_NAMED

ENDS = st.builds(
    Ended,
    job=st.integers(1, 9),
    name=st.text(max_size=60),
    how=st.sampled_from(How),
    attempt=st.integers(1, 12),
    attempts=st.none() | st.integers(1, 12),
    again=st.booleans(),
    resumed=st.booleans(),
    seconds=st.floats(0, 1e7),
    size_bytes=st.integers(0, 10**15),
    why=st.text(max_size=60),
    tail=st.binary(max_size=200),
)


@given(ended=ENDS, columns=st.integers(16, 200))
def test_a_line_is_one_line_that_fits_and_steers_no_terminal(ended: Ended, columns: int) -> None:
    for width in (columns, None):
        text = end_text(ended, width)
        assert text.isprintable()
        if width is not None:
            assert columns_of(text) <= width
            assert rows_of(end_text(ended, width, colour=True), width) == 1


@given(tail=st.binary(max_size=300), lines=st.integers(1, 6))
def test_a_tail_is_so_many_lines_that_steer_no_terminal(tail: bytes, lines: int) -> None:
    found = tail_texts(tail, lines)
    assert len(found) <= lines
    assert all(text.isprintable() and text.startswith("    ") for text in found)


@given(text=st.text(alphabet=":#[ax ", max_size=20))
def test_a_workflow_finds_no_command_in_what_jobs_say(text: str) -> None:
    safe = for_workflow(text)
    assert not safe.lstrip().startswith("::")
    assert "##[" not in safe


def test_a_name_of_a_megabyte_is_shortened_at_once() -> None:
    text = end_text(Ended(job=1, name="n" * 10**6, why="w" * 10**6), None)
    assert len(text) < 2200


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0041, "0.004s"), (9.9999, "10.0s"), (61.34, "61.3s"), (600, "10m00s"), (7385, "2h03m05s")],
)
def test_times_have_the_unit_that_fits(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_a_level_has_what_those_before_it_have() -> None:
    for earlier, later in zip(Level, list(Level)[1:], strict=False):
        assert later.has(earlier)
        assert not earlier.has(later)


@given(ended=ENDS)
def test_what_ended_badly_is_said_at_every_level_but_none(ended: Ended) -> None:
    level = level_of(ended)
    assert level is not Level.NONE
    if ended.how is not How.PASSED and not ended.again:
        assert level is Level.FAIL


def test_a_reason_is_the_type_and_the_first_line() -> None:
    assert why(ValueError("two\nthree")) == "ValueError: two"
    assert why(KeyboardInterrupt()) == "KeyboardInterrupt"


# -- counting --------------------------------------------------------------------------------------


@given(ends=st.lists(ENDS, max_size=40))
def test_a_job_is_counted_once_and_an_attempt_that_is_tried_again_never(ends: list[Ended]) -> None:
    tally = Tally()
    for ended in ends:
        tally.ended(ended)
    over = [ended for ended in ends if not ended.again]
    assert tally.done + tally.interrupted == len(over)
    assert tally.retried == len(ends) - len(over)
    assert tally.bytes_total == sum(ended.size_bytes for ended in ends)
    texts = closing_texts(tally, len(over), 1.0, Level.ALL, None, Style())
    assert sum(" FAIL [" in text for text in texts) <= 10


def test_the_jobs_that_have_run_for_longest_come_first_and_a_retried_one_last() -> None:
    tally = Tally()
    for now_s, job in enumerate((3, 1, 2)):
        tally.started(job, f"job-{job}", 1, float(now_s))
    tally.started(3, "job-3", 2, 5.0)
    running = tally.running(1, 10.0)
    assert [(job.id, job.attempt, job.elapsed_s) for job in running] == [
        (1, 1, 9.0),
        (2, 1, 8.0),
        (3, 2, 5.0),
    ]


def test_a_slow_job_is_told_of_after_its_time_and_after_twice_and_four_times_that() -> None:
    tally = Tally(slow_s=60, quiet_s=1000)
    tally.started(1, "job", 1, 0.0)
    told = [now_s for now_s in range(500) if tally.late(float(now_s))]
    assert told == [60, 120, 240, 480]


def test_a_quiet_job_is_told_of_once_in_each_silence() -> None:
    tally = Tally(slow_s=1000, quiet_s=60)
    tally.started(1, "job", 1, 0.0)
    told = []
    for now_s in range(300):
        if now_s in (100, 101):
            tally.wrote(1, now_s, float(now_s))
        told += [(now_s, late.what) for late in tally.late(float(now_s))]
    assert told == [(60, Late.QUIET), (161, Late.QUIET)]
    (job,) = tally.running(1, 300.0)
    assert (job.quiet, job.quiet_s, job.slow) == (True, 199.0, False)


def test_a_job_whose_next_attempt_is_waited_for_is_not_told_of_as_one_that_runs() -> None:
    tally = Tally(slow_s=60, quiet_s=60)
    tally.started(1, "job", 2, 0.0)
    tally.wrote(1, 7, 1.0)
    tally.rests(1, 5.0)
    assert tally.running(1, 100.0) == ()
    assert tally.late(100.0) == []
    assert (tally.attempt(1), tally.so_far(1, 100.0)) == (2, (5.0, 7))
    tally.started(1, "job", 3, 100.0)
    assert [(job.attempt, job.elapsed_s) for job in tally.running(1, 101.0)] == [(3, 1.0)]
    assert [late.what for late in tally.late(160.0)] == [Late.SLOW, Late.QUIET]


def test_what_is_missing_of_a_batch_that_was_stopped_is_in_its_summary() -> None:
    tally = Tally()
    tally.ended(Ended(job=1, name="a"))
    (text,) = closing_texts(tally, 7, 2.0, Level.FAIL, None, Style())
    assert text.endswith("1 of 7 jobs: 1 passed")


def test_what_had_failed_before_is_not_among_what_passed() -> None:
    tally = Tally()
    for job, how in enumerate([How.PASSED, How.FAILED, How.FAILED]):
        tally.ended(Ended(job=job, name="a", how=how, resumed=True))
    tally.ended(Ended(job=4, name="b"))
    text, *_ = closing_texts(tally, 4, 2.0, Level.FAIL, None, Style())
    assert text.endswith("4 jobs: 2 passed (1 done before), 2 failed")


def test_a_digest_has_ten_failures_and_counts_the_others() -> None:
    tally = Tally()
    for job in range(25):
        tally.ended(Ended(job=job, name=f"job-{job}", how=How.FAILED, why="no", tail=b"why\n"))
    texts = closing_texts(tally, 25, 2.0, Level.FAIL, "collector run --retry d", Style())
    assert texts.count("    why") == 10
    assert texts[-2].strip() == "... and 15 more failed"
    assert closing_texts(tally, 25, 2.0, Level.NONE, "collector run --retry d", Style()) == []


# -- rows ------------------------------------------------------------------------------------------


def job(**changes: Any) -> ShownJob:
    """A running job."""
    told: dict[str, Any] = {
        "batch": 1,
        "id": 1,
        "name": "job-1",
        "attempt": 1,
        "size_bytes": 2048,
        "mode": None,
        "elapsed_s": 75.0,
    }
    return ShownJob(**(told | changes))


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (80, "  job-1 (attempt 2): 2.00KB [01:15, 27B/s] SLOW QUIET [> 61 s]"),
        (50, "  job-1 (attempt 2): 2.00KB [01:15, 27B/s] SLOW"),
        (30, "  …-1 (attempt 2): 2.00KB SLOW"),
        (12, "…t 2) 2.00KB"),
    ],
)
def test_with_less_room_a_slow_and_quiet_job_tells_what_matters_most(
    columns: int, text: str
) -> None:
    seen = job(attempt=2, slow=True, quiet=True, quiet_s=61.5)
    assert job_line(seen, columns) == text


@given(
    name=st.text(max_size=40),
    attempt=st.integers(1, 100),
    quiet_s=st.floats(0, 1e6),
    slow=st.booleans(),
    quiet=st.booleans(),
    columns=st.integers(8, 200),
)
def test_a_row_fits(
    name: str, attempt: int, quiet_s: float, slow: bool, quiet: bool, columns: int
) -> None:
    seen = job(name=name, attempt=attempt, quiet_s=quiet_s, slow=slow, quiet=quiet)
    assert columns_of(job_line(seen, columns)) <= columns
    view = View(1, "", 0, 1, 0, None, 0, 1.0, (seen,), waiting=name)
    assert columns_of(waiting_line(view, columns)) <= columns


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise SystemExit


def test_why_a_job_failed_is_said_also_if_its_error_has_no_text() -> None:
    assert why(UnspeakableError()) == "UnspeakableError"


def test_of_very_many_resources_that_jobs_wait_for_the_first_are_named() -> None:
    waits = [Waits(f"host {n}", "closed", 2, 9.0) for n in range(1000)]
    again = Waits("", "again", 1, 4.0)
    full = Waits("busy", "full", 5, float("inf"))
    whole = waits_text([full, *waits[:RESOURCES_NAMED], again], 0.0)
    assert [text for text in whole.split("; ") if "host" in text] == [
        f"2 jobs wait for host {n}, which has asked for a pause of 9 s more"
        for n in range(RESOURCES_NAMED)
    ]
    assert whole.endswith("; 1 job waits to be run again, the first in 4 s")
    many = 1000 - RESOURCES_NAMED
    shown, last = whole.rsplit("; ", 1)
    told = f"{shown}; {2 * many} jobs wait for {many} other resources; {last}"
    assert waits_text([full, *waits, again], 0.0) == told
    one_more = f"{shown}; 2 jobs wait for 1 other resource; {last}"
    assert waits_text([*waits[: RESOURCES_NAMED + 1], full, again], 0.0) == one_more
    assert not waits_text([full], 0.0)
