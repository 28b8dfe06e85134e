"""Jobs that die or raise: one job fails, with a clear error and its output."""

import functools
import os
import signal
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from collector import Collector, Job, JobError, WorkerCrashError, current_job
from tests.support.jobs import (
    KIB,
    MIB,
    HasNoTextError,
    HoldsALockError,
    NeedsAKeywordError,
    act,
    die_during_write,
    die_within_write,
    fail,
    numbered,
    raise_error_that,
    random_chunks,
    sha256,
    square,
    write_then_die,
    write_then_fail,
)
from tests.support.tiers import each_method, each_method_but, each_method_in_one_tier

pytestmark = pytest.mark.usefixtures("one_server")

SLOT = 256 * KIB
WRITE = 50_000_000


def seven_and_one(collector: Collector, dying: Callable[[], Job[Any]]) -> Job[Any]:
    """Run 8 jobs, of which the one that `dying` submits dies; check the other 7."""
    early = [collector.submit(random_chunks, seed, 4, 2 * MIB) for seed in range(3)]
    doomed = dying()
    late = [collector.submit(random_chunks, seed, 4, 2 * MIB) for seed in range(4)]
    for job in early + late:
        assert sha256(iter(job.output())) == job.result()
        assert job.output().complete
        job.output().close()
    return doomed


def assert_killed(job: Job[Any], size: int) -> int:
    """Check the error and the output of a job that died within one write; return what was kept."""
    error = job.exception()
    assert isinstance(error, WorkerCrashError)
    output = job.output()
    assert output.read() == next(numbered(size, size))[: output.size]
    assert not output.complete
    assert (error.signal, error.exitcode) == (signal.SIGKILL, -signal.SIGKILL)
    assert (error.job_id, error.name, error.attempt) == (job.id, job.name, 1)
    text = str(error)
    assert job.name in text
    assert "SIGKILL" in text
    assert "possibly out of memory" in text
    assert f"{output.size} bytes" in text
    kept = output.size
    output.close()
    return kept


IN_SLOTS = 100 * MIB
"""The output stays in memory, and so comes through slots: in as many frames as were counted."""


@each_method_in_one_tier
@pytest.mark.parametrize("published", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(1, marks=pytest.mark.slow),
        pytest.param(2, marks=pytest.mark.campaign),
        pytest.param(100, marks=pytest.mark.campaign),
        pytest.param(190, marks=pytest.mark.slow),
    ],
)
def test_a_worker_killed_in_the_middle_of_a_write_costs_its_job_and_no_other(
    method: str, frames: int, published: bool
) -> None:
    with Collector(2, method, memory_threshold=IN_SLOTS) as collector:
        doomed = seven_and_one(
            collector,
            lambda: collector.submit(die_within_write, WRITE, frames, published=published),
        )
        # What it had published is there, to the byte, and nothing else.
        assert assert_killed(doomed, WRITE) == SLOT * (frames if published else frames - 1)
        assert collector.submit(square, 5).result() == 25


def in_a_row(method: str, times: int) -> None:
    """Kill a worker at a random moment of a write, again and again in one Collector."""
    with Collector(2, method, memory_threshold=IN_SLOTS) as collector:
        kept = set()
        for number in range(times):
            frames = 1 + number * 37 % 180
            job = seven_and_one(
                collector, functools.partial(collector.submit, die_during_write, WRITE, frames)
            )
            kept.add(assert_killed(job, WRITE))
        assert collector.submit(square, 5).result() == 25
    assert kept - {0, WRITE}, "no kill met the middle of a write"


@each_method_but("fork")
def test_workers_killed_again_and_again_at_any_moment_of_a_write(method: str) -> None:
    in_a_row(method, 5)


@pytest.mark.campaign
@each_method_in_one_tier
def test_workers_killed_50_times_in_a_row(method: str) -> None:
    in_a_row(method, 50)


@each_method
def test_what_a_dead_worker_had_written_stays_with_its_job(method: str) -> None:
    with Collector(2, method) as collector:
        for size in (0, 1, 5 * MIB - 1, 5 * MIB, 20 * MIB):
            job = collector.submit(write_then_die, size)
            assert isinstance(job.exception(), WorkerCrashError)
            assert job.output().read() == b"".join(numbered(size))
            assert not job.output().complete
            assert job.progress.bytes_written == size
            job.output().close()


@each_method
@pytest.mark.parametrize(
    ("how", "exitcode"),
    [
        (("_exit", 0), 0),
        (("_exit", 3), 3),
        (("kill",), -signal.SIGKILL),
        (("abort",), -signal.SIGABRT),
        (("segfault",), -signal.SIGSEGV),
    ],
    ids=str,
)
def test_a_worker_that_dies_says_how(method: str, how: tuple[Any, ...], exitcode: int) -> None:
    with Collector(1, method) as collector:
        job = collector.submit(act, *how)
        error = job.exception()
        assert isinstance(error, WorkerCrashError)
        assert isinstance(error, BrokenProcessPool | BrokenExecutor)
        assert error.exitcode == exitcode
        assert error.signal == (-exitcode if exitcode < 0 else None)
        assert collector.submit(square, 2).result() == 4


