"""The parent and the sink stay flat, however much is collected and whether anybody reads it."""

import contextlib
import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector import BatchHaltedError, Collector, Job, JobError, Mode
from tests.support.inside import sink_pid
from tests.support.jobs import (
    MIB,
    fail,
    kept_busy,
    numbered,
    return_that,
    sha256,
    single_bytes,
    square,
)
from tests.support.leaks import wait_until
from tests.support.tiers import each_method, each_method_but

pytestmark = pytest.mark.usefixtures("one_server")

FILES, FILE_BYTES = 60, 20 * MIB
THRESHOLD = 5 * MIB
SLOTS = MIB
"""Of one queue; the pages that the sink has touched are its own as well as the worker's."""


def proportional_bytes(pid: int) -> int:
    """Memory of a process now, with its share of what it shares (PSS)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.partition("\nPss:")[2].split()[0]) * 1024


def resident_bytes(pid: int) -> int:
    """Memory of a process now, all of it (RSS): no other process that lets go of a share adds."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("\nVmRSS:")[2].split()[0]) * 1024


def peak_bytes(pid: int) -> int:
    """The most memory that a process had at once since `forget_peak` (RSS)."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("\nVmHWM:")[2].split()[0]) * 1024


def forget_peak(pid: int) -> int:
    """Begin to look for the peak anew; return what the process has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_bytes(pid)


def sink_of(collector: Collector) -> int:
    """Process id of the sink, which is there."""
    sink = sink_pid(collector)
    assert sink is not None
    return sink


@each_method_but("spawn")
def test_60_outputs_of_20_mb_that_nobody_reads_stay_out_of_memory(
    method: str, tmp_path: Path
) -> None:
    with Collector(2, method) as collector:
        for warm_up in [collector.submit(numbered, 1) for _ in range(4)]:
            warm_up.output().close()
        sink, parent = sink_of(collector), os.getpid()
        gc.collect()
        idle = {pid: resident_bytes(pid) for pid in (sink, parent)}
        start = {pid: forget_peak(pid) for pid in (sink, parent)}

        jobs = [collector.submit(numbered, FILE_BYTES) for _ in range(FILES)]
        for job in jobs:
            assert job.exception() is None

        # Two outputs below the threshold at a time, and the sink's side of two queues.
        peak = {pid: peak_bytes(pid) - start[pid] for pid in (sink, parent)}
        assert peak[sink] < 2 * (THRESHOLD + SLOTS) + 4 * MIB
        assert peak[parent] < 4 * MIB
        growth = {pid: resident_bytes(pid) - idle[pid] for pid in (sink, parent)}
        assert growth[sink] < 2 * SLOTS + 4 * MIB
        assert growth[parent] < 4 * MIB

        expected = sha256(numbered(FILE_BYTES))
        for number, job in enumerate(jobs):
            output = job.output()
            assert output.mode is Mode.STREAMING
            assert output.path is not None
            before = output.path.stat()
            saved = output.save(tmp_path / f"{number}.bin")
            after = saved.stat()
            assert (after.st_ino, after.st_size) == (before.st_ino, FILE_BYTES)
            assert sha256(iter(output)) == expected
        assert peak_bytes(parent) - start[parent] < 8 * MIB
    assert len(list(tmp_path.iterdir())) == FILES


@pytest.mark.slow
def test_an_output_of_one_byte_chunks_costs_the_sink_no_more_than_its_threshold() -> None:
    with Collector(1) as collector:
        collector.submit(numbered, THRESHOLD - 1).output().close()
        sink = sink_of(collector)
        start = forget_peak(sink)
        collector.submit(single_bytes, 8_000_000).output().close()
        assert peak_bytes(sink) - start < THRESHOLD + 4 * MIB


