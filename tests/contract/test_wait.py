"""wait."""

from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Executor,
    Future,
    wait,
)
from pathlib import Path
from typing import Any

import pytest

from tests.contract.kinds import PATIENCE
from tests.support.jobs import begun_then_wait, fail, kept_busy, nothing, square
from tests.support.leaks import wait_until

pytestmark = pytest.mark.usefixtures("one_server")


def test_the_first_that_is_completed(executor: Executor, tmp_path: Path) -> None:
    with kept_busy(executor, 1, tmp_path) as [busy]:
        quick = executor.submit(square, 2)
        done, not_done = wait([busy, quick], PATIENCE, FIRST_COMPLETED)
        assert (done, not_done) == ({quick}, {busy})
        # One that was completed before counts.
        assert wait([busy, quick], PATIENCE, FIRST_COMPLETED).done == {quick}


def test_the_first_that_fails(executor: Executor, tmp_path: Path) -> None:
    with kept_busy(executor, 1, tmp_path) as [busy]:
        quick, failing = executor.submit(square, 2), executor.submit(fail, KeyError())
        done, not_done = wait([busy, quick, failing], PATIENCE, FIRST_EXCEPTION)
        assert failing in done
        assert not_done == {busy}
        quick.result()
        assert wait([busy, failing], PATIENCE, FIRST_EXCEPTION).not_done == {busy}


def test_without_a_failure_all_are_waited_for(executor: Executor) -> None:
    futures = {executor.submit(square, number) for number in range(10)}
    assert wait(futures, PATIENCE, FIRST_EXCEPTION) == (futures, set())


def test_all_of_them(executor: Executor) -> None:
    futures: list[Future[Any]] = [
        executor.submit(square, 2),
        executor.submit(fail, ValueError()),
        executor.submit(nothing),
    ]
    done, not_done = wait([*futures, *futures], PATIENCE, ALL_COMPLETED)
    assert (done, not_done) == (set(futures), set())


def test_time_may_run_out(executor: Executor, tmp_path: Path) -> None:
    with kept_busy(executor, 1, tmp_path) as [busy]:
        quick = executor.submit(square, 2)
        quick.result()
        assert wait([busy, quick], 0.01) == ({quick}, {busy})


def test_a_cancelled_one_is_done(executor: Executor, tmp_path: Path) -> None:
    with kept_busy(executor, 2, tmp_path) as busy:
        futures = [executor.submit(nothing) for _ in range(10)]
        futures[-1].cancel()
    # The standard executor tells it when its turn would have come, ours at once.
    assert wait(futures, PATIENCE).not_done == set()
    assert wait(busy, PATIENCE).not_done == set()


def test_many_that_end_while_they_are_waited_for(executor: Executor, tmp_path: Path) -> None:
    until = tmp_path / "until"
    futures = [
        executor.submit(begun_then_wait, str(tmp_path / str(number)), str(until))
        for number in range(50)
    ]
    assert wait_until((tmp_path / "1").exists)
    until.touch()
    assert wait(futures, PATIENCE, ALL_COMPLETED).not_done == set()
