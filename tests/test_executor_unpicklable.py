"""What cannot be pickled, and chunks of a wrong type: one job fails, with a clear error."""

import ctypes
import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import ModuleType
from typing import Any

import multiprocess
import pytest

from collector import Collector, JobError, WorkerCrashError, current_job
from tests.support.jobs import Refuses, echo, return_that, square
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")

# -- what cannot be pickled ------------------------------------------------------------------------


@each_method
def test_an_argument_that_cannot_be_pickled_raises_in_submit(method: str) -> None:
    with Collector(1, method) as collector:
        with pytest.raises(TypeError, match=r"the call of echo\(\) .*cannot pickle .*; make "):
            collector.submit(echo, threading.Lock())
        with pytest.raises(ZeroDivisionError):
            collector.submit(echo, Refuses(at_pickle=("raise",)))
        with pytest.raises(TypeError, match="pickle"):
            list(collector.map(echo, [threading.Lock()]))
        with pytest.raises(TypeError, match="pickle"):
            list(collector.collect(echo, [threading.Lock()]))
        assert collector.submit(square, 2).id == 1


@each_method
def test_an_argument_that_explodes_in_the_worker_fails_its_job(method: str) -> None:
    with Collector(1, method) as collector:
        job = collector.submit(echo, Refuses(at_unpickle=("raise",)))
        error = job.exception()
        assert type(error) is ZeroDivisionError
        assert "raised while pickling or unpickling" in str(error.__cause__)
        crash = collector.submit(echo, Refuses(at_unpickle=("kill",)))
        assert isinstance(crash.exception(), WorkerCrashError)
        assert collector.submit(square, 2).result() == 4


def write_and_return(value: Any) -> Any:
    current_job().write("kept")
    return value() if callable(value) else value


@each_method
def test_a_result_that_cannot_be_pickled_fails_its_job(method: str) -> None:
    with Collector(1, method) as collector:
        job = collector.submit(write_and_return, threading.Lock)
        error = job.exception()
        assert isinstance(error, TypeError | pickle.PicklingError)
        assert f"what job {job.name} returned cannot be pickled (" in str(error)
        assert "cannot pickle" in str(error.__cause__)
        assert job.output().read() == b"kept"
        assert not job.output().complete
        exploding = collector.submit(return_that, at_pickle=("raise",))
        assert type(exploding.exception()) is ZeroDivisionError
        assert collector.submit(square, 2).result() == 4


def both_ends(library: ModuleType) -> Any:
    return library.Pipe()


@each_method
@pytest.mark.parametrize("library", [multiprocessing, multiprocess], ids=lambda each: each.__name__)
def test_a_connection_does_not_travel_as_the_number_of_a_descriptor(
    method: str, library: Any
) -> None:
    here, there = library.Pipe()
    with here, there, Collector(1, method) as collector:
        for argument in (there, lambda: there):  # the second goes by value
            with pytest.raises(
                TypeError, match=f"cannot pickle a connection of {library.__name__}"
            ):
                collector.submit(echo, argument)
        error = collector.submit(both_ends, library).exception()
        assert type(error) is TypeError
        assert f"cannot pickle a connection of {library.__name__}" in str(error)
        assert collector.submit(square, 2).result() == 4


@each_method
@pytest.mark.parametrize("kind", [ctypes.CDLL, ctypes.PyDLL], ids=lambda each: each.__name__)
def test_a_library_does_not_travel_as_the_number_of_a_handle(
    method: str, kind: type[ctypes.CDLL]
) -> None:
    library = kind(None)
    with Collector(1, method) as collector:
        for argument in (library, lambda: library):
            with pytest.raises(TypeError, match=r"cannot pickle a library of ctypes .*: load it "):
                collector.submit(echo, argument)
        assert "a library of ctypes" in str(collector.submit(kind, None).exception())
        assert collector.submit(square, 2).result() == 4


@each_method
def test_a_pointer_or_a_pool_is_refused_as_a_lock_is(method: str) -> None:
    with ThreadPool(1) as pool, Collector(1, method) as collector:
        for refused in (ctypes.pointer(ctypes.c_int(3)), ctypes.c_char_p(b"a"), pool):
            for argument in ([refused], lambda refused=refused: refused):
                with pytest.raises(
                    (RuntimeError, pickle.PicklingError),
                    match=r"the call of echo\(\) cannot be sent to a worker \(.*\); make ",
                ):
                    collector.submit(echo, argument)
        error = collector.submit(ctypes.c_char_p, b"a").exception()
        assert "returned cannot be pickled (ValueError: " in str(error)
        assert collector.submit(square, 2).result() == 4
        pool.close()
        pool.join()


@each_method
@pytest.mark.parametrize("how", [("raise",), ("exit", 3)], ids=str)
def test_a_result_that_explodes_in_the_parent_fails_its_job(
    method: str, how: tuple[Any, ...]
) -> None:
    with Collector(1, method) as collector:
        job = collector.submit(return_that, at_unpickle=how)
        error = job.exception()
        assert type(error) is JobError
        assert job.name in str(error)
        assert "unpickled" in str(error)
        assert type(error.__cause__) in (ZeroDivisionError, SystemExit)
        assert not job.output().complete
        assert collector.submit(square, 2).result() == 4


@each_method
def test_a_result_of_100_mb_travels(method: str) -> None:
    with Collector(1, method) as collector:
        value = collector.submit(bytes, 100_000_000).result()
        assert value == bytes(100_000_000)


# -- generators ------------------------------------------------------------------------------------


def one_bad_chunk(caught: bool) -> Iterator[Any]:
    yield b"good "
    try:
        yield 42
    except TypeError as error:
        if not caught:
            raise
        yield f"refused: {error}"


def test_a_chunk_of_a_wrong_type_raises_where_it_was_yielded() -> None:
    with Collector(1) as collector:
        job = collector.submit(one_bad_chunk, False)
        error = job.exception()
        assert type(error) is TypeError
        assert "in one_bad_chunk" in str(error.__cause__)
        assert "yield 42" in str(error.__cause__)
        assert job.output().read() == b"good "
        handled = collector.submit(one_bad_chunk, True)
        assert handled.output().text().startswith("good refused: a chunk must be bytes")


def leaves_a_mark(path: str) -> Iterator[str]:
    try:
        yield "\ud800"  # a lone surrogate is no text
    finally:
        Path(path).write_text("cleaned up")


def test_a_generator_whose_chunk_is_no_text_is_closed(tmp_path: Path) -> None:
    with Collector(1) as collector:
        job = collector.submit(leaves_a_mark, os.fspath(tmp_path / "mark"))
        assert type(job.exception()) is UnicodeEncodeError
        assert (tmp_path / "mark").read_text() == "cleaned up"
