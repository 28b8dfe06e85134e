"""kill, cancel, result, shutdown, submit: interrupted at any line by a handler that calls one."""

import contextlib
import itertools
import os
import threading
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Any, Final

import pytest

from collector import Collector
from tests.support.interrupted import Interrupted, acts_on
from tests.support.jobs import METHODS, begun_then_wait, square
from tests.support.leaks import wait_until
from tests.support.tiers import each_method, each_method_in_one_tier, everyday_are

pytestmark = pytest.mark.usefixtures("one_server")

PATIENCE: Final = 60


def interrupt(method: str, act: str, handler: str, line: int, *, runs: bool) -> int:
    """Interrupt it once; every job ends all the same, in one of the two ways."""
    with Collector(1, method, progress=False) as executor:
        jobs: list[Any] = []
        if not runs:
            jobs.append(executor.submit(square, 2))
        job = executor.submit(square, 3)
        if runs:
            wait_until(lambda: job.running() or job.done())
        acts = acts_on(executor, job)
        made = Interrupted(acts[act], acts[handler], line)
        jobs += [job, *(one for one in made.made if isinstance(one, Future))]
    assert not wait(jobs, PATIENCE).not_done
    for one in jobs:
        if one.cancelled():
            with pytest.raises(CancelledError):
                one.result()
        else:
            assert one.exception() is not None or one.result() in (4, 9)
            one.output().close()
    return made.lines


ACTS: Final = ("kill", "cancel", "result", "shutdown", "submit")
HANDLERS: Final = ("kill", "cancel", "result", "shutdown", "kill_workers")
WITH_A_JOB: Final = tuple(itertools.product(("kill", "cancel", "result"), HANDLERS))
EVERYDAY: Final = (("kill", "kill"),)


def interrupt_at(act: str, handler: str, first: int, step: int) -> None:
    """Interrupt what is done with a job at each so-manieth line."""
    lines = interrupt(METHODS[0], act, handler, 0, runs=False)
    assert lines
    for line in range(first, lines + 1, step):
        interrupt(METHODS[0], act, handler, line, runs=False)


@pytest.mark.parametrize(
    ("act", "handler"),
    [
        pytest.param(*pair, marks=() if pair in EVERYDAY else pytest.mark.slow)
        for pair in WITH_A_JOB
    ],
)
def test_a_handler_may_do_anything_at_some_lines_of_what_is_done_with_a_job(
    act: str, handler: str
) -> None:
    """At each line of an act comes one of the handlers."""
    step = len(HANDLERS)
    interrupt_at(act, handler, 1 + HANDLERS.index(handler), step)


@pytest.mark.campaign
@pytest.mark.parametrize(("act", "handler"), WITH_A_JOB)
def test_a_handler_may_do_anything_at_any_line_of_what_is_done_with_a_job(
    act: str, handler: str
) -> None:
    interrupt_at(act, handler, 1, 1)


@pytest.mark.campaign
@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("act", ["shutdown", "shutdown that cancels", "kill_workers", "submit"])
@each_method_in_one_tier
def test_a_handler_may_do_anything_at_some_lines_of_what_is_done_with_a_collector(
    method: str, act: str, handler: str, runs: bool
) -> None:
    lines = interrupt(method, act, handler, 0, runs=runs)
    assert lines
    for line in range(1, lines + 1, 5):
        interrupt(method, act, handler, line, runs=runs)


# -- callbacks and finalizers ----------------------------------------------------------------------


@pytest.mark.parametrize("act", everyday_are(["kill", "shutdown"], of=[*ACTS, "kill_workers"]))
@each_method
def test_a_callback_may_do_anything(method: str, act: str) -> None:
    executor = Collector(1, method)
    called = threading.Event()
    job = executor.submit(square, 3)
    other = executor.submit(square, 3)

    def call(_job: object) -> None:
        with contextlib.suppress(CancelledError, RuntimeError):
            acts_on(executor, job)[act]()
        called.set()

    job.add_done_callback(call)
    assert called.wait(PATIENCE)
    executor.shutdown()
    assert other.done()


@pytest.mark.parametrize("act", everyday_are(["kill", "shutdown"], of=[*ACTS, "kill_workers"]))
@each_method
def test_a_finalizer_may_do_anything_in_any_thread(method: str, act: str, tmp_path: Path) -> None:
    executor = Collector(1, method)
    called = threading.Event()
    until = tmp_path / "until"
    running = executor.submit(begun_then_wait, os.fspath(tmp_path / "begun"), os.fspath(until), 9)
    job = executor.submit(square, 3)

    class Finalized:
        def __del__(self) -> None:
            with contextlib.suppress(CancelledError, RuntimeError):
                acts_on(executor, job)[act]()
            called.set()

    # The last reference goes in the settling thread, as in a garbage collection there.
    kept = [Finalized()]
    job.add_done_callback(lambda _job: kept.clear())
    until.touch()
    assert called.wait(PATIENCE)
    executor.shutdown()
    assert running.done()
    assert job.done()
