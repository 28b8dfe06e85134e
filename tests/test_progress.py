"""What the user's code is told of the progress of jobs, and that it can do them no harm."""

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from collector import Collector, Job, Mode, Progress, ProgressEvent, settings
from collector.progress.event import Happening
from collector.progress.report import Call, Reporter
from tests.support.batches import wait_for
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")

MIB = 1024 * 1024
PATIENCE_S = 60.0


def write(*sizes: int) -> Iterator[bytes]:
    """Write chunks of these sizes."""
    for size in sizes:
        yield b"x" * size


def write_slowly(seconds: float) -> Iterator[bytes]:
    """Write small chunks for so long."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        yield b"x" * 100
        time.sleep(0.001)


def write_and_wait(directory: Path) -> Iterator[bytes]:
    """Write a spilled output, then wait to be let go."""
    yield b"x" * MIB
    wait_for(directory / "go")


def fail(_: int = 0) -> None:
    """Fail."""
    raise ValueError("wanted")


def fail_once(directory: Path) -> Iterator[bytes]:
    """Fail at the first attempt only."""
    yield b"xx"
    try:
        (directory / "tried").touch(exist_ok=False)
    except FileExistsError:
        return
    raise ValueError("at first")


class Told:
    """An `on_progress` that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, Progress, bool]] = []

    def __call__(self, job: Job[Any], progress: Progress) -> None:
        self.calls.append((job.id, progress, job.done()))


class Sink:
    """A `progress=` that remembers."""

    def __init__(self) -> None:
        self.events: list[ProgressEvent] = []
        self.closed = 0

    def update(self, event: ProgressEvent) -> None:
        assert not self.closed
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1

    def happenings(self, job_id: int | None) -> list[str]:
        return [str(event.happened) for event in self.events if event.job_id == job_id]


# -- on_progress -----------------------------------------------------------------------------------


def test_on_progress_hears_how_a_job_comes_along_and_of_its_exact_end() -> None:
    told = Told()
    with Collector(max_workers=1, on_progress=told) as collector:
        job = collector.submit(write_slowly, 0.5)
    sizes = [progress.bytes_written for _, progress, _ in told.calls]
    assert sizes == sorted(sizes)
    assert len(sizes) > 1
    *during, end = told.calls
    assert end == (job.id, job.progress, True)
    assert job.progress.bytes_written == job.output().size
    assert all(progress.mode is Mode.MEMORY for _, progress, _ in during)


def test_on_progress_hears_once_of_each_job_that_ends_at_once() -> None:
    told = Told()
    with Collector(max_workers=2, on_progress=told) as collector:
        jobs = [collector.submit(write, number) for number in range(200)]
    ends = [(job_id, progress.bytes_written) for job_id, progress, done in told.calls if done]
    assert sorted(ends) == [(job.id, job.id - 1) for job in jobs]


def test_on_progress_hears_of_jobs_that_fail_and_that_are_cancelled(tmp_path: Path) -> None:
    told = Told()
    with Collector(max_workers=1, on_progress=told) as collector:
        running = collector.submit(write_and_wait, tmp_path)
        failing = collector.submit(fail)
        others = [collector.submit(write, 1) for _ in range(50)]
        cancelled = [job for job in others if job.cancel()]
        (tmp_path / "go").touch()
    assert cancelled
    for job in (running, failing, *others):
        assert [done for job_id, _, done in told.calls if job_id == job.id][-1]


