"""submit, and the futures that it returns."""

import logging
import threading
import weakref
from concurrent.futures import CancelledError, Executor, Future
from pathlib import Path
from typing import Any

import pytest

from tests.contract.kinds import PATIENCE, Kind, is_gone
from tests.support.jobs import begun_then_wait, echo, fail, kept_busy, nothing, square, wait_for
from tests.support.leaks import wait_until

pytestmark = pytest.mark.usefixtures("one_server")


def capture(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


class Given:
    """Something that can be referred to weakly, and pickled."""

    def method(self, *_: Any) -> None:
        """Do nothing."""


def test_a_future_comes_back(executor: Executor) -> None:
    future = executor.submit(pow, 2, 8)
    assert isinstance(future, Future)
    assert future.result() == 256
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert future.exception() is None


def test_all_arguments_go_to_the_function(executor: Executor) -> None:
    given = executor.submit(capture, 1, self=2, fn=3, executor=4)
    assert given.result() == ((1,), {"self": 2, "fn": 3, "executor": 4})


def test_a_function_is_needed_and_it_has_no_name(executor: Executor) -> None:
    submit: Any = executor.submit
    with pytest.raises(TypeError):
        submit()
    with pytest.raises(TypeError):
        submit(fn=capture, arg=1)


def test_an_exception_is_delivered_with_its_remote_traceback(executor: Executor) -> None:
    future = executor.submit(fail, RuntimeError(123))
    with pytest.raises(RuntimeError) as caught:
        future.result()
    assert caught.value.args == (123,)
    assert future.exception() is caught.value
    assert "raise error" in str(caught.value.__cause__)
    assert "in fail" in str(caught.value.__cause__)


def test_an_exception_group_keeps_its_members(executor: Executor) -> None:
    error = executor.submit(fail, ExceptionGroup("two", [ValueError("a"), KeyError("b")]))
    group = error.exception()
    assert isinstance(group, ExceptionGroup)
    assert [type(member) for member in group.exceptions] == [ValueError, KeyError]


def test_a_result_is_waited_for_as_long_as_asked(executor: Executor, tmp_path: Path) -> None:
    with kept_busy(executor, 1, tmp_path) as [future]:
        with pytest.raises(TimeoutError):
            future.result(timeout=0.01)
        with pytest.raises(TimeoutError):
            future.exception(timeout=0)
    assert future.result() is None


def test_a_job_that_runs_cannot_be_cancelled(executor: Executor, tmp_path: Path) -> None:
    with kept_busy(executor, 1, tmp_path) as [future]:
        assert wait_until(future.running)
        assert not future.cancel()
    assert future.result() is None
    assert not future.cancel()


def test_a_job_that_waits_can_be_cancelled(executor: Executor, tmp_path: Path) -> None:
    with kept_busy(executor, 2, tmp_path):
        # The standard executor has some of them in its pipe, where they count as running.
        futures = [executor.submit(square, number) for number in range(10)]
        assert futures[-1].cancel()
        assert futures[-1].cancel()
        assert futures[-1].cancelled()
        assert futures[-1].done()
        with pytest.raises(CancelledError):
            futures[-1].result()
        with pytest.raises(CancelledError):
            futures[-1].exception()
    assert [future.result() for future in futures[:-1]] == [n * n for n in range(9)]


def test_callbacks_are_called_in_order_with_the_future(executor: Executor, tmp_path: Path) -> None:
    called: list[tuple[str, Future[Any]]] = []
    over = threading.Event()
    with kept_busy(executor, 1, tmp_path) as [future]:
        future.add_done_callback(lambda done: called.append(("first", done)))
        future.add_done_callback(lambda done: called.append(("second", done)))
        future.add_done_callback(lambda _: over.set())
        assert called == []
    assert over.wait(PATIENCE)
    assert called == [("first", future), ("second", future)]
    future.add_done_callback(lambda done: called.append(("late", done)))
    assert called[-1] == ("late", future)


def test_a_callback_that_fails_is_logged_and_harms_nobody(
    executor: Executor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()
    with kept_busy(executor, 1, tmp_path) as [future]:
        future.add_done_callback(lambda _: 1 // 0)
        future.add_done_callback(lambda _: over.set())
    assert over.wait(PATIENCE)
    [(name, level, text)] = caplog.record_tuples
    caplog.clear()  # what it holds keeps the frames of the standard executor alive
    assert (name, level) == ("concurrent.futures", logging.ERROR)
    assert "exception calling callback" in text
    assert executor.submit(square, 2).result() == 4


def test_a_cancelled_job_calls_back_at_once(executor: Executor, tmp_path: Path) -> None:
    called: list[Future[Any]] = []
    with kept_busy(executor, 2, tmp_path):
        futures = [executor.submit(nothing) for _ in range(10)]
        futures[-1].add_done_callback(called.append)
        futures[-1].cancel()
        assert called == [futures[-1]]


def test_jobs_run_side_by_side(executor: Executor, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    first = executor.submit(begun_then_wait, str(one), str(other), 1)
    second = executor.submit(begun_then_wait, str(other), str(one), 2)
    assert (first.result(), second.result()) == (1, 2)


def test_no_reference_to_arguments_is_kept(executor: Executor) -> None:
    given = Given()
    gone = weakref.ref(given)
    future = executor.submit(given.method, given)
    future.result()
    del future, given
    assert is_gone(gone)


def test_no_reference_to_results_is_kept(executor: Executor) -> None:
    future = executor.submit(echo, Given())
    gone = weakref.ref(future.result())
    del future
    assert is_gone(gone)


def test_many_jobs_from_many_threads(executor: Executor) -> None:
    results: list[int] = []

    def submit_some(start: int) -> None:
        futures = [executor.submit(square, number) for number in range(start, start + 50)]
        results.extend(future.result() for future in futures)

    threads = [threading.Thread(target=submit_some, args=(50 * n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [number * number for number in range(500)]


def test_a_job_may_be_submitted_from_a_callback(executor: Executor) -> None:
    results: list[Future[int]] = []
    over = threading.Event()

    def submit_another(done: Future[int]) -> None:
        results.append(executor.submit(square, done.result()))
        over.set()

    executor.submit(square, 3).add_done_callback(submit_another)
    assert over.wait(PATIENCE)
    assert results[0].result() == 81


def test_what_is_submitted_last_runs_last(kind: Kind, tmp_path: Path) -> None:
    with kind.make(1) as executor:
        order: list[int] = []
        with kept_busy(executor, 1, tmp_path):
            futures = [executor.submit(echo, number) for number in range(20)]
            for future in futures:
                future.add_done_callback(lambda done: order.append(done.result()))
    assert order == list(range(20))


def test_waiting_for_a_file_is_what_it_says(tmp_path: Path) -> None:
    """The jobs of this suite wait for each other by files: that must be no empty promise."""
    (tmp_path / "there").touch()
    wait_for(tmp_path / "there")
