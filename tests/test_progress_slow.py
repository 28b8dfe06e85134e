"""Code of the user's that is told of progress and is slower than the jobs end."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from collector import Collector, Job, Progress, current_job, settings
from collector.progress.report import Call, Reporter
from tests.support.tiers import each_method

PATIENCE_S = 60.0


def write(size: int) -> None:
    current_job().write(bytes(size))


@each_method
def test_collect_takes_no_further_input_while_many_ends_wait_for_a_slow_callback(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them holds a job, with what that has returned and written."""
    monkeypatch.setattr(settings, "REPORT_AHEAD", 10)
    taken, told, most = 0, set[int](), 0

    def inputs() -> Iterator[int]:
        nonlocal taken
        for taken in range(1, 401):  # noqa: B007 - the callback reads it
            yield 1

    def slow(job: Job[Any], _progress: Progress) -> None:
        nonlocal most
        if job.done():
            most = max(most, taken - len(told))
            told.add(job.id)
        time.sleep(0.003)

    with Collector(2, method, on_progress=slow) as collector:
        assert sum(job.output().size for job in collector.collect(write, inputs())) == 400
    assert len(told) == 400, "each end is told all the same"
    assert most < 30


def full_behind_a_call(reporter: Reporter, call: Callable[[], object]) -> None:
    """Let a call be made, and as many wait behind it as may."""
    begun = threading.Event()

    def act() -> object:
        begun.set()
        return call()

    reporter.must(Call(reporter, 0, act))
    assert begun.wait(PATIENCE_S)
    for number in range(settings.REPORT_AHEAD):
        reporter.must(Call(reporter, number, int))


def test_nobody_waits_for_room_behind_a_call_that_does_not_return(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "REPORT_PATIENCE_S", 0.2)
    reporter, never = Reporter(), threading.Event()
    full_behind_a_call(reporter, never.wait)
    reporter.wait_for_room()
    never.set()
    reporter.finish()
    reporter.wait()


def test_a_callback_that_collects_does_not_wait_for_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "REPORT_PATIENCE_S", 1000.0)
    reporter, go, ended = Reporter(), threading.Event(), threading.Event()

    def collects() -> None:
        go.wait()
        reporter.wait_for_room()
        ended.set()

    full_behind_a_call(reporter, collects)
    go.set()
    assert ended.wait(PATIENCE_S)
    reporter.finish()
    reporter.wait()
