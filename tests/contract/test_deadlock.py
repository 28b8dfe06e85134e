"""What goes wrong at any station of a job's way must end that job, and hang nothing.

The standard executor breaks as a whole when a worker dies or something cannot be unpickled. Ours
promises more: one job fails, with an error that says how, and the others do not notice.
"""

import os
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Final

import pytest

from collector import JobError, WorkerCrashError
from tests.contract.kinds import PATIENCE, Kind
from tests.support.jobs import (
    MIB,
    Refuses,
    act,
    begun_then_wait,
    echo,
    kept_busy,
    kill_self,
    nothing,
    pid_then_wait,
    raise_error_that,
    return_that,
    square,
    wait_for,
)
from tests.support.leaks import wait_until

pytestmark = pytest.mark.usefixtures("one_server")

CRASH, EXIT, ERROR = ("kill",), ("exit", 3), ("raise",)

Submit = Callable[[Executor], Future[Any]]
Expected = type[BaseException] | tuple[type[BaseException], ...]


def at_unpickle(how: tuple[Any, ...]) -> Submit:
    return lambda executor: executor.submit(echo, Refuses(at_unpickle=how))


def in_run(how: tuple[Any, ...]) -> Submit:
    return lambda executor: executor.submit(act, *how)


def at_result_pickle(how: tuple[Any, ...]) -> Submit:
    return lambda executor: executor.submit(return_that, at_pickle=how)


def at_result_unpickle(how: tuple[Any, ...]) -> Submit:
    return lambda executor: executor.submit(return_that, at_unpickle=how)


def at_exception_pickle(how: tuple[Any, ...]) -> Submit:
    return lambda executor: executor.submit(raise_error_that, at_pickle=how)


def at_exception_unpickle(how: tuple[Any, ...]) -> Submit:
    return lambda executor: executor.submit(raise_error_that, at_unpickle=how)


# (station, fault): what ours makes of it, what the standard executor makes of it
FAULTS: Final[dict[str, tuple[Submit, Expected, Expected]]] = {
    "crash at task unpickle": (at_unpickle(CRASH), WorkerCrashError, BrokenProcessPool),
    "exit at task unpickle": (at_unpickle(EXIT), SystemExit, BrokenProcessPool),
    "error at task unpickle": (at_unpickle(ERROR), ZeroDivisionError, BrokenProcessPool),
    "crash in run": (in_run(CRASH), WorkerCrashError, BrokenProcessPool),
    "abort in run": (in_run(("abort",)), WorkerCrashError, BrokenProcessPool),
    "segfault in run": (in_run(("segfault",)), WorkerCrashError, BrokenProcessPool),
    "_exit in run": (in_run(("_exit", 0)), WorkerCrashError, BrokenProcessPool),
    "exit in run": (in_run(EXIT), SystemExit, SystemExit),
    "error in run": (in_run(ERROR), ZeroDivisionError, ZeroDivisionError),
    "crash at result pickle": (at_result_pickle(CRASH), WorkerCrashError, BrokenProcessPool),
    "exit at result pickle": (at_result_pickle(EXIT), SystemExit, SystemExit),
    "error at result pickle": (at_result_pickle(ERROR), ZeroDivisionError, ZeroDivisionError),
    "exit at result unpickle": (at_result_unpickle(EXIT), JobError, BrokenProcessPool),
    "error at result unpickle": (at_result_unpickle(ERROR), JobError, BrokenProcessPool),
    "crash at exception pickle": (at_exception_pickle(CRASH), WorkerCrashError, BrokenProcessPool),
    "exit at exception pickle": (at_exception_pickle(EXIT), JobError, SystemExit),
    "error at exception pickle": (at_exception_pickle(ERROR), JobError, ZeroDivisionError),
    "exit at exception unpickle": (at_exception_unpickle(EXIT), JobError, BrokenProcessPool),
    "error at exception unpickle": (at_exception_unpickle(ERROR), JobError, BrokenProcessPool),
}


