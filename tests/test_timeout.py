"""`timeout` counts from when the call has been loaded, not from the import of its module on."""

import importlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from collector import Collector, JobKilledError, JobTimeoutError, current_job
from tests.support.jobs import echo, nothing, wait_for
from tests.support.tiers import each_method, each_method_but

pytestmark = pytest.mark.usefixtures("one_server")

imports_it_anew = pytest.mark.parametrize(  # by fork a worker has it already
    "method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)]
)

TIMEOUT_S: Final = 1.5
LOADING_S: Final = 2.0

SLOW_MODULE: Final = """
import os, time
PARENT = {parent}
if os.getpid() != PARENT:
    time.sleep({loading_s})

def work(value=None):
    return value, os.getpid()

def hang_at_first(mark):
    from collector import current_job
    if current_job().attempt == 1:
        open(mark, "w").close()
        while True:
            time.sleep(60)
    return current_job().attempt

class Loads:
    def __setstate__(self, state):
        self.__dict__.update(state)
"""


class SlowToLoad:
    """An argument that takes its time to be unpickled."""

    def __init__(self, seconds: float, then: Any = None) -> None:
        self.seconds = seconds
        self.then = then

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _after, (self.seconds, self.then)


def _after(seconds: float, value: Any) -> Any:
    time.sleep(seconds)
    return value


class NeverLoaded:
    """An argument that is not there before a file is."""

    def __init__(self, begun: str, until: str) -> None:
        self.begun = begun
        self.until = until

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _wait, (self.begun, self.until)


def _wait(begun: str, until: str) -> str:
    Path(begun).touch()
    wait_for(until)
    return until


def hang(mark: str) -> None:
    """Make a file, then run for ever."""
    Path(mark).touch()
    while True:
        time.sleep(60)


def hang_at_first(mark: str, argument: Any) -> tuple[int, Any]:
    """Run for ever in the first attempt."""
    if current_job().attempt == 1:
        hang(mark)
    return current_job().attempt, argument


@pytest.fixture
def slow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module that each process imports for longer than the time-out, but for this one."""
    source = SLOW_MODULE.format(parent=os.getpid(), loading_s=LOADING_S)
    (tmp_path / "slow_module.py").write_text(source)
    monkeypatch.syspath_prepend(os.fspath(tmp_path))
    yield importlib.import_module("slow_module")
    del sys.modules["slow_module"]


@imports_it_anew
def test_the_import_of_a_jobs_module_is_none_of_its_time(
    method: str, slow_module: ModuleType
) -> None:
    with Collector(2, method, timeout=TIMEOUT_S) as collector:
        jobs = [collector.submit(slow_module.work, number) for number in range(4)]
        assert [job.result()[0] for job in jobs] == list(range(4))
        assert [job.attempt for job in jobs] == [1] * 4


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("forkserver", marks=pytest.mark.slow),
        pytest.param("spawn", marks=pytest.mark.campaign),
    ],
)
def test_nor_is_it_in_the_worker_that_replaces_a_killed_one(
    method: str, slow_module: ModuleType, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    with Collector(1, method, timeout=TIMEOUT_S, retries=1) as collector:
        job = collector.submit(slow_module.hang_at_first, os.fspath(mark))
        assert job.result() == 2
        assert mark.exists()


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("forkserver", marks=pytest.mark.campaign),
        pytest.param("spawn", marks=pytest.mark.slow),
    ],
)
def test_nor_is_it_where_each_worker_runs_one_job(method: str, slow_module: ModuleType) -> None:
    with Collector(1, method, timeout=TIMEOUT_S, max_tasks_per_child=1) as collector:
        pids = {collector.submit(slow_module.work).result()[1] for _ in range(2)}
    assert len(pids) == 2


@each_method_but("spawn")
def test_nor_is_what_unpickling_its_arguments_takes(method: str) -> None:
    with Collector(1, method, timeout=TIMEOUT_S) as collector:
        assert collector.submit(echo, SlowToLoad(LOADING_S, "there")).result() == "there"


@each_method_but("fork")
def test_a_call_that_was_slow_to_load_has_its_time_and_no_more(method: str, tmp_path: Path) -> None:
    marks = [tmp_path / "first", tmp_path / "second"]
    with Collector(2, method, timeout=TIMEOUT_S) as collector:
        late = collector.submit(hang_at_first, os.fspath(marks[0]), SlowToLoad(LOADING_S))
        again = collector.with_options(retries=1).submit(
            hang_at_first, os.fspath(marks[1]), SlowToLoad(LOADING_S, "argument")
        )
        assert isinstance(late.exception(), JobTimeoutError)
        assert again.result() == (2, "argument")
    assert all(mark.exists() for mark in marks)


@each_method_but("fork")
def test_jobs_that_wait_behind_one_that_loads_have_their_own_time(method: str) -> None:
    """They come to the worker together, as brisk ones do, and the clock of each is its own."""
    with Collector(1, method, timeout=TIMEOUT_S) as collector:
        brisk = [collector.submit(nothing) for _ in range(300)]
        slow = collector.submit(echo, SlowToLoad(LOADING_S, 1))
        behind = [collector.submit(echo, number) for number in range(20)]
        assert [job.result() for job in brisk] == [None] * 300
        assert slow.result() == 1
        assert [job.result() for job in behind] == list(range(20))


@each_method
def test_a_call_that_is_never_loaded_can_be_killed(method: str, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    argument = NeverLoaded(os.fspath(begun), os.fspath(tmp_path / "until"))
    with Collector(1, method, timeout=0.01, retries=3) as collector:
        job = collector.submit(echo, argument)
        wait_for(begun)
        assert job.kill()
        assert isinstance(job.exception(), JobKilledError)
        assert job.attempt == 1
        assert collector.with_options(timeout=60).submit(echo, 3).result() == 3


def test_without_memory_to_note_it_in_the_time_begins_with_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with Collector(1, "fork", timeout=0.2) as collector:
        assert isinstance(collector.submit(echo, SlowToLoad(600)).exception(), JobTimeoutError)
        assert collector.with_options(timeout=60).submit(echo, 3).result() == 3


def test_a_limit_may_be_any_number(tmp_path: Path) -> None:
    """A fraction could not be shown, and its job never ended."""
    with Collector(1, timeout=Fraction(1, 2)) as collector:  # type: ignore[arg-type]
        job = collector.submit(wait_for, tmp_path / "never")
        assert "longer than its 0.5 s" in str(job.exception(60))


@pytest.mark.parametrize("limit", [10**400, math.inf, sys.float_info.max])
def test_no_limit_is_too_long(limit: float) -> None:
    """A whole number beyond a float's range ended the supervising thread."""
    with Collector(1, timeout=limit) as collector:
        assert list(collector.map(len, ["ab", "c"])) == [2, 1]
