"""The executor as a user meets it: futures, map, collect, options, threads, the end."""

import asyncio
import enum
import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from pathlib import Path
from typing import Any

import pytest

from collector import (
    Collector,
    Job,
    JobKilledError,
    JobTimeoutError,
    Mode,
    WorkerCrashError,
    current_job,
    list_runs,
    settings,
)
from collector.process.pace import Pace
from collector.process.supervisor import Supervisor
from tests.support.jobs import (
    METHODS,
    MIB,
    begun_then_wait,
    echo,
    fail,
    kept_busy,
    kill_self,
    lines,
    nothing,
    numbered,
    pid,
    pid_then_wait,
    square,
    wait_for,
)
from tests.support.leaks import is_running, wait_until

each_method = pytest.mark.parametrize("method", METHODS)


# -- as any executor -------------------------------------------------------------------------------


def test_a_collector_is_an_executor_and_a_job_is_a_future() -> None:
    with Collector(1) as collector:
        assert isinstance(collector, Executor)
        job = collector.submit(square, 3)
        assert isinstance(job, Future)
        assert type(job) is Job
        assert (job.result(), job.done(), job.running(), job.cancelled()) == (9, True, False, False)
        assert (job.id, job.args, job.kwargs, job.attempt) == (1, (3,), {}, 1)
        assert collector.submit(echo, value=3).kwargs == {"value": 3}


def test_a_job_has_all_that_a_future_and_its_condition_have_in_this_python() -> None:
    """It makes them itself, smaller: what a newer Python adds must be added there too."""
    with Collector(1) as collector:
        job = collector.submit(square, 3)
        future: Future[int] = Future()
        assert vars(future).keys() <= vars(job).keys()
        for name, value in vars(future._condition).items():
            if name == "_lock":
                continue  # it is one itself
            assert callable(value) == callable(getattr(job._condition, name)), name
        with job._condition:
            assert not job._condition.wait(0.01)
            with job._condition:
                assert not job._condition.wait_for(lambda: False, 0.01)
        with pytest.raises(RuntimeError, match="un-acquired"):
            job._condition.notify_all()


@each_method
def test_the_functions_of_concurrent_futures_take_jobs(method: str, tmp_path: Path) -> None:
    with Collector(2, method) as collector:
        jobs = [collector.submit(square, number) for number in range(20)]
        assert sorted(job.result() for job in as_completed(jobs)) == [n * n for n in range(20)]
        with kept_busy(collector, 1, tmp_path) as busy:
            bad = collector.submit(fail, ValueError("no"))
            done, not_done = wait([*busy, bad], return_when=FIRST_EXCEPTION)
            assert (done, not_done) == ({bad}, set(busy))
            quick = collector.submit(square, 2)
            done, not_done = wait([*busy, quick], return_when=FIRST_COMPLETED)
            assert (done, not_done) == ({quick}, set(busy))
            assert wait(busy, timeout=0.01).done == set()
            with pytest.raises(TimeoutError):
                busy[0].result(timeout=0.01)
        assert wait(busy).done == set(busy)


@each_method
def test_jobs_can_be_awaited(method: str) -> None:
    async def batch(collector: Collector) -> list[Any]:
        loop = asyncio.get_running_loop()
        job = collector.submit(square, 3)
        first = await asyncio.wrap_future(job)
        second = await loop.run_in_executor(collector, square, 4)
        rest = await asyncio.gather(
            *(asyncio.wrap_future(collector.submit(square, n)) for n in range(5))
        )
        with pytest.raises(KeyError):
            await asyncio.wrap_future(collector.submit(fail, KeyError("x")))
        return [first, second, *rest]

    with Collector(2, method) as collector:
        assert asyncio.run(batch(collector)) == [9, 16, 0, 1, 4, 9, 16]


def test_cancelling_what_is_awaited_cancels_the_job(tmp_path: Path) -> None:
    async def cancel_one(collector: Collector) -> Job[int]:
        job = collector.submit(square, 3)
        waiting = asyncio.wrap_future(job)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return job

    with Collector(1) as collector, kept_busy(collector, 1, tmp_path):
        job = asyncio.run(cancel_one(collector))
        assert job.cancelled()
        with pytest.raises(CancelledError):
            job.output()


