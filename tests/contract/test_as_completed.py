"""as_completed."""

import weakref
from concurrent.futures import Executor, Future, as_completed
from pathlib import Path
from typing import Any

import pytest

from tests.contract.kinds import PATIENCE, is_gone
from tests.support.jobs import begun_then_wait, echo, kept_busy, square

pytestmark = pytest.mark.usefixtures("one_server")


def test_all_of_them_come_once(executor: Executor) -> None:
    futures = [executor.submit(square, number) for number in range(20)]
    got = list(as_completed(futures + futures, PATIENCE))
    assert len(got) == 20
    assert set(got) == set(futures)


def test_the_first_to_end_comes_first(executor: Executor, tmp_path: Path) -> None:
    until = [tmp_path / name for name in ("a", "b")]
    first, second = (
        executor.submit(begun_then_wait, f"{path}-begun", str(path), path.name) for path in until
    )
    coming = as_completed([first, second], PATIENCE)
    until[1].touch()
    assert next(coming) is second
    until[0].touch()
    assert next(coming) is first
    assert next(coming, None) is None


def test_time_may_run_out(executor: Executor, tmp_path: Path) -> None:
    with kept_busy(executor, 1, tmp_path) as [busy]:
        done = [executor.submit(square, number) for number in range(5)]
        for future in done:
            future.result()
        came: set[Future[Any]] = set()
        with pytest.raises(TimeoutError) as caught:
            came.update(as_completed([busy, *done], timeout=0))
        with pytest.raises(TimeoutError):
            came.update(iter(as_completed([busy], timeout=0.01)))
        assert "1 (of 6) futures unfinished" in str(caught.value)


def test_what_has_come_is_let_go_of(executor: Executor) -> None:
    futures = [executor.submit(echo, number) for number in range(5)]
    coming = as_completed(futures, PATIENCE)
    while futures:
        future = next(coming)
        futures.remove(future)
        gone = weakref.ref(future)
        del future
        assert is_gone(gone)