def warm_up(kind: Kind, executor: Executor, tmp_path: Path) -> None:
    """Have both workers of the standard executor up: it misses the death of one that is new."""
    if not kind.ours:
        (tmp_path / "warm").mkdir()
        with kept_busy(executor, 2, tmp_path / "warm"):
            pass


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_its_job_and_hangs_nothing(kind: Kind, fault: str, tmp_path: Path) -> None:
    submit, ours, standard = FAULTS[fault]
    with kind.make() as executor:
        warm_up(kind, executor, tmp_path)
        begun, until = tmp_path / "begun", tmp_path / "until"
        other = executor.submit(begun_then_wait, str(begun), str(until), "other")
        wait_for(begun)
        error = submit(executor).exception(PATIENCE)
        assert isinstance(error, ours if kind.ours else standard)
        until.touch()
        if kind.ours:  # the job beside it and those behind it do not notice
            assert other.result(PATIENCE) == "other"
            assert list(executor.map(square, range(10), timeout=PATIENCE)) == [
                n * n for n in range(10)
            ]
        else:
            other.exception(PATIENCE)
            if isinstance(error, BrokenProcessPool):
                with pytest.raises(BrokenProcessPool):
                    executor.submit(nothing)


@pytest.mark.parametrize(
    ("how", "expected"), [(ERROR, ZeroDivisionError), (EXIT, SystemExit)], ids=["error", "exit"]
)
def test_a_fault_at_task_pickle_is_told_and_hangs_nothing(
    kind: Kind, how: tuple[Any, ...], expected: type[BaseException]
) -> None:
    if how is EXIT and not kind.ours:
        pytest.skip("the standard executor's feeder thread dies of it: that future never ends")
    with kind.make() as executor:
        if kind.ours:  # in submit, where it can be told from the job's own failures
            with pytest.raises(expected):
                executor.submit(echo, Refuses(at_pickle=how))
        else:
            future = executor.submit(echo, Refuses(at_pickle=how))
            assert isinstance(future.exception(PATIENCE), expected)
        assert executor.submit(square, 3).result(PATIENCE) == 9


def test_a_worker_killed_from_outside_fails_the_job_it_was_running(
    kind: Kind, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    with kind.make() as executor:
        warm_up(kind, executor, tmp_path)
        future = executor.submit(pid_then_wait, str(begun), "/nowhere")
        wait_for(begun)
        os.kill(int(begun.read_text()), signal.SIGKILL)
        error = future.exception(PATIENCE)
        assert isinstance(error, BrokenProcessPool)
        if kind.ours:
            assert isinstance(error, WorkerCrashError)
            assert error.signal == signal.SIGKILL
            assert executor.submit(square, 3).result(PATIENCE) == 9


def test_an_idle_worker_killed_from_outside_costs_ours_nothing(kind: Kind) -> None:
    with kind.make(1) as executor:
        worker = executor.submit(os.getpid).result()
        os.kill(worker, signal.SIGKILL)
        if kind.ours:
            assert executor.submit(square, 3).result(PATIENCE) == 9
        else:
            assert wait_until(lambda: refuses(executor), PATIENCE)


def refuses(executor: Executor) -> bool:
    try:
        executor.submit(nothing).result(PATIENCE)
    except BrokenProcessPool:
        return True
    return False


def test_a_shutdown_with_a_worker_that_dies_ends(kind: Kind) -> None:
    executor = kind.make(2)
    assert executor.submit(square, 2).result() == 4
    future = executor.submit(kill_self)
    executor.shutdown()
    with pytest.raises(BrokenProcessPool):
        future.result(timeout=0)


def test_a_shutdown_that_nobody_waits_for_with_a_worker_that_dies_ends(kind: Kind) -> None:
    if not kind.ours:
        pytest.skip("the standard executor ends it as well, but leaves its pipes open")
    executor = kind.make(2)
    assert executor.submit(square, 2).result() == 4
    future = executor.submit(kill_self)
    executor.shutdown(wait=False)
    with pytest.raises(BrokenProcessPool):
        future.result(PATIENCE)
    executor.shutdown()


def test_a_worker_that_dies_beside_large_arguments_hangs_nothing(
    kind: Kind, tmp_path: Path
) -> None:
    with kind.make(2) as executor:
        warm_up(kind, executor, tmp_path)
        futures: list[Future[Any]] = [executor.submit(kill_self)]
        try:
            futures += [executor.submit(len, bytes(10 * MIB)) for _ in range(4)]
        except BrokenProcessPool:
            assert not kind.ours
        assert isinstance(futures[0].exception(PATIENCE), BrokenProcessPool)
        for future in futures[1:]:
            if kind.ours:
                assert future.result(PATIENCE) == 10 * MIB
            else:
                future.exception(PATIENCE)


def test_very_many_jobs_submitted_at_once_hang_nothing(executor: Executor, tmp_path: Path) -> None:
    with kept_busy(executor, 2, tmp_path):
        futures = [executor.submit(nothing) for _ in range(3000)]
    assert [future.result(PATIENCE) for future in futures] == [None] * 3000
