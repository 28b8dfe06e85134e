"""Executor.map and Collector.collect: values in order, as they come, and never too far ahead."""

import functools
import math
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from collector import Collector, WorkerCrashError, current_job
from tests.support.jobs import kill_self, lines, numbered, square, wait_for
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")

# -- map -------------------------------------------------------------------------------------------


class Counted:
    """An iterator that counts what was taken of it."""

    def __init__(self, count: int) -> None:
        self.numbers = iter(range(count))
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        number = next(self.numbers)
        self.taken += 1
        return number


@each_method
@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_map_yields_values_in_order(method: str, chunksize: int) -> None:
    with Collector(2, method) as collector:
        values = collector.map(pow, range(10), range(100), chunksize=chunksize)
        assert list(values) == [n**n for n in range(10)]


def test_map_raises_where_the_call_raised() -> None:
    with Collector(2) as collector:
        values = collector.map(divmod, [4, 4, 4], [2, 0, 1])
        assert next(values) == (2, 0)
        with pytest.raises(ZeroDivisionError):
            next(values)
        with pytest.raises(StopIteration):
            next(values)


def test_an_error_of_map_names_the_function_that_was_mapped() -> None:
    with Collector(1) as collector:
        for fn in (kill_self, functools.partial(kill_self)):
            with pytest.raises(WorkerCrashError, match=r"the worker of job kill_self-\d "):
                list(collector.map(fn, [signal.SIGKILL]))


@pytest.mark.parametrize("buffersize", [1, 2, 5])
def test_map_with_a_buffersize_takes_no_more_inputs_than_that(buffersize: int) -> None:
    numbers = Counted(50)
    with Collector(2) as collector:
        values = collector.map(square, numbers, buffersize=buffersize)
        assert numbers.taken == buffersize
        for count, value in enumerate(values, start=1):
            assert value == (count - 1) ** 2
            assert numbers.taken <= min(50, count + buffersize)
    assert numbers.taken == 50


def test_map_takes_all_inputs_at_once_without_one() -> None:
    numbers = Counted(50)
    with Collector(2) as collector:
        values = collector.map(square, numbers)
        assert numbers.taken == 50
        assert sum(values) == sum(n * n for n in range(50))


def test_map_gives_up_in_time(tmp_path: Path) -> None:
    until = os.fspath(tmp_path / "until")
    with Collector(1) as collector:
        values = collector.map(wait_for, [until], timeout=0.05)
        with pytest.raises(TimeoutError):
            next(values)
        Path(until).touch()


@pytest.mark.parametrize("forever", [math.inf, 1e300, 10**400], ids=["inf", "1e300", "10**400"])
def test_a_time_out_that_no_clock_can_tell_is_none(tmp_path: Path, forever: float) -> None:
    until, asked = tmp_path / "until", threading.Event()

    def touch() -> None:
        asked.wait()
        until.touch()

    threading.Thread(target=touch).start()
    with Collector(1) as collector:
        values = collector.map(wait_for, [os.fspath(until)], timeout=forever)
        job = collector.submit(square, 2)
        asked.set()
        assert list(values) == [None]
        assert job.result(forever) == 4


def test_a_map_that_is_left_cancels_what_has_not_started(tmp_path: Path) -> None:
    until = tmp_path / "until"

    def leave_a_mark(number: int) -> int:
        (tmp_path / str(number)).touch()
        if number:
            wait_for(until)
        return number

    with Collector(1) as collector:
        values = collector.map(leave_a_mark, range(5))
        assert isinstance(values, Generator)
        assert next(values) == 0
        wait_for(tmp_path / "1")
        values.close()
        until.touch()
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "until"}


class PickledByNext:
    """Something that is pickled by a `next` without a default."""

    def __reduce__(self) -> Any:
        return next(iter(()))


@pytest.mark.parametrize("buffersize", [None, 1])
def test_map_does_not_take_a_stop_iteration_for_the_end(buffersize: int | None) -> None:
    with Collector(1) as collector, pytest.raises(RuntimeError, match="raised StopIteration"):
        list(collector.map(str, [1, PickledByNext(), 3], buffersize=buffersize))


def test_map_of_a_generator_function_yields_what_it_returns() -> None:
    function: Callable[[int], Any] = numbered
    with Collector(2) as collector:
        assert list(collector.map(function, [1, 20, 3])) == [1, 20, 3]
        assert list(collector.map(function, [1, 20, 3], chunksize=2)) == [1, 20, 3]


# -- collect ---------------------------------------------------------------------------------------


def write_or_fail(number: int) -> Iterator[str]:
    yield f"{number}:"
    current_job().flush()
    if number % 3 == 0:
        raise ValueError(number)
    if number % 5 == 0:
        os._exit(number)
    yield "done"


@each_method
@pytest.mark.parametrize("ordered", [False, True])
def test_collect_yields_every_job_also_those_that_failed(method: str, ordered: bool) -> None:
    with Collector(2, method) as collector:
        texts = {}
        order = []
        for job in collector.collect(write_or_fail, range(20), ordered=ordered):
            number = job.args[0]
            order.append(number)
            texts[number] = job.output().text()
            assert job.output().complete is (job.exception() is None)
    assert sorted(order) == list(range(20))
    if ordered:
        assert order == list(range(20))
    for number, text in texts.items():
        failed = number % 3 == 0 or number % 5 == 0
        assert text == f"{number}:" + ("" if failed else "done")


def test_collect_yields_jobs_as_they_finish(tmp_path: Path) -> None:
    release = [tmp_path / str(number) for number in range(3)]

    def in_turn(number: int) -> int:
        wait_for(release[number])
        return number

    with Collector(3) as collector:
        jobs = collector.collect(in_turn, range(3))
        for number in (2, 0, 1):
            release[number].touch()
            assert next(jobs).result() == number
        assert next(jobs, None) is None


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("buffersize", [None, 1, 3])
def test_collect_is_never_further_ahead_of_its_reader_than_it_says(
    ordered: bool, buffersize: int | None
) -> None:
    numbers = Counted(60)
    ahead = buffersize or 4
    with Collector(2) as collector:
        jobs = collector.collect(square, numbers, ordered=ordered, buffersize=buffersize)
        assert numbers.taken == 0
        handed_over = 0
        for _job in jobs:
            handed_over += 1
            assert numbers.taken < handed_over + ahead
    assert numbers.taken == handed_over == 60


def test_collect_of_endless_inputs_can_be_left(tmp_path: Path) -> None:
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    with Collector(2) as collector:
        jobs = collector.collect(square, endless())
        assert isinstance(jobs, Generator)
        assert len([next(jobs) for _ in range(10)]) == 10
        jobs.close()
        assert collector.submit(square, 2).result() == 4


def test_inputs_that_fail_end_the_collection_with_their_own_exception() -> None:
    def inputs() -> Iterator[int]:
        yield 1
        raise LookupError("no more inputs")

    with Collector(2) as collector:
        with pytest.raises(LookupError, match="no more inputs"):
            list(collector.collect(square, inputs()))
        assert collector.submit(square, 2).result() == 4


def test_several_collections_at_once_get_their_own_jobs() -> None:
    with Collector(2) as collector:
        one, other = collector.collect(square, range(10)), collector.collect(lines, range(10))
        got = [(a.result(), b.output().chunks) for a, b in zip(one, other, strict=True)]
    assert sorted(a for a, _ in got) == [n * n for n in range(10)]
    assert sorted(b for _, b in got) == list(range(10))