@pytest.mark.slow
def test_finished_outputs_that_are_held_stay_within_the_budget() -> None:
    budget = 32 * MIB
    with Collector(2, memory_budget=budget) as collector:
        collector.submit(numbered, THRESHOLD - 1).output().close()
        sink, parent = sink_of(collector), os.getpid()
        start = {pid: forget_peak(pid) for pid in (sink, parent)}
        jobs = [collector.submit(numbered, 4 * MIB) for _ in range(100)]
        outputs = [job.output() for job in jobs]
        held = sum(output.size for output in outputs if output.mode is Mode.MEMORY)
        assert 0 < held <= budget
        # Each output is for a moment in the sink's channel or in the parent's buffer too.
        assert peak_bytes(parent) - start[parent] < budget + 24 * MIB
        assert peak_bytes(sink) - start[sink] < budget + 24 * MIB
        expected = sha256(numbered(4 * MIB))
        assert {sha256(iter(output)) for output in outputs} == {expected}
        for output in outputs:
            output.close()
        # What was given back can be used again.
        again = [collector.submit(numbered, 4 * MIB).output() for _ in range(4)]
        assert {output.mode for output in again} == {Mode.MEMORY}


# -- nothing is kept alive -------------------------------------------------------------------------


class Tracked:
    """Something that can be referred to weakly."""

    def __init__(self, ballast: int = 0) -> None:
        self.ballast = bytes(ballast)


def returns_tracked(given: Tracked) -> Tracked:
    return given


def is_gone(reference: Callable[[], object]) -> bool:
    """Whether nothing holds it; without a collection, but threads may need a moment to let go."""
    return wait_until(lambda: reference() is None)


@each_method
def test_arguments_and_results_live_no_longer_than_their_job_is_held(method: str) -> None:
    gc.disable()
    try:
        with Collector(1, method) as collector:
            given = Tracked()
            job = collector.submit(returns_tracked, given)
            result = job.result()
            argument, value, held = weakref.ref(given), weakref.ref(result), weakref.ref(job)
            del given, result
            assert argument() is job.args[0]
            assert value() is job.result()
            del job
            assert is_gone(held)
            assert is_gone(argument)
            assert is_gone(value)
            assert collector.submit(square, 2).result() == 4
    finally:
        gc.enable()