def test_each_job_has_the_on_progress_of_its_options() -> None:
    one, other = Told(), Told()
    with Collector(max_workers=1, on_progress=one) as collector:
        first = collector.submit(write, 1)
        second = collector.with_options(on_progress=other).submit(write, 2)
    assert {job_id for job_id, _, _ in one.calls} == {first.id}
    assert {job_id for job_id, _, _ in other.calls} == {second.id}


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
@each_method
def test_an_on_progress_that_raises_is_logged_once_and_hurts_no_job(
    method: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def raises(job: Job[Any], _: Progress) -> None:
        calls.append(job.id)
        raise error("on purpose")

    with Collector(2, method, on_progress=raises) as collector:
        jobs = [collector.submit(write, number) for number in range(10)]
        assert [job.output().size for job in jobs] == list(range(10))
    assert len(calls) >= 10
    (record,) = [record for record in caplog.records if record.name == "collector"]
    assert "progress callback failed" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is error


@each_method
def test_an_on_progress_that_never_returns_holds_up_neither_jobs_nor_the_shutdown(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settings, "REPORT_PATIENCE_S", 0.2)
    never, called = threading.Event(), threading.Event()

    def blocks(_job: Job[Any], _progress: Progress) -> None:
        called.set()
        never.wait()

    try:
        with Collector(2, method, on_progress=blocks) as collector:
            jobs = [collector.submit(write, MIB) for _ in range(20)]
            assert [job.output(PATIENCE_S).size for job in jobs] == [MIB] * 20
            assert called.wait(PATIENCE_S)
            assert collector.submit(write, 7).output(PATIENCE_S).size == 7
        (record,) = [record for record in caplog.records if record.name == "collector"]
        assert "has not returned" in record.getMessage()
    finally:
        never.set()


@each_method
def test_an_on_progress_may_use_the_collector(method: str) -> None:
    results: list[object] = []

    def calls_back(job: Job[Any], _: Progress) -> None:
        if job.done() and job.id < 5:
            further = collector.submit(write, job.id)
            results.append(further.output(PATIENCE_S).size)
            collector.shutdown(wait=job.id == 4)

    with Collector(1, method, on_progress=calls_back) as collector:
        wait([collector.submit(write, 1)])
        assert waits_for(lambda: results)
    assert results[0] == 1


def waits_for(condition: Callable[[], object]) -> bool:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_neither_a_job_nor_its_arguments_are_held_once_it_was_told() -> None:
    told: list[int] = []
    progress = Sink()
    with Collector(
        max_workers=1, progress=progress, on_progress=lambda job, _: told.append(job.id)
    ) as collector:
        job = collector.submit(write, 10)
        job.result()
        assert waits_for(lambda: told and progress.happenings(1)[-1:] == ["ended"])
        gone = weakref.ref(job)
        del job
        assert waits_for(lambda: gone() is None)


def test_progress_is_known_after_the_output_was_closed() -> None:
    with Collector(max_workers=1, memory_threshold=10) as collector:
        job = collector.submit(write, 100)
        job.output().close()
        assert job.progress.bytes_written == 100
        assert job.progress.mode is Mode.STREAMING


# -- progress=object -------------------------------------------------------------------------------


def test_a_progress_object_is_told_of_everything_in_order(tmp_path: Path) -> None:
    sink = Sink()
    with Collector(max_workers=2, progress=sink, memory_threshold=1000) as collector:
        (tmp_path / "go").touch()
        jobs = list(collector.collect(write_and_wait, [tmp_path] * 3, desc="three"))
        assert sink.closed == 0
    assert sink.closed == 1
    first, *rest, last = sink.events
    assert (first.happened, last.happened) == (Happening.OPENED, Happening.CLOSED)
    assert {event.desc for event in sink.events} == {"three"}
    assert len({event.batch for event in sink.events}) == 1
    for job in jobs:
        told = sink.happenings(job.id)
        assert told[-1] == "ended"
        assert told.count("ended") == 1
    ends = [event for event in rest if event.happened is Happening.ENDED]
    assert [event.jobs_done for event in ends] == [1, 2, 3]
    assert {event.bytes_written for event in ends} == {MIB}
    assert {event.mode for event in ends} == {Mode.STREAMING}
    assert {event.jobs_total for event in sink.events} == {3}
    assert (last.bytes_total, last.spilled, last.jobs_failed) == (3 * MIB, 3, 0)


def test_a_job_that_runs_is_told_of_before_it_has_written(tmp_path: Path) -> None:
    sink = Sink()
    with Collector(max_workers=1, progress=sink) as collector:
        job = collector.submit(write_and_wait, tmp_path)
        assert waits_for(lambda: sink.events and sink.events[-1].bytes_written == MIB)
        assert sink.events[-1].bytes_total == MIB
        first, *others = sink.happenings(job.id)
        assert (first, set(others)) == ("started", {"progressed"})
        (tmp_path / "go").touch()
    assert sink.happenings(job.id)[-1] == "ended"


def test_failed_cancelled_and_repeated_jobs_are_counted_as_what_they_are(tmp_path: Path) -> None:
    sink = Sink()
    with Collector(max_workers=1, progress=sink, retries=1) as collector:
        repeated = collector.submit(fail_once, tmp_path)
        failing = collector.submit(fail)
        waiting = [collector.submit(write_and_wait, tmp_path) for _ in range(40)]
        cancelled = [job for job in waiting if job.cancel()]
        assert cancelled
        (tmp_path / "go").touch()
    ends = {event.job_id: event for event in sink.events if event.happened is Happening.ENDED}
    assert ends[repeated.id].attempt == 2
    assert ends[repeated.id].bytes_written == 2
    assert not ends[repeated.id].failed
    assert ends[failing.id].failed
    assert not any(ends[job.id].failed for job in waiting)
    last = sink.events[-1]
    assert last.happened is Happening.CLOSED
    assert last.jobs_failed == 1
    assert last.jobs_done == last.jobs_total == 42 - len(cancelled)
    assert last.bytes_total == 2 + (40 - len(cancelled)) * MIB


def test_a_loop_that_is_left_early_closes_its_batch_when_the_last_job_is_over() -> None:
    sink = Sink()
    with Collector(max_workers=2, progress=sink) as collector:
        for _job in collector.collect(write, iter(range(1000))):
            break
    assert sink.events[-1].happened is Happening.CLOSED
    assert sink.events[-1].jobs_total is None
    assert sink.events[-1].jobs_done >= 1


@each_method
def test_a_progress_object_that_raises_or_blocks_hurts_no_job(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settings, "REPORT_PATIENCE_S", 0.2)
    never = threading.Event()

    class Bad:
        def update(self, event: ProgressEvent) -> None:
            if event.job_id is None:
                raise ValueError("on purpose")
            never.wait()

        def close(self) -> None:
            """Never comes to this."""

    try:
        with Collector(2, method, progress=Bad()) as collector:
            assert [j.output().size for j in collector.collect(write, [5] * 50)] == [5] * 50
        texts = [record.getMessage() for record in caplog.records]
        assert [text for text in texts if "callback failed" in text]
        assert [text for text in texts if "has not returned" in text]
    finally:
        never.set()


@pytest.mark.parametrize("progress", ["yes", object(), 1.5, []])
def test_what_is_no_progress_is_refused(progress: Any) -> None:
    with pytest.raises(TypeError, match="progress must be"):
        Collector(progress=progress)


def test_the_object_is_closed_also_if_nothing_was_submitted() -> None:
    sink = Sink()
    with Collector(max_workers=1, progress=sink):
        pass
    assert sink.closed == 1
    assert sink.events == []


# -- the reporter ----------------------------------------------------------------------------------


def test_calls_of_one_key_are_made_ten_times_a_second_at_most_and_the_latest_wins() -> None:
    reporter, made = Reporter(), list[int]()
    begun_s = time.monotonic()
    for number in range(5000):
        reporter.latest(Call(made, 1, lambda number=number: made.append(number)))  # type: ignore[misc]
    assert waits_for(lambda: made[-1:] == [4999])
    took_s = time.monotonic() - begun_s
    reporter.finish()
    reporter.wait()
    assert len(made) <= took_s / settings.PROGRESS_INTERVAL_S + 1
    assert made == sorted(made)


def test_an_end_replaces_what_was_to_be_said_before_it() -> None:
    reporter, made, go = Reporter(), list[str](), threading.Event()
    reporter.must(Call(made, 0, go.wait))
    for number in range(10):
        reporter.latest(Call(made, number, lambda: made.append("late")))
        reporter.must(Call(made, number, lambda: made.append("end")), last=True)
    go.set()
    reporter.finish()
    reporter.wait()
    assert made == ["end"] * 10


def test_a_start_is_told_before_what_came_after_it_though_a_look_was_asked_for_earlier() -> None:
    reporter, made, go = Reporter(), list[str](), threading.Event()
    reporter.must(Call(made, 0, go.wait))
    reporter.latest(Call(made, 1, lambda: made.append("progress of 1")))  # asks for a look
    for number in (2, 3):
        reporter.must(Call(made, number, lambda number=number: made.append(f"start of {number}")))  # type: ignore[misc]
        reporter.latest(Call(made, number, lambda number=number: made.append(f"more of {number}")))  # type: ignore[misc]
    go.set()
    reporter.finish()
    reporter.wait()
    assert made == ["start of 2", "start of 3", "progress of 1", "more of 2", "more of 3"]


def test_what_is_kept_for_a_callback_that_does_not_return_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settings, "REPORT_PATIENCE_S", 0.0)
    monkeypatch.setattr(settings, "REPORT_BACKLOG", 10)
    reporter, made, begun, go = Reporter(), list[int](), threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        go.wait()

    reporter.must(Call(made, 0, block))
    assert begun.wait(PATIENCE_S)
    for number in range(1000):
        reporter.must(Call(made, number, lambda: made.append(1)), last=True)
    reporter.finish()
    reporter.wait()
    go.set()
    assert "1000 more calls are not made" in caplog.text
    assert made == []


