"""map, of inputs that cannot all be had."""

from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path

import pytest

from tests.support.jobs import square, wait_for

pytestmark = pytest.mark.usefixtures("one_server")


def marks(directory: Path) -> Iterator[Path]:
    """Two paths, and no third one."""
    yield directory / "first"
    yield directory / "second"
    raise LookupError("no third")


def test_an_input_that_cannot_be_had_is_raised_at_once(executor: Executor) -> None:
    def inputs() -> Iterator[int]:
        yield from range(3)
        raise LookupError("no fourth")

    with pytest.raises(LookupError, match="no fourth"):
        executor.map(square, inputs())
    assert executor.submit(square, 3).result() == 9


def test_the_calls_before_it_are_made_all_the_same(executor: Executor, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no third"):
        executor.map(Path.touch, marks(tmp_path))
    wait_for(tmp_path / "first")
    wait_for(tmp_path / "second")


def test_no_input_is_taken_behind_it(executor: Executor) -> None:
    taken = []

    def inputs() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            if number == 4:
                raise KeyboardInterrupt
            yield number

    with pytest.raises(KeyboardInterrupt):
        executor.map(square, inputs())
    assert taken == [0, 1, 2, 3, 4]