@each_method
def test_shutdown_with_cancel_futures_cancels_what_has_not_started(
    method: str, tmp_path: Path
) -> None:
    collector = Collector(2, method)
    with kept_busy(collector, 2, tmp_path) as busy:
        waiting = [collector.submit(square, number) for number in range(50)]
        collector.shutdown(wait=False, cancel_futures=True)
        assert wait(waiting, timeout=60).not_done == set()
        assert all(job.cancelled() for job in waiting)
        assert not any(job.done() for job in busy)
    collector.shutdown()
    assert [job.exception() for job in busy] == [None, None]


@each_method
def test_without_cancel_futures_everything_submitted_is_done_first(method: str) -> None:
    collector = Collector(2, method)
    jobs = [collector.submit(square, number) for number in range(50)]
    collector.shutdown()
    assert all(job.done() for job in jobs)
    assert [job.result() for job in jobs] == [n * n for n in range(50)]
    collector.shutdown()


def test_a_collector_that_never_ran_a_job_starts_no_process_and_leaves_nothing() -> None:
    with Collector(4):
        pass
    Collector(4).shutdown()


def test_leaving_by_ctrl_c_or_exit_ends_running_jobs_and_cancels_the_others(
    tmp_path: Path,
) -> None:
    jobs: list[Job[Any]] = []

    def leave(how: BaseException) -> None:
        with Collector(1) as collector:
            begun = tmp_path / type(how).__name__
            jobs.append(collector.submit(pid_then_wait, os.fspath(begun), "/nowhere"))
            jobs.extend(collector.submit(square, n) for n in range(3))
            wait_for(begun)
            raise how

    for how in (KeyboardInterrupt(), SystemExit(3)):
        jobs.clear()
        with pytest.raises(type(how)):
            leave(how)
        assert isinstance(jobs[0].exception(), JobKilledError)
        assert all(job.cancelled() for job in jobs[1:])
        assert not is_running(int((tmp_path / type(how).__name__).read_text()))


def test_a_ctrl_c_while_a_collector_is_made_leaves_no_run_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        begin(thread)
        if thread.name == "collector-sweep":
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Collector(1)
    assert list_runs() == []


def test_leaving_by_an_exception_waits_for_the_jobs_as_the_standard_does() -> None:
    def leave() -> None:
        with Collector(1) as collector:
            jobs.extend(collector.submit(square, n) for n in range(5))
            raise LookupError

    jobs: list[Job[int]] = []
    with pytest.raises(LookupError):
        leave()
    assert [job.result(timeout=0) for job in jobs] == [0, 1, 4, 9, 16]