@each_method
def test_a_failed_or_cancelled_job_keeps_nothing_alive(method: str) -> None:
    def after(end: Callable[[Collector, Tracked], None]) -> weakref.ref[Tracked]:
        given = Tracked()
        end(collector, given)
        return weakref.ref(given)

    def fails(collector: Collector, given: Tracked) -> None:
        assert type(collector.submit(lambda _: 1 // 0, given).exception()) is ZeroDivisionError

    def dies(collector: Collector, given: Tracked) -> None:
        collector.submit(lambda _: os._exit(3), given).exception()

    def is_cancelled(collector: Collector, given: Tracked) -> None:
        blocker = collector.submit(sum, (1, 2))
        job = collector.submit(returns_tracked, given)
        job.cancel()
        blocker.result()

    with Collector(1, method) as collector:
        for end in (fails, dies, is_cancelled):
            reference = after(end)
            wait_until(lambda: gc.collect() == 0)
            assert is_gone(reference), end.__name__


@each_method
def test_a_job_that_is_cancelled_behind_a_running_one_keeps_nothing_alive(
    method: str, tmp_path: Path
) -> None:
    with Collector(1, method) as collector, kept_busy(collector, 1, tmp_path):
        jobs = [collector.submit(len, bytes(MIB)) for _ in range(3)]
        gone = [weakref.ref(job) for job in jobs]
        assert [jobs[0].cancel(), jobs[1].cancel(), jobs[2].kill()] == [True] * 3
        del jobs
        assert wait_until(lambda: gc.collect() >= 0 and not any(ref() for ref in gone))


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("options", [{"halt": "soon,done=9"}, {"budget": {"usd": 9}}])
def test_collect_that_may_stop_holds_nothing_that_it_has_handed_over(
    options: dict[str, Any], *, ordered: bool
) -> None:
    """Where several were over at once it held them all until the last of them was handed over."""
    with Collector(2) as collector:
        inputs = (Tracked() for _ in range(20))
        how: dict[str, Any] = {"ordered": ordered, "buffersize": 20, **options}
        jobs = collector.collect(returns_tracked, inputs, **how)
        assert next(jobs).exception() is None
        assert wait_until(lambda: collector.statistics().done == 20)
        left = 19
        with contextlib.suppress(BatchHaltedError):
            for job in jobs:
                held = weakref.ref(job)
                argument = weakref.ref(job.args[0])
                del job
                assert is_gone(held)
                assert is_gone(argument)
                left -= 1
        assert left == 0


def test_map_and_collect_hold_nothing_that_they_have_handed_over() -> None:
    with Collector(2) as collector:
        for value in collector.map(returns_tracked, [Tracked() for _ in range(5)]):
            reference = weakref.ref(value)
            del value
            assert is_gone(reference)
        for ordered in (False, True):
            for job in collector.collect(
                returns_tracked, (Tracked() for _ in range(10)), ordered=ordered
            ):
                held = weakref.ref(job)
                argument = weakref.ref(job.args[0])
                del job
                assert is_gone(held)
                assert is_gone(argument)


class Begins(Tracked):
    """An initializer that can be referred to weakly."""

    def __call__(self, given: Tracked) -> None:
        if self.ballast:
            raise ValueError("this one fails")


class Watches:
    """A listener that can be referred to weakly."""

    def update(self, event: object) -> None:
        pass

    def close(self) -> None:
        pass


def given_and_ended(begins: Begins, method: str, end: str) -> list[weakref.ref[Any]]:
    """End a Collector in one of three ways; returns what it was given, which nobody else holds."""
    given, watches = Tracked(), Watches()
    collector = Collector(1, method, begins, (given,), progress=watches)
    if end != "unused":
        collector.submit(abs, 1).exception()
    if end != "dropped":
        collector.shutdown()
    return [weakref.ref(thing) for thing in (begins, given, watches)]


@each_method
@pytest.mark.parametrize("fails", [False, True], ids=["it begins", "its initializer fails"])
@pytest.mark.parametrize("end", ["shut down", "dropped", "unused"])
def test_what_a_collector_was_given_is_let_go_of_at_its_end(
    method: str, end: str, *, fails: bool
) -> None:
    """A lock among it is gone with its last reference: a collection may come too late for that."""
    gc.disable()
    try:
        for reference in given_and_ended(Begins(fails), method, end):
            assert is_gone(reference)
    finally:
        gc.enable()


class Witness:
    """Tells through a file when its copy in the worker is gone."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __del__(self) -> None:
        if os.path.exists(f"{self.path}.armed"):
            Path(self.path).touch()


def arm(witness: Witness) -> Witness:
    Path(f"{witness.path}.armed").touch()
    return witness


@each_method
def test_an_idle_worker_keeps_neither_arguments_nor_results(method: str, tmp_path: Path) -> None:
    with Collector(1, method) as collector:
        here = Witness(os.fspath(tmp_path / "gone"))
        job = collector.submit(arm, here)
        job.exception()
        # The one here and the one that came back still live: only the worker's can have spoken.
        assert wait_until((tmp_path / "gone").exists)
        (tmp_path / "gone.armed").unlink()
        assert job.result() is not here


@each_method_but("fork")
def test_queued_jobs_cost_2_kib_each(method: str, tmp_path: Path) -> None:
    count = 20_000
    with Collector(1, method) as collector, kept_busy(collector, 1, tmp_path):
        for number in range(100):
            collector.submit(square, number)
        gc.collect()
        before = proportional_bytes(os.getpid())
        jobs = [collector.submit(square, number) for number in range(count)]
        gc.collect()
        each = (proportional_bytes(os.getpid()) - before) / count
        cancelled = [job for job in jobs if job.args[0] % 50 and job.cancel()]
        assert each < 2048
    assert len(cancelled) == count - count // 50
    assert all(job.cancelled() for job in cancelled)
    assert [job.result() for job in jobs[::50]] == [number**2 for number in range(0, count, 50)]


@pytest.mark.parametrize(
    ("submit", "kind"),
    [
        (lambda collector: collector.submit(fail, ValueError("no")), ValueError),
        (lambda collector: collector.submit(return_that, at_unpickle=("raise",)), JobError),
    ],
    ids=["raised", "a value that explodes"],
)
def test_the_exception_of_a_job_does_not_hold_the_job(
    submit: Callable[[Collector], Job[Any]], kind: type[BaseException]
) -> None:
    with Collector(1) as collector:
        job = submit(collector)
        error, held = job.exception(), weakref.ref(job)
        del job
        wait_until(lambda: gc.collect() == 0)
        assert is_gone(held)
        assert type(error) is kind
