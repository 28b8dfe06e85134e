"""The iterator of `map` holds no executor: who drops that, and reads on, holds no workers."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from collector import Collector
from tests.contract.kinds import Kind, is_gone
from tests.support.inside import sink_pid, worker_pids
from tests.support.jobs import square
from tests.support.leaks import is_running, wait_until
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")


def test_an_executor_can_be_dropped_while_its_values_are_read(kind: Kind) -> None:
    executor: Any = kind.make(1)
    values = executor.map(square, range(10))
    assert next(values) == 0
    watched, ending = weakref.ref(executor), kind.ending(executor)
    del executor
    if kind.ours:
        del ending
        assert is_gone(watched)
    assert list(values) == [number * number for number in range(1, 10)]
    if not kind.ours:
        ending()


@each_method
def test_workers_leave_after_the_last_value_whoever_holds_the_iterator(method: str) -> None:
    collector = Collector(1, method)
    values = collector.map(square, range(10), chunksize=3)
    assert next(values) == 0
    pids = [*worker_pids(collector), sink_pid(collector)]
    del collector
    gc.collect()
    assert wait_until(lambda: not any(is_running(pid or 0) for pid in pids))
    assert list(values) == [number * number for number in range(1, 10)]


@each_method
def test_an_iterator_that_submits_as_it_is_read_lets_go_after_the_last_input(method: str) -> None:
    collector = Collector(1, method)
    watched = weakref.ref(collector)
    values = collector.map(square, range(10), buffersize=2)
    del collector
    assert [next(values) for _ in range(8)] == [number * number for number in range(8)]
    gc.collect()
    assert watched() is not None  # as long as it has anything to submit
    assert next(values) == 64
    assert is_gone(watched)
    assert list(values) == [81]


@each_method
def test_a_dropped_iterator_lets_go_at_once(method: str, tmp_path: Path) -> None:
    collector = Collector(1, method)
    watched = weakref.ref(collector)
    values = collector.map(square, range(10), buffersize=2)
    assert next(values) == 0
    del collector, values
    assert is_gone(watched)
    assert not list(tmp_path.iterdir())