@each_method
def test_a_callback_may_submit_wait_fail_or_shut_down(method: str) -> None:
    collector = Collector(1, method)
    follow_up: list[Job[int]] = []
    seen = threading.Event()

    def submit_more(job: Future[int]) -> None:
        follow_up.append(collector.submit(square, job.result()))
        seen.set()

    job = collector.submit(square, 2)
    job.add_done_callback(lambda _job: 1 // 0)
    job.add_done_callback(submit_more)
    assert seen.wait(60)
    assert follow_up[0].result() == 16
    down = threading.Event()

    def shut_down(_job: Future[None]) -> None:
        collector.shutdown()
        down.set()

    collector.submit(nothing).add_done_callback(shut_down)
    assert down.wait(60)
    collector.shutdown()
    with pytest.raises(RuntimeError):
        collector.submit(nothing)


@each_method
def test_jobs_submitted_from_50_threads_all_arrive(method: str) -> None:
    with Collector(2, method) as collector, ThreadPoolExecutor(50) as threads:
        start = threading.Barrier(50)

        def submit_some(number: int) -> list[int]:
            start.wait()
            jobs = [collector.submit(square, 100 * number + step) for step in range(20)]
            assert all(job.output().size == 0 for job in jobs)
            return [job.result() for job in jobs]

        values = [value for some in threads.map(submit_some, range(50)) for value in some]
        assert collector.submit(square, 3).result() == 9
    assert values == [(100 * number + step) ** 2 for number in range(50) for step in range(20)]


@each_method
def test_a_job_can_be_cancelled_until_it_runs(method: str, tmp_path: Path) -> None:
    with Collector(1, method) as collector:
        with kept_busy(collector, 1, tmp_path) as busy:
            waiting = [collector.submit(square, number) for number in range(10)]
            assert all(job.cancel() for job in waiting[::2])
            assert all(job.cancel() for job in waiting[::2])  # again
            assert waiting[1].running() is False
            assert busy[0].cancel() is False
        assert [job.result() for job in waiting[1::2]] == [n * n for n in range(1, 10, 2)]
        assert waiting[1].cancel() is False


def test_a_cancelled_job_counts_as_done_for_wait_and_as_completed(tmp_path: Path) -> None:
    with Collector(1) as collector, kept_busy(collector, 1, tmp_path):
        early, late = collector.submit(square, 1), collector.submit(square, 2)
        early.cancel()
        assert wait([early], timeout=60).done == {early}
        waiting = as_completed([early, late], timeout=60)
        assert next(waiting) is early
        late.cancel()
        assert next(waiting) is late


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


# -- options ---------------------------------------------------------------------------------------


@each_method
def test_with_options_changes_the_settings_of_its_own_jobs_only(method: str) -> None:
    def who() -> tuple[str, int, int]:
        job = current_job()
        return job.name, job.id, job.attempt

    with Collector(1, method) as collector:
        named = collector.with_options(name="my job", memory_threshold=10)
        assert named.submit(who).result() == ("my job", 1, 1)
        assert named.submit(numbered, 10).output().mode is Mode.STREAMING
        assert collector.submit(numbered, 10).output().mode is Mode.MEMORY
        assert collector.submit(who).result() == ("who-4", 4, 1)
        both = named.with_options(retries=1)
        job = both.submit(fail, ValueError())
        assert isinstance(job.exception(), ValueError)
        assert (job.name, job.attempt) == ("my job", 2)
        # The pool is the same one: what ends it ends it for all.
        assert both.submit(pid).result() == collector.submit(pid).result()
        named.shutdown()
        with pytest.raises(RuntimeError):
            collector.submit(nothing)


@each_method
def test_a_job_that_runs_out_of_time_is_killed_and_keeps_what_it_wrote(
    method: str, tmp_path: Path
) -> None:
    def write_and_hang() -> Iterator[bytes]:
        yield b"x" * MIB
        wait_for("/nowhere")

    with Collector(1, method) as collector:
        collector.submit(nothing).result()
        job = collector.with_options(timeout=0.5).submit(write_and_hang)
        error = job.exception()
        assert isinstance(error, JobTimeoutError)
        assert isinstance(error, TimeoutError)
        assert "0.5 s" in str(error)
        assert job.output().read() == b"x" * MIB
        assert not job.output().complete
        assert collector.submit(square, 2).result() == 4


@each_method
def test_a_running_job_can_be_killed_with_its_subprocesses(method: str, tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    def start_a_program() -> None:
        current_job().write("kept")
        current_job().flush()
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        partial = begun.with_suffix(".part")
        partial.write_text(f"{os.getpid()} {child.pid}")
        partial.rename(begun)
        child.wait()

    with Collector(1, method, retries=3) as collector:
        job = collector.submit(start_a_program)
        wait_for(begun)
        pids = [int(number) for number in begun.read_text().split()]
        assert job.kill()
        error = job.exception()
        assert isinstance(error, JobKilledError)
        assert job.attempt == 1
        assert job.output().read() == b"kept"
        assert wait_until(lambda: not any(is_running(pid) for pid in pids))
        assert job.kill() is False
        assert collector.submit(square, 2).result() == 4


def test_killing_a_job_that_waits_cancels_it(tmp_path: Path) -> None:
    with Collector(1) as collector, kept_busy(collector, 1, tmp_path):
        job = collector.submit(square, 2)
        assert job.kill()
        assert job.cancelled()


def note_and_wait(number: int, path: str) -> None:
    """The first ends at once; the others say that they run and wait to be let go."""
    if number:
        with open(f"{path}/ran", "a", encoding="ascii") as file:
            file.write(f"{number} ")
        wait_for(f"{path}/go")


def set_pace(supervisor: Supervisor, job_s: float) -> None:
    """After many brisk jobs, of 0 s, workers get many ahead; after others none."""
    supervisor.note(lambda: setattr(supervisor._scheduler, "_pace", Pace(job_s)))


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job is fetched back because another one takes long."""
    monkeypatch.setattr(settings, "RECALL_AFTER_S", 1000.0)


@pytest.mark.usefixtures("_patient")
@pytest.mark.parametrize("how", ["collect", "map"])
@each_method
def test_leaving_a_loop_early_cancels_also_what_waits_at_a_worker(
    method: str, how: str, tmp_path: Path
) -> None:
    with Collector(1, method) as collector:
        supervisor = collector._core.pool._supervisor
        act = functools.partial(note_and_wait, path=os.fspath(tmp_path))
        loop: Any = (
            collector.collect(act, range(100), buffersize=100, ordered=True)
            if how == "collect"
            else collector.map(act, range(100))
        )
        next(loop)
        wait_for(tmp_path / "ran")
        set_pace(supervisor, 0.0)
        assert wait_until(lambda: len(supervisor._scheduler._dispatched) == 99)
        loop.close()
        assert wait_until(lambda: len(supervisor.jobs._work) == 1)
        (tmp_path / "go").touch()
    assert (tmp_path / "ran").read_text() == "1 "


@pytest.mark.usefixtures("_patient")
@each_method
def test_a_job_that_waits_at_a_worker_can_be_killed_and_one_that_comes_back_be_cancelled(
    method: str, tmp_path: Path
) -> None:
    with Collector(1, method) as collector:
        supervisor = collector._core.pool._supervisor
        path = os.fspath(tmp_path)
        first, *others = [collector.submit(note_and_wait, number, path) for number in (1, 2, 3)]
        wait_for(tmp_path / "ran")
        set_pace(supervisor, 0.0)
        assert wait_until(lambda: len(supervisor._scheduler._dispatched) == 3)
        set_pace(supervisor, 1.0)
        assert [job.running() for job in others] == [True, True]
        assert others[0].kill()
        assert wait_until(others[0].cancelled)
        assert wait_until(others[1].cancel)
        assert not first.cancel()
        (tmp_path / "go").touch()
        assert first.exception() is None
    assert (tmp_path / "ran").read_text() == "1 "


@each_method
def test_a_worker_is_replaced_after_so_many_jobs(method: str) -> None:
    with Collector(1, method, max_tasks_per_child=3) as collector:
        pids = [collector.submit(pid).result() for _ in range(7)]
    assert [pids.count(one) for one in dict.fromkeys(pids)] == [3, 3, 1]


@each_method
def test_replacing_workers_costs_the_others_nothing(method: str) -> None:
    with Collector(2, method, max_tasks_per_child=1) as collector:
        jobs = [collector.submit(square, number) for number in range(40)]
        assert [job.exception() for job in jobs] == [None] * 40


SETTING: dict[str, str] = {}


def set_up(value: str) -> None:
    SETTING["value"] = value


def setting() -> str | None:
    return SETTING.get("value")


@each_method
def test_an_initializer_runs_in_each_worker_before_its_first_job(method: str) -> None:
    with Collector(2, method, set_up, ("ready",)) as collector:
        assert set(collector.map(lambda _: setting(), range(20))) == {"ready"}
    assert setting() is None


@each_method
def test_the_progress_of_a_job_is_told_while_it_runs_and_exact_at_its_end(
    method: str, tmp_path: Path
) -> None:
    until = tmp_path / "until"

    def write_and_wait() -> Iterator[bytes]:
        yield b"x" * 6 * MIB
        wait_for(until)
        yield b"yz"

    with Collector(1, method) as collector:
        job = collector.submit(write_and_wait)
        assert wait_until(lambda: job.progress.bytes_written == 6 * MIB, 60)
        progress = job.progress
        assert (progress.mode, progress.chunks_processed) == (Mode.STREAMING, 1)
        assert progress.temp_file_path is not None
        assert progress.temp_file_path.stat().st_size == 6 * MIB
        until.touch()
        job.result()
        assert (job.progress.bytes_written, job.progress.chunks_processed) == (6 * MIB + 2, 2)
        job.output().close()


def test_a_small_chunk_is_seen_while_the_job_computes(tmp_path: Path) -> None:
    until = tmp_path / "until"

    def write_and_compute() -> Iterator[bytes]:
        yield b"x"
        while not until.exists():  # never writes, never waits for long
            pass

    with Collector(1) as collector:
        job = collector.submit(write_and_compute)
        assert wait_until(lambda: job.progress.bytes_written == 1, 60)
        until.touch()


def scratch_then_wait(begun: str, until: str) -> str:
    scratch = current_job().scratch_dir
    (scratch / "file").write_text("mine")
    begun_then_wait(begun, until)
    return os.fspath(scratch)


@each_method
def test_a_scratch_directory_goes_with_its_job(method: str, tmp_path: Path) -> None:
    begun, until = os.fspath(tmp_path / "begun"), os.fspath(tmp_path / "until")
    with Collector(2, method) as collector:
        jobs = [collector.submit(scratch_then_wait, f"{begun}{n}", until) for n in range(2)]
        for number in range(2):
            wait_for(f"{begun}{number}")
        root = Path(os.environ["COLLECTOR_TMPDIR"])
        assert len(list(root.glob("run-*/scratch-*/file"))) == 2
        Path(until).touch()
        assert not any(os.path.exists(job.result()) for job in jobs)
        killed = collector.submit(scratch_then_wait, f"{begun}3", "/nowhere")
        wait_for(f"{begun}3")
        killed.kill()
        killed.exception()
        assert wait_until(lambda: not list(root.glob("run-*/scratch-*")))


def dig(depth: int) -> int:
    """Leave a deep tree, closed to its owner, in the scratch directory."""
    fd = os.open(current_job().scratch_dir, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("deeper", dir_fd=fd)
        below = os.open("deeper", os.O_RDONLY, dir_fd=fd)
        os.chmod(fd, 0o500)
        os.close(fd)
        fd = below
    os.close(fd)
    return depth


@each_method
def test_a_scratch_directory_goes_however_deep_it_is_and_costs_no_job(method: str) -> None:
    with Collector(1, method) as collector:
        assert collector.submit(dig, 1500).result() == 1500
        assert not list(Path(os.environ["COLLECTOR_TMPDIR"]).glob("run-*/*-*"))
        assert collector.submit(square, 3).result() == 9


# -- jobs that wait at a worker --------------------------------------------------------------------


def test_after_brisk_jobs_long_ones_run_at_all_workers(tmp_path: Path) -> None:
    until = tmp_path / "until"
    with Collector(max_workers=2) as collector:
        for number in range(200):  # one worker is enough for these
            collector.submit(square, number).result()
        for number in range(12):
            begun = os.fspath(tmp_path / f"begun-{number}")
            collector.submit(begun_then_wait, begun, os.fspath(until))
        try:
            assert wait_until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
        finally:
            until.touch()


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_that_wait_at_a_worker_are_cancelled_by_shutdown(workers: int, tmp_path: Path) -> None:
    begun, until = tmp_path / "begun", tmp_path / "until"
    with Collector(workers) as collector:
        list(collector.map(square, range(2000)))  # from now on some are sent ahead
        told = (os.fspath(begun), os.fspath(until))
        jobs = [collector.submit(begun_then_wait, *told) for _ in range(100)]
        wait_for(begun)
        collector.shutdown(wait=False, cancel_futures=True)
        try:
            assert wait_until(lambda: sum(job.cancelled() for job in jobs) >= 100 - workers)
        finally:
            until.touch()


def test_a_name_may_be_a_member_of_an_enumeration() -> None:
    names = enum.StrEnum("names", ["FIRST"])
    with Collector(max_workers=1) as collector:
        assert collector.with_options(name=names.FIRST).submit(square, 3).result() == 9


def test_a_program_whose_locks_are_written_in_python_can_use_a_collector() -> None:
    """As after gevent's patches: such a lock needs its `__init__`."""
    code = """
import threading
threading._CRLock = None
from collector import Collector
with Collector(1) as collector:
    print(collector.submit(abs, -3).result())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