@pytest.mark.parametrize("leave", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
@each_method
def test_an_exception_that_would_end_a_script_is_delivered_as_one(
    method: str, leave: BaseException
) -> None:
    with Collector(1, method) as collector:
        job = collector.submit(fail, leave)
        assert type(job.exception()) is type(leave)
        assert collector.submit(square, 2).result() == 4


# -- exceptions ------------------------------------------------------------------------------------


class OutOfStockError(Exception):
    def __init__(self, what: str, left: int) -> None:
        super().__init__(what, left)
        self.left = left


@each_method
@pytest.mark.parametrize("size", [0, 100, 6 * MIB])
def test_a_job_that_raises_gives_its_own_exception_and_what_it_had_written(
    method: str, size: int
) -> None:
    with Collector(1, method) as collector:
        job = collector.submit(write_then_fail, size, OutOfStockError("nails", 7))
        with pytest.raises(OutOfStockError, match="nails") as caught:
            job.result()
        assert caught.value.left == 7
        assert caught.value.args == ("nails", 7)
        cause = str(caught.value.__cause__)
        assert "Traceback (most recent call last)" in cause
        assert "in write_then_fail" in cause
        assert "raise error" in cause
        assert "OutOfStockError: ('nails', 7)" in cause
        assert job.output().read() == b"".join(numbered(size))
        assert not job.output().complete
        job.output().close()


def rethrow() -> None:
    try:
        _ = 1 // int("0")
    except ZeroDivisionError as error:
        error.add_note("seen in the worker")
        raise LookupError("looked for nothing") from error


def test_notes_and_the_chain_of_exceptions_are_told() -> None:
    with Collector(1) as collector:
        error = collector.submit(rethrow).exception()
        assert type(error) is LookupError
        cause = str(error.__cause__)
        assert "ZeroDivisionError" in cause
        assert "seen in the worker" in cause
        assert "direct cause" in cause
        group = collector.submit(
            fail, ExceptionGroup("two", [ValueError(1), KeyError(2)])
        ).exception()
        assert isinstance(group, ExceptionGroup)
        assert [type(one) for one in group.exceptions] == [ValueError, KeyError]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (HoldsALockError("a text of its own"), ["HoldsALockError", "a text of its own", "pickled"]),
        (NeedsAKeywordError(code=7), ["NeedsAKeywordError", "code 7", "unpickled", "TypeError"]),
    ],
    ids=["unpicklable", "not unpicklable"],
)
@each_method
def test_an_exception_that_cannot_travel_is_told_in_words(
    method: str, error: Exception, says: list[str]
) -> None:
    kind, args, fields = type(error), error.args, dict(vars(error))
    fields.pop("lock", None)

    def raise_it() -> Generator[bytes]:
        yield b"kept"
        raise kind(**fields) if fields else kind(*args)

    with Collector(1, method) as collector:
        job = collector.submit(raise_it)
        failed = job.exception()
        assert type(failed) is JobError
        assert (failed.job_id, failed.name, failed.attempt) == (job.id, job.name, 1)
        for word in (*says, job.name):
            assert word in str(failed)
        assert "in raise_it" in str(failed.__cause__)
        assert job.output().read() == b"kept"
        assert collector.submit(square, 2).result() == 4


@pytest.mark.parametrize(
    "how", [{"at_pickle": ("raise",)}, {"at_unpickle": ("raise",)}, {"at_unpickle": ("exit", 3)}]
)
@each_method
def test_an_exception_that_explodes_on_its_way_fails_its_job_only(
    method: str, how: dict[str, Any]
) -> None:
    with Collector(1, method) as collector:
        error = collector.submit(raise_error_that, **how).exception()
        assert type(error) is JobError
        assert "a text of its own" in str(error)
        assert collector.submit(square, 2).result() == 4


@each_method
def test_an_exception_without_a_text_is_delivered(method: str) -> None:
    with Collector(1, method) as collector:
        error = collector.submit(fail, HasNoTextError()).exception()
        assert type(error) is HasNoTextError
        assert "HasNoTextError" in str(error.__cause__)
        assert collector.submit(square, 2).result() == 4


def raise_at_length(size: int) -> None:
    raise ValueError("\x1b[31m" + "x" * size)


@each_method
def test_a_traceback_of_any_length_is_cut_and_escaped(method: str) -> None:
    with Collector(1, method) as collector:
        error = collector.submit(raise_at_length, 20_000_000).exception()
        assert type(error) is ValueError
        cause = str(error.__cause__)
        assert len(cause) < 200 * KIB
        assert "in raise_at_length" in cause
        assert "\\x1b[31m" in cause
        assert "\x1b" not in cause
        assert collector.submit(square, 2).result() == 4


# -- what a job leaves running ---------------------------------------------------------------------


@each_method
def test_a_failed_job_is_run_again_with_a_fresh_output(method: str, tmp_path: Path) -> None:
    def third_time_lucky() -> Iterator[str]:
        attempt = current_job().attempt
        yield f"attempt {attempt} " * (400_000 if attempt < 3 else 1)
        if attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if attempt == 2:
            raise ValueError(attempt)

    with Collector(1, method, retries=2) as collector:
        job = collector.submit(third_time_lucky)
        assert job.result() is None
        assert job.attempt == 3
        assert job.output().read() == b"attempt 3 "
        assert job.progress.bytes_written == 10
        hopeless = collector.with_options(retries=1).submit(fail, ValueError("always"))
        assert type(hopeless.exception()) is ValueError
        assert hopeless.attempt == 2
