"""Wrong use gets a clear error that names the thing and says what to do."""

import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collector import (
    BrokenCollectorError,
    ClosedError,
    Collector,
    RunDirectoryError,
    SpillManager,
    current_job,
)
from tests.support.jobs import MIB, echo, kept_busy, nothing, numbered, square
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": -1}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": 1.5}, TypeError, "max_workers must be a whole number, not 1.5"),
        ({"max_workers": "4"}, TypeError, "max_workers must be a whole number, not '4'"),
        ({"memory_threshold": -1}, ValueError, "memory_threshold must be at least 0; it is -1"),
        ({"memory_threshold": 5e6}, TypeError, "memory_threshold must be a whole number"),
        ({"memory_budget": -1}, ValueError, "memory_budget must be at least 0; it is -1"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be at least 1"),
        ({"timeout": 0}, ValueError, "timeout must be more than 0 seconds"),
        ({"timeout": -1}, ValueError, "timeout must be more than 0 seconds"),
        ({"timeout": float("nan")}, ValueError, "timeout must be more than 0 seconds"),
        ({"timeout": "1"}, TypeError, "timeout must be a number"),
        ({"retries": -1}, ValueError, "retries must be at least 0; it is -1"),
        ({"retries": None}, TypeError, "retries must be a whole number or a Retry, not None"),
        ({"initializer": 42}, TypeError, "initializer must be a callable"),
        ({"initializer": print, "initargs": 5}, TypeError, "initargs must be a tuple, not 5"),
        ({"on_progress": 42}, TypeError, "on_progress must be callable"),
        ({"mp_context": "thread"}, ValueError, "mp_context must be one of forkserver, spawn, fork"),
        ({"mp_context": 42}, TypeError, "mp_context must be a context"),
        ({"temp_file_base_name": 42}, TypeError, "temp_file_base_name must be a str"),
        ({"temp_root": 42}, TypeError, "temp_root must be a path, not 42"),
        ({"temp_root": ""}, ValueError, "temp_root must be a path, not an empty one"),
    ],
    ids=str,
)
def test_an_argument_of_no_sense_is_refused_by_name(
    arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        Collector(**arguments)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"timeout": 0}, ValueError, "timeout must be more than 0 seconds"),
        ({"retries": -1}, ValueError, "retries must be at least 0"),
        ({"memory_threshold": -1}, ValueError, "memory_threshold must be at least 0"),
        ({"on_progress": 42}, TypeError, "on_progress must be callable"),
        ({"name": 42}, TypeError, "name must be a str"),
        ({"timeout": True}, TypeError, "timeout must be a number of seconds, not True"),
        ({"capture": "no"}, TypeError, "capture must be True or False, not 'no'"),
        ({"retries": 1.5}, TypeError, "retries must be a whole number"),
    ],
    ids=str,
)
def test_options_of_no_sense_are_refused(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with Collector(1) as collector, pytest.raises(error, match=says):
        collector.with_options(**options)


def test_numbers_of_numpy_are_numbers() -> None:
    one = np.int64(1)
    with Collector(one, retries=one, timeout=np.float32(60)) as collector:  # type: ignore[arg-type]
        assert list(collector.map(square, [2], chunksize=one, buffersize=one)) == [4]  # type: ignore[arg-type]
        assert list(collector.map(square, [2], timeout=np.float32(60))) == [4]  # type: ignore[arg-type]
        assert len(list(collector.collect(square, [2], total=one))) == 1  # type: ignore[arg-type]
        assert collector.with_options(memory_threshold=one).submit(numbered, 1).output().path  # type: ignore[arg-type]


class Index:
    """A whole number, and nothing else."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


def test_whole_numbers_are_used_as_what_they_stand_for() -> None:
    """One that cannot be compared ended the supervising thread; an int8 of 100 overflowed."""
    one, some = Index(1), Index(10**6)
    with Collector(
        one,  # type: ignore[arg-type]
        max_tasks_per_child=one,  # type: ignore[arg-type]
        memory_budget=some,  # type: ignore[arg-type]
        memory_threshold=some,  # type: ignore[arg-type]
        retries=one,  # type: ignore[arg-type]
        resources={"gpu": one},  # type: ignore[dict-item]
    ) as collector:
        assert list(collector.map(square, [1, 2, 3])) == [1, 4, 9]
        assert collector.with_options(resource="gpu").submit(square, 3).result() == 9
    with Collector(np.int8(100)) as collector:  # type: ignore[arg-type]
        assert [job.result() for job in collector.collect(square, [2])] == [4]


@pytest.mark.parametrize("kind", [Index, np.uint8])
def test_the_whole_numbers_of_a_batch_are_used_as_what_they_stand_for(
    kind: Any, tmp_path: Path
) -> None:
    """A shard of numpy's small numbers overflowed, and its total was no number of JSON's."""
    path, wanted = tmp_path / "batch", set(range(200))
    with Collector(2) as collector:
        for part in (1, 2):
            jobs = collector.collect(
                square,
                iter(range(200)),
                batch=path,
                shard=(kind(part), kind(2)),
                total=kind(200),
                buffersize=kind(3),
                halt="soon,fail=90%",
            )
            wanted -= {job.args[0] for job in jobs}
    assert not wanted


@pytest.mark.parametrize("name", ["a/b", "two\nlines", "\ud800", "\0", "n" * 100_000])
def test_a_job_may_have_any_name(name: str) -> None:
    with Collector(1) as collector:
        job = collector.with_options(name=name).submit(lambda: current_job().name)
        assert job.result() == job.name == name


def test_what_cannot_be_run_is_refused() -> None:
    with Collector(1) as collector:
        for wrong in (None, 42, "square"):
            submit: Any = collector.submit
            collect: Any = collector.collect
            with pytest.raises(TypeError, match="needs a function to run"):
                submit(wrong)
            with pytest.raises(TypeError, match="needs a function to run"):
                collect(wrong, [])
        with pytest.raises(TypeError, match="fn"):
            collector.submit()  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            collector.collect(square, 42)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="desc must be a str, not 5"):
            collector.collect(square, [], desc=5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="total must be a whole number, not 'many'"):
            collector.collect(square, [], total="many")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"total must be a whole number, not 1\.5"):
            collector.collect(square, [], total=1.5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="total must be at least 0; it is -1"):
            collector.collect(square, [], total=-1)
        with pytest.raises(TypeError, match="timeout must be a number of seconds, not 'x'"):
            collector.map(square, [], timeout="x")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="timeout must be a number of seconds, not True"):
            collector.map(square, [], timeout=True)
        for late in (0, -1):  # what is there already is yielded, as by the standard executors
            assert list(collector.map(square, [], timeout=late)) == []
        with pytest.raises(ValueError, match="buffersize must be at least 1"):
            collector.collect(square, [], buffersize=0)
        with pytest.raises(ValueError, match="buffersize must be at least 1"):
            collector.map(square, [], buffersize=0)
        with pytest.raises(ValueError, match="chunksize must be at least 1"):
            collector.map(square, [], chunksize=0)


@each_method
def test_submit_after_shutdown_says_so(method: str) -> None:
    collector = Collector(1, method)
    assert collector.submit(square, 2).result() == 4
    collector.shutdown()
    for use in (
        lambda: collector.submit(square, 2),
        lambda: collector.map(square, [2]),
        lambda: next(collector.collect(square, [2])),
        lambda: collector.with_options(name="x").submit(square, 2),
    ):
        with pytest.raises(RuntimeError, match=r"after shutdown.*make a new Collector"):
            use()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: 42, "a chunk must be bytes, another C-contiguous buffer or str, not int"),
        (lambda: None, "not NoneType"),
        (lambda: [b"x"], "not list"),
        (lambda: memoryview(b"abcdef")[::2], "must be C-contiguous .* write bytes"),
    ],
    ids=["int", "None", "list", "strided view"],
)
@each_method
def test_a_chunk_of_a_wrong_type_is_refused_by_name(
    method: str, make: Callable[[], Any], says: str
) -> None:
    def write_it() -> None:
        try:
            current_job().write(make())
        finally:
            current_job().write("refused")

    with SpillManager() as manager, pytest.raises(TypeError, match=says):
        manager.write(make())
    with Collector(1, method) as collector:
        job = collector.submit(write_it)
        with pytest.raises(TypeError, match=says):
            job.result()
        assert job.output().read() == b"refused"
        assert collector.submit(square, 3).result() == 9


async def awaitable(number: int) -> int:
    return number


async def awaitable_chunks(number: int) -> AsyncIterator[bytes]:
    yield bytes(number)


@pytest.mark.parametrize("fn", [awaitable, awaitable_chunks])
def test_an_async_function_is_refused_by_name(
    fn: Callable[[int], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    with Collector(1) as collector:
        with pytest.raises(TypeError, match=rf"{fn.__name__} is async.*use asyncio\.run\(\)"):
            collector.submit(fn, 1).result()
        with pytest.raises(TypeError, match=rf"{fn.__name__} is async"):
            list(collector.map(fn, [1]))
    assert capfd.readouterr().err == ""


def test_current_job_outside_a_job_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"current_job\(\) was called outside a job"):
        current_job()
    with Collector(1, initializer=current_job) as collector:
        error = collector.submit(nothing).exception()
        assert isinstance(error, BrokenCollectorError)
        assert "current_job() was called outside a job" in str(error)


def test_a_collector_whose_initializer_fails_says_why_and_takes_nothing_more() -> None:
    with Collector(2, initializer=divmod, initargs=(1, 0)) as collector:
        jobs = [collector.submit(square, number) for number in range(5)]
        for job in jobs:
            error = job.exception()
            assert isinstance(error, BrokenCollectorError)
            assert "initializer" in str(error)
            assert "ZeroDivisionError" in str(error)
            assert job.name in str(error)
        with pytest.raises(BrokenCollectorError, match="ZeroDivisionError"):
            collector.submit(square, 1)


def test_saving_onto_an_existing_file_is_refused(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with Collector(1) as collector:
        for size in (10, 6 * MIB):
            output = collector.submit(numbered, size).output()
            with pytest.raises(FileExistsError) as caught:
                output.save(taken)
            assert caught.value.filename == os.fspath(taken)
            assert "overwrite" in str(caught.value)
            assert taken.read_text() == "mine"
            assert output.size == len(output.read()) == size
            output.save(taken, overwrite=True)
            assert taken.stat().st_size == size
            taken.write_text("mine")
            output.close()


def test_a_closed_output_says_so() -> None:
    with Collector(1) as collector:
        for size in (10, 6 * MIB):
            output = collector.submit(numbered, size).output()
            output.close()
            output.close()
            for use in (output.read, output.text, output.open, output.view, output.__fspath__):
                with pytest.raises(ClosedError, match="closed"):
                    use()


def test_an_output_that_is_not_there_yet_is_waited_for_in_vain(tmp_path: Path) -> None:
    with Collector(1) as collector, kept_busy(collector, 1, tmp_path) as busy:
        with pytest.raises(TimeoutError):
            busy[0].output(timeout=0.01)
        late = collector.submit(square, 2)
        with pytest.raises(TimeoutError):
            late.output(timeout=0.01)


def test_a_temp_root_that_cannot_be_used_is_refused_with_its_path(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for root in (file, file / "below", tmp_path / "missing" / "below"):
        with pytest.raises(RunDirectoryError) as caught:
            Collector(1, temp_root=root)
        assert os.fspath(root) in str(caught.value)


class Pipeline:
    """Submits its own methods: they take it along, with the Collector that it holds."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector

    def step(self) -> None:
        pass


def test_a_collector_cannot_be_sent_to_its_own_workers() -> None:
    with Collector(1) as collector:
        pipeline = Pipeline(collector)
        for use in (
            lambda: collector.submit(echo, collector),
            lambda: collector.submit(pipeline.step),
            lambda: collector.submit(lambda: collector),
        ):
            with pytest.raises(TypeError, match="a Collector cannot be pickled; make one in the"):
                use()


def test_a_job_cannot_be_sent_to_a_worker() -> None:
    with Collector(1) as collector:
        job = collector.submit(square, 2)
        with pytest.raises(TypeError, match=r"a Job cannot be pickled; pass .*job\.result\(\)"):
            collector.submit(echo, job)


def test_a_collector_inside_a_job_works() -> None:
    def inner() -> int:
        with Collector(1) as within:
            return within.submit(square, 3).result()

    with Collector(1) as collector:
        assert collector.submit(inner).result() == 9


def test_a_collector_of_another_process_says_so() -> None:
    with Collector(1) as collector:
        assert collector.submit(square, 2).result() == 4
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                collector.submit(square, 2)
            except RuntimeError as error:
                os.write(write, str(error).encode())
            collector.shutdown()
            os._exit(0)
        os.close(write)
        with open(read) as said:
            assert "make a new one after a fork" in said.read()
        assert os.waitpid(pid, 0)[1] == 0
        assert collector.submit(square, 2).result() == 4


def test_shutdown_from_several_threads_is_one_shutdown() -> None:
    collector = Collector(2)
    jobs = [collector.submit(square, number) for number in range(10)]
    threads = [threading.Thread(target=collector.shutdown) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [job.result(timeout=0) for job in jobs] == [n * n for n in range(10)]
