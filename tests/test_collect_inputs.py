"""What `collect` does when an input cannot be had or submitted: the jobs before it come first."""

import csv
import gc
import os
import signal
import sys
import weakref
from collections.abc import Iterable, Iterator
from multiprocessing.dummy import Pool
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

from collector import BrokenCollectorError, Collector, ProgressEvent
from collector.executor.core import _Counted
from collector.progress.event import Happening
from tests.support.jobs import Refuses, begun_then_wait, echo, kept_busy, square
from tests.support.leaks import wait_until
from tests.support.person import Person
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")

either_order = pytest.mark.parametrize("ordered", [False, True])


class InputError(Exception):
    """An input cannot be had."""


def raises(error: BaseException) -> NoReturn:
    raise error


def inputs(count: int, error: BaseException) -> Iterator[int]:
    """So many numbers, then the error."""
    yield from range(count)
    raise error


class Resumable:
    """An iterator that raises once and would go on after it."""

    def __init__(self, raises_at: int) -> None:
        self.next = 0
        self.raises_at = raises_at

    def __iter__(self) -> "Resumable":
        return self

    def __next__(self) -> int:
        self.next += 1
        if self.next == self.raises_at:
            raise InputError("once")
        return self.next


class Stream:
    """As a loader of data that is read as it comes: its class has a length, and it has none."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))

    def __len__(self) -> int:
        raise TypeError("this stream has no length")


@either_order
def test_inputs_whose_length_cannot_be_told_are_taken_all_the_same(*, ordered: bool) -> None:
    """As by `list` and by tqdm."""
    with Collector(1) as collector:
        jobs = collector.collect(square, Stream(), ordered=ordered)
        assert sorted(job.result() for job in jobs) == [0, 1, 4]


def numbers_of(path: Path, text: str) -> Iterable[Any]:
    """A file of numbers, read line by line."""
    path.write_text(text)
    with path.open(encoding="ascii") as stream:
        yield from (int(number) for row in csv.reader(stream) for number in row)


def gathered(jobs: Iterator[Any], error: type[BaseException]) -> tuple[list[Any], BaseException]:
    """What the jobs returned that came before the error, and the error."""
    values: list[Any] = []
    with pytest.raises(error) as caught:
        values.extend(job.result() for job in jobs)
    return values, caught.value


@each_method
@either_order
@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_jobs_before_an_input_that_cannot_be_had_are_yielded_first(
    method: str, ordered: bool, count: int
) -> None:
    error = InputError("no more")
    with Collector(2, method) as collector:
        came, raised = gathered(
            collector.collect(square, inputs(count, error), ordered=ordered), InputError
        )
        assert raised is error
        assert sorted(came) == [number**2 for number in range(count)]
        assert came == sorted(came) or not ordered
        assert collector.submit(square, 3).result() == 9


def test_a_pool_of_the_standard_library_does_the_same() -> None:
    with Pool(2) as pool:
        values = pool.imap(square, inputs(3, InputError("no more")))
        assert [next(values) for _ in range(3)] == [0, 1, 4]
        with pytest.raises(InputError):
            next(values)


@either_order
@pytest.mark.parametrize("buffersize", [1, 2, 100])
def test_however_many_are_ahead(ordered: bool, buffersize: int) -> None:
    with Collector(2) as collector:
        jobs = collector.collect(
            square, inputs(7, InputError()), ordered=ordered, buffersize=buffersize
        )
        came, _ = gathered(jobs, InputError)
        assert sorted(came) == [number**2 for number in range(7)]
        assert next(jobs, None) is None


def test_a_reader_has_what_runs_before_it_hears_of_the_input(tmp_path: Path) -> None:
    """The error is known when the first job is asked for, and waits until the last one is had."""
    until = tmp_path / "until"

    def calls() -> Iterator[str]:
        yield "first"
        yield "second"
        raise InputError("no third")

    def waits(name: str) -> str:
        begun_then_wait(str(tmp_path / name), str(until))
        return name

    with Collector(2) as collector:
        jobs = collector.collect(waits, calls(), buffersize=3)
        until.touch()
        assert {next(jobs).result(), next(jobs).result()} == {"first", "second"}
        with pytest.raises(InputError):
            next(jobs)


@either_order
def test_an_iterator_that_could_go_on_after_its_error_is_not_asked_again(ordered: bool) -> None:
    numbers = Resumable(raises_at=4)
    with Collector(2) as collector:
        came, _ = gathered(collector.collect(echo, numbers, ordered=ordered), InputError)
    assert sorted(came) == [1, 2, 3]
    assert numbers.next == 4


@either_order
def test_jobs_before_a_line_that_is_no_number_are_yielded_first(
    ordered: bool, tmp_path: Path
) -> None:
    rows = numbers_of(tmp_path / "numbers.csv", "1,2\n3,4\n5,six\n7\n")
    with Collector(2) as collector:
        came, error = gathered(collector.collect(echo, rows, ordered=ordered), ValueError)
    assert sorted(came) == [1, 2, 3, 4, 5]
    assert "six" in str(error)


@each_method
@either_order
def test_jobs_before_an_input_that_cannot_be_pickled_are_yielded_first(
    method: str, ordered: bool
) -> None:
    items = [1, 2, Refuses(at_pickle=("raise",)), 4]
    with Collector(2, method) as collector:
        came, _ = gathered(collector.collect(echo, items, ordered=ordered), ZeroDivisionError)
        assert sorted(came) == [1, 2]


@either_order
def test_jobs_before_a_shutdown_are_yielded_first(ordered: bool) -> None:
    with Collector(2) as collector:
        jobs = collector.collect(square, range(100), ordered=ordered, buffersize=3)
        came = [next(jobs).result()]
        collector.shutdown(wait=False)
        more, error = gathered(jobs, RuntimeError)
    assert sorted(came + more) == [0, 1, 4]
    assert "after shutdown" in str(error)


@either_order
def test_jobs_of_a_collector_that_breaks_are_all_yielded(ordered: bool) -> None:
    with Collector(1, initializer=raises, initargs=(InputError("not here"),)) as collector:
        jobs = collector.collect(square, range(100), ordered=ordered, buffersize=3)
        failed = [next(jobs) for _ in range(3)]
        assert all(isinstance(job.exception(), BrokenCollectorError) for job in failed)
        with pytest.raises(BrokenCollectorError, match="not here"):
            next(jobs)


@either_order
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_an_end_of_the_program_is_raised_at_once(
    ordered: bool, error: BaseException, tmp_path: Path
) -> None:
    def items() -> Iterator[int]:
        yield from range(4)
        raise error

    with Collector(1) as collector, kept_busy(collector, 1, tmp_path):
        jobs = collector.collect(square, items(), ordered=ordered, buffersize=10)
        with pytest.raises(type(error)) as caught:
            next(jobs)
        assert caught.value is error


@each_method
def test_a_ctrl_c_while_an_input_is_made_ends_the_loop_and_its_jobs(
    method: str, tmp_path: Path
) -> None:
    def items() -> Iterator[tuple[str, str]]:
        for number in range(2):
            yield f"{tmp_path}/begun-{number}", f"{tmp_path}/until"
        assert wait_until((tmp_path / "begun-0").exists)
        os.kill(os.getpid(), signal.SIGINT)
        assert wait_until(lambda: False)

    def waits(paths: tuple[str, str]) -> None:
        begun_then_wait(*paths)

    kept: list[Any] = []
    with pytest.raises(KeyboardInterrupt), Collector(1, method) as collector:
        kept.extend(collector.collect(waits, items(), buffersize=3))
    assert kept == []


@either_order
def test_a_reader_that_leaves_before_the_error_does_not_hear_of_it(ordered: bool) -> None:
    with Collector(2) as collector:
        jobs: Any = collector.collect(square, inputs(3, InputError()), ordered=ordered)
        next(jobs)
        jobs.close()
        assert collector.submit(square, 3).result() == 9


def ten_then_none() -> Iterator[int]:
    """Inputs whose error nothing holds but what it is raised to."""
    yield from range(10)
    raise InputError


def error_of(collector: Collector, *, ordered: bool) -> weakref.ref[InputError]:
    """What was raised, when it was dealt with."""
    try:
        for job in collector.collect(square, ten_then_none(), ordered=ordered):
            job.result()
    except InputError as error:
        return weakref.ref(error)
    raise AssertionError("nothing was raised")


@either_order
def test_what_was_raised_is_held_by_nothing_and_ties_no_knot(ordered: bool) -> None:
    with Collector(2) as collector:
        gc.collect()
        gc.disable()
        try:
            assert error_of(collector, ordered=ordered)() is None
        finally:
            gc.enable()


class Sink:
    """A `progress=` that remembers."""

    def __init__(self) -> None:
        self.events: list[ProgressEvent] = []

    def update(self, event: ProgressEvent) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass


@either_order
def test_the_error_of_an_input_holds_no_job_before_it(*, ordered: bool) -> None:
    with Collector(1, progress=False) as collector:
        items = inputs(2, InputError("no more"))
        jobs = collector.collect(square, items, ordered=ordered, buffersize=8)
        gone = [weakref.ref(next(jobs)) for _ in range(2)]
        assert wait_until(lambda: not any(job() for job in gone))
        with pytest.raises(InputError):
            next(jobs)


@either_order
def test_its_batch_is_closed_with_what_was_done(ordered: bool) -> None:
    sink = Sink()
    with Collector(2, progress=sink) as collector:
        gathered(
            collector.collect(square, inputs(7, InputError()), ordered=ordered, total=10),
            InputError,
        )
    assert [event.happened for event in sink.events].count(Happening.CLOSED) == 1
    last = sink.events[-1]
    assert last.happened is Happening.CLOSED
    assert (last.jobs_done, last.jobs_total, last.jobs_failed) == (7, 10, 0)


BAR = """
from collector import Collector
def inputs():
    yield from range(7)
    raise LookupError("no eighth")
with Collector(2) as collector:
    try:
        for job in collector.collect(abs, inputs(), total=10):
            job.result()
    except LookupError as error:
        print("caught:", error)
print("end")
"""


@pytest.mark.slow
def test_its_bar_ends_with_what_was_done_of_how_many(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(BAR)
    with Person(80, 24) as person:
        person.run(script)
        assert person.wait() == 0
        bar, said, end = [line for line in person.lines if line]
        assert "| 7/10 [" in bar
        assert said == "caught: no eighth"
        assert end == "end"


def test_a_ctrl_c_while_the_inputs_are_begun_leaves_nothing_to_complain_of() -> None:
    """It was an ignored AttributeError of what counts them; pytest makes that a failure here."""

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is _Counted.__init__.__code__:
            raise KeyboardInterrupt

    with Collector(1, progress=False) as collector:
        before = sys.gettrace()
        sys.settrace(interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                list(collector.collect(square, range(3)))
        finally:
            sys.settrace(before)
        gc.collect()
        assert collector.statistics().total == 0