def test_calls_after_the_end_and_in_a_forked_child_are_not_made() -> None:
    reporter, made = Reporter(), list[int]()
    child = os.fork()
    if not child:
        reporter.must(Call(made, 1, lambda: made.append(1)))
        reporter.finish()
        reporter.wait()
        os._exit(len(made) + threading.active_count() - 1)
    assert os.waitpid(child, 0)[1] == 0
    reporter.finish()
    reporter.wait()
    reporter.must(Call(made, 1, lambda: made.append(1)))
    reporter.latest(Call(made, 1, lambda: made.append(1)))
    assert made == []


def test_a_thread_that_cannot_be_had_costs_news_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        refused.append(1)
        raise RuntimeError("can't start new thread")

    refused: list[int] = []
    reporter, made = Reporter(), list[int]()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        reporter.must(Call(made, 1, lambda: made.append(1)))
    assert refused == [1]
    reporter.must(Call(made, 2, lambda: made.append(2)))
    reporter.finish()
    reporter.wait()
    assert made == [2]


def test_a_shutdown_in_a_callback_of_a_job_does_not_wait_for_itself() -> None:
    told = Told()
    collector = Collector(max_workers=1, on_progress=told)
    over = threading.Event()

    def shut(_: object) -> None:
        collector.shutdown()
        over.set()

    collector.submit(write, 1).add_done_callback(shut)
    assert over.wait(PATIENCE_S)
    assert waits_for(lambda: told.calls and told.calls[-1][2])
