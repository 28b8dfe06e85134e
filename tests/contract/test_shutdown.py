"""The end of an executor: shutdown, `with`, `del`."""

import gc
import os
import threading
from concurrent.futures import Executor, Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.kinds import PATIENCE, Kind
from tests.support.jobs import begun_then_wait, kept_busy, nothing, pid, square
from tests.support.leaks import is_running, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable


def test_nothing_is_taken_after_it(kind: Kind) -> None:
    executor = kind.make()
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(square, 2)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(square, [2])


def test_it_may_be_said_twice(kind: Kind) -> None:
    executor = kind.make()
    executor.submit(nothing)
    executor.shutdown()
    executor.shutdown()
    kind.make().shutdown(wait=False)


def test_everything_that_was_submitted_is_done_first(kind: Kind) -> None:
    executor = kind.make()
    futures = [executor.submit(square, number) for number in range(50)]
    executor.shutdown()
    assert [future.result(timeout=0) for future in futures] == [n * n for n in range(50)]


def test_no_process_is_left(kind: Kind) -> None:
    with kind.make() as executor:
        pids = set(executor.map(own_pid, range(20)))
    assert pids
    assert not any(is_running(one) for one in pids)


def own_pid(_number: int) -> int:
    return os.getpid()


def test_it_need_not_be_waited_for(kind: Kind, tmp_path: Path) -> None:
    executor = kind.make(1)
    with kept_busy(executor, 1, tmp_path) as busy:
        future = executor.submit(square, 3)
        wait_for_its_end = kind.ending(executor)
        executor.shutdown(wait=False)
        with pytest.raises(RuntimeError):
            executor.submit(square, 3)
        assert not busy[0].done()
    assert future.result(PATIENCE) == 9
    wait_for_its_end()


def test_what_has_not_started_can_be_cancelled(kind: Kind, tmp_path: Path) -> None:
    executor = kind.make(2)
    with kept_busy(executor, 2, tmp_path) as busy:
        futures = [executor.submit(square, number) for number in range(20)]
        wait_for_its_end = kind.ending(executor)
        executor.shutdown(wait=False, cancel_futures=True)
        # The standard executor has up to three of them in its pipe: these run.
        assert wait_until(lambda: sum(future.cancelled() for future in futures) >= 17, PATIENCE)
        if kind.ours:
            assert wait_until(lambda: all(future.cancelled() for future in futures), PATIENCE)
    wait_for_its_end()
    assert all(future.done() for future in futures)
    assert [future.exception() for future in busy] == [None, None]


def test_a_with_block_ends_with_it(kind: Kind) -> None:
    with kind.make() as executor:
        futures = [executor.submit(square, number) for number in range(5)]
    assert [future.result(timeout=0) for future in futures] == [0, 1, 4, 9, 16]


def test_an_executor_that_is_dropped_does_its_jobs_and_leaves(kind: Kind) -> None:
    executor = kind.make()
    worker = executor.submit(pid).result()
    futures = [executor.submit(square, number) for number in range(20)]
    del executor
    gc.collect()
    assert [future.result(PATIENCE) for future in futures] == [n * n for n in range(20)]
    del futures
    gc.collect()
    assert wait_until(lambda: not is_running(worker), PATIENCE)


def test_a_job_that_waits_is_cancelled_and_the_shutdown_ends(kind: Kind, tmp_path: Path) -> None:
    executor = kind.make(1)
    futures: list[Future[Any]] = []
    with kept_busy(executor, 1, tmp_path):
        futures.extend(executor.submit(nothing) for _ in range(10))
        assert futures[-1].cancel()
    executor.shutdown()
    assert all(future.done() for future in futures)


def test_a_shutdown_in_a_callback_ends(kind: Kind) -> None:
    executor = kind.make()
    over = threading.Event()

    def shut_down(_future: Future[None]) -> None:
        endings.append(kind.ending(executor))
        executor.shutdown(wait=False)
        over.set()

    endings: list[Callable[[], None]] = []
    executor.submit(nothing).add_done_callback(shut_down)
    assert over.wait(PATIENCE)
    endings[0]()


def test_jobs_may_end_while_a_shutdown_waits(executor: Executor, tmp_path: Path) -> None:
    until = tmp_path / "until"
    futures = [
        executor.submit(begun_then_wait, str(tmp_path / str(number)), str(until), number)
        for number in range(5)
    ]
    thread = threading.Thread(target=executor.shutdown)
    thread.start()
    assert wait_until((tmp_path / "0").exists, PATIENCE)
    until.touch()
    thread.join()
    assert wait(futures, timeout=0).not_done == set()
    assert [future.result() for future in futures] == [0, 1, 2, 3, 4]
