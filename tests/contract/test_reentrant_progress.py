"""A signal handler may shut down wherever it interrupts what tells of progress."""

import faulthandler
import itertools
from typing import Any, Final

import pytest

from collector import Collector, Job, ProgressEvent
from tests.support.interrupted import PROGRESS, Interrupted, acts_on
from tests.support.jobs import METHODS, square
from tests.support.leaks import wait_until

ACTS: Final = ("cancel", "submit", "shutdown")
HANDLERS: Final = ("shutdown", "cancel", "kill", "kill_workers", "submit")
SLOW: Final = (("cancel", "shutdown"), ("submit", "shutdown"))
HANGS_S: Final = 120.0


class Ends:
    """Hears of a Collector's jobs."""

    def __init__(self) -> None:
        self.ended: list[int | None] = []
        self.closed = 0

    def update(self, event: ProgressEvent) -> None:
        assert not self.closed
        if event.happened == "ended":
            self.ended.append(event.job_id)

    def close(self) -> None:
        self.closed += 1


def interrupt(act: str, handler: str, line: int, *, drawn: bool = False) -> int:
    """Interrupt it once; nothing hangs, the other job's end is heard, and none is heard twice."""
    told, called = Ends(), []

    def tell(job: "Job[Any]", _progress: object) -> None:
        if job.done():
            called.append(job.id)

    faulthandler.dump_traceback_later(HANGS_S, exit=True)  # no time-out ends a wait for a C lock
    try:
        progress = True if drawn else told
        with Collector(1, METHODS[0], progress=progress, on_progress=tell) as executor:
            first = executor.submit(square, 2)
            job = executor.submit(square, 3)
            acts = acts_on(executor, job)
            made = Interrupted(acts[act], acts[handler], line, (PROGRESS,))
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert wait_until(lambda: drawn or told.closed)  # by whom the handler interrupted, if need be
    for heard in (called,) if drawn else (told.ended, called):
        assert wait_until(lambda heard=heard: first.id in heard)  # type: ignore[misc]
        assert len(heard) == len(set(heard)), "an end was told twice"
    for one in (first, job, *made.made):
        if isinstance(one, Job) and not one.cancelled():
            one.output().close()
    return made.lines


def interrupt_at(lines: range, act: str, handler: str, *, drawn: bool = False) -> None:
    """Interrupt it at so many lines, or as many as it has."""
    most = interrupt(act, handler, 0, drawn=drawn)
    assert most or act == "shutdown"
    for line in lines:
        if line <= most:
            interrupt(act, handler, line, drawn=drawn)


def test_a_handler_may_shut_down_at_some_lines_that_count_the_end_of_a_job() -> None:
    interrupt_at(range(4, 1000, 29), "cancel", "shutdown")


@pytest.mark.slow
@pytest.mark.parametrize(("act", "handler"), SLOW)
def test_a_handler_may_do_anything_at_some_lines_that_tell_of_progress(
    act: str, handler: str
) -> None:
    interrupt_at(range(1 + ACTS.index(act), 1000, 5), act, handler)


@pytest.mark.campaign
@pytest.mark.parametrize(("act", "handler"), [*itertools.product(ACTS, HANDLERS)])
def test_a_handler_may_do_anything_at_any_line_that_tells_of_progress(
    act: str, handler: str
) -> None:
    interrupt_at(range(1, 1000), act, handler)


@pytest.mark.campaign
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("act", ACTS)
def test_a_handler_may_do_anything_at_any_line_that_draws(act: str, handler: str) -> None:
    interrupt_at(range(1, 1000), act, handler, drawn=True)
