"""How an executor is made, and how its workers are prepared."""

import multiprocessing
import multiprocessing.util
import os
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from tests.contract.kinds import PATIENCE, Kind
from tests.support.jobs import nothing, square
from tests.support.leaks import wait_until

pytestmark = pytest.mark.usefixtures("one_server")

GIVEN: list[Any] = []


def remember(*values: Any) -> None:
    GIVEN.extend(values)


def remembered(_number: int = 0) -> list[Any]:
    return [*GIVEN, os.getpid()]


def fail(text: str) -> None:
    raise LookupError(text)


def note_slowly(path: str) -> None:
    sum(range(5_000_000))
    Path(path).touch()


def fail_with_something_to_do_at_the_end(path: str) -> None:
    multiprocessing.util.Finalize(None, note_slowly, (path,), exitpriority=1)
    raise LookupError


def is_broken(executor: Executor) -> bool:
    """Whether it takes no job any more and says that it is broken."""
    try:
        executor.submit(nothing)
    except BrokenProcessPool:
        return True
    return False


def test_an_executor_is_one(executor: Executor) -> None:
    assert isinstance(executor, Executor)
    assert executor.submit(square, 3).result() == 9


@pytest.mark.parametrize("wrong", [0, -1])
def test_there_must_be_workers(kind: Kind, wrong: int) -> None:
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        kind.make(wrong)


def test_the_number_of_workers_need_not_be_said(kind: Kind) -> None:
    with kind.make(None) as executor:
        assert executor.submit(square, 3).result() == 9


def test_an_initializer_must_be_callable(kind: Kind) -> None:
    with pytest.raises(TypeError, match="initializer must be a callable"):
        kind.make(initializer=42)


def test_an_initializer_runs_once_in_each_worker(kind: Kind) -> None:
    with kind.make(initializer=remember, initargs=("a", "b")) as executor:
        for result in executor.map(remembered, range(20)):
            assert result[:-1] == ["a", "b"]
    assert GIVEN == []


def test_an_initializer_that_fails_breaks_the_executor(kind: Kind) -> None:
    with kind.make(initializer=fail, initargs=("the reason",)) as executor:
        job = executor.submit(nothing)
        with pytest.raises(BrokenProcessPool):
            job.result()
        refused = wait_until(lambda: is_broken(executor), PATIENCE)
        assert refused
        if kind.ours:  # ours says why
            assert "LookupError: the reason" in str(job.exception())


def test_a_worker_whose_initializer_fails_ends_its_work_before_the_executor_is_broken(
    kind: Kind, tmp_path: Path
) -> None:
    """It may have logged why to a queue, which a thread of it empties until its end."""
    noted = tmp_path / "noted"
    initargs = (os.fspath(noted),)
    with kind.make(1, initializer=fail_with_something_to_do_at_the_end, initargs=initargs) as pool:
        assert isinstance(pool.submit(nothing).exception(), BrokenProcessPool)
        assert noted.exists()


def test_workers_can_be_replaced_after_some_jobs(kind: Kind) -> None:
    if kind.method == "fork" and not kind.ours:
        pytest.skip("the standard executor refuses that with fork; ours does not")
    with kind.make(1, max_tasks_per_child=2) as executor:
        pids = [executor.submit(os.getpid).result() for _ in range(5)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 1]


@pytest.mark.parametrize("wrong", [0, -1])
def test_workers_do_some_jobs_at_least(kind: Kind, wrong: int) -> None:
    with pytest.raises(ValueError, match="max_tasks_per_child must be"):
        kind.make(max_tasks_per_child=wrong)


def test_a_context_of_either_package_is_taken(kind: Kind) -> None:
    if not kind.ours:
        pytest.skip("ours alone takes names, and contexts of multiprocess too")
    import multiprocess

    from collector import Collector

    for package in (multiprocessing, multiprocess):
        with Collector(1, mp_context=package.get_context(kind.method)) as executor:
            assert executor.submit(square, 3).result() == 9
