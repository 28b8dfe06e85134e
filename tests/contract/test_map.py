"""map."""

import weakref
from concurrent.futures import Executor
from pathlib import Path

import pytest

from tests.contract.kinds import PATIENCE, Kind, is_gone
from tests.support.jobs import echo, square, wait_for

pytestmark = pytest.mark.usefixtures("one_server")


class Given:
    """Something that can be referred to weakly, and pickled."""


@pytest.mark.parametrize("chunksize", [1, 6, 50, 100])
def test_values_come_in_the_order_of_the_inputs(executor: Executor, chunksize: int) -> None:
    expected = [pow(number, 2) for number in range(40)]
    assert list(executor.map(square, range(40), chunksize=chunksize)) == expected


def test_inputs_are_taken_together_as_far_as_the_shortest_goes(executor: Executor) -> None:
    assert list(executor.map(pow, [1, 2, 3], [4, 5], [7, 7, 7, 7])) == [1, 4]
    assert list(executor.map(square, [])) == []


def test_an_exception_comes_where_its_value_would(executor: Executor) -> None:
    values = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert next(values) == (0, 1)
    assert next(values) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(values)


def test_calls_begin_before_values_are_asked_for(executor: Executor, tmp_path: Path) -> None:
    marks = [tmp_path / str(number) for number in range(3)]
    values = executor.map(Path.touch, marks)
    for mark in marks:
        wait_for(mark)
    assert list(values) == [None, None, None]


def test_time_may_run_out(executor: Executor, tmp_path: Path) -> None:
    until = tmp_path / "until"
    values = executor.map(wait_for, [until], timeout=0.1)
    with pytest.raises(TimeoutError):
        next(values)
    until.touch()
    assert list(executor.map(wait_for, [until], timeout=PATIENCE)) == [None]


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_chunk_has_one_call_at_least(executor: Executor, wrong: int) -> None:
    with pytest.raises(ValueError, match="chunksize must be"):
        executor.map(square, [1], chunksize=wrong)


def test_no_reference_to_values_is_kept(kind: Kind) -> None:
    with kind.make(1) as executor:
        for value in executor.map(echo, [Given() for _ in range(4)]):
            gone = weakref.ref(value)
            del value
            assert is_gone(gone)
