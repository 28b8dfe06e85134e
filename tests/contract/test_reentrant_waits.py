"""`concurrent.futures.wait` and `as_completed` in a signal handler that interrupts what we do."""

import faulthandler
import itertools
from collections.abc import Callable
from concurrent.futures import as_completed, wait
from typing import Any, Final

import pytest

from collector import Collector, Job
from tests.support.interrupted import OURS, Interrupted, acts_on
from tests.support.jobs import METHODS, square

SLOW: Final = (("cancel", "wait"), ("result", "as_completed"))
HANGS_S: Final = 120.0
WAITS: Final[dict[str, Callable[["Job[Any]"], object]]] = {
    "wait": lambda job: wait([job]),
    "as_completed": lambda job: list(as_completed([job])),
}


@pytest.mark.slow
@pytest.mark.parametrize(("act", "waits"), SLOW)
def test_a_handler_may_wait_at_some_lines_for_jobs_but_the_one_whose_cancelling_it_interrupts(
    act: str, waits: str
) -> None:
    interrupt_at(act, waits, 4)


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("act", "waits"), [*itertools.product(("cancel", "kill", "result"), WAITS)]
)
def test_a_handler_may_wait_for_jobs_but_the_one_whose_cancelling_it_interrupts(
    act: str, waits: str
) -> None:
    interrupt_at(act, waits, 1)


def interrupt_at(act: str, waits: str, step: int) -> None:
    """Interrupt it at each so-manieth line."""

    def interrupt(line: int) -> int:
        faulthandler.dump_traceback_later(HANGS_S, exit=True)
        try:
            with Collector(1, METHODS[0], progress=False) as executor:
                first = executor.submit(square, 2)
                job = executor.submit(square, 3)
                acts = acts_on(executor, job)
                made = Interrupted(acts[act], lambda: WAITS[waits](first), line, (OURS,))
        finally:
            faulthandler.cancel_dump_traceback_later()
        assert first.result() == 4
        return made.lines

    lines = interrupt(0)
    assert lines
    for line in range(1, lines + 1, step):
        interrupt(line)
