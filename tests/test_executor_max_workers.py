"""`_max_workers`, which dask, pipefunc and others read of any executor."""

from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from collector import Collector


def most_of(executor: Executor) -> Any:
    """What others read."""
    return executor._max_workers  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [Collector, ProcessPoolExecutor, ThreadPoolExecutor])
def test_it_is_how_many_workers_there_may_be(kind: type[Executor]) -> None:
    with kind(max_workers=3) as executor:  # type: ignore[call-arg]
        assert most_of(executor) == 3
    assert most_of(executor) == 3


def test_it_is_known_where_the_number_was_left_to_the_collector() -> None:
    with Collector(progress=False) as collector:
        assert isinstance(most_of(collector), int)
        assert most_of(collector) >= 1
        assert most_of(collector.with_options(name="other")) == most_of(collector)
