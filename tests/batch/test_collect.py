"""`collect(batch=)`: what has a result does not run, and everything is kept."""

import inspect
import os
import stat
import sys
import tokenize
from concurrent.futures import as_completed, wait
from pathlib import Path
from typing import Any

import pytest

from collector import Batch, BatchError, Collector, Job, JobError
from tests.support.batchjobs import (
    LARGE,
    BoomError,
    crash,
    double,
    fails_first,
    fails_if_bad,
    ignore,
    many_bytes,
    noted,
    pausing,
    talks,
    unpicklable,
    who_ran,
)
from tests.support.inside import sink_pid
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")


def run(
    method: str, fn: Any, inputs: Any, path: Path, **options: Any
) -> list[tuple[Any, bool, Any]]:
    """Collect, and tell of each job its input, whether it was resumed, and how it ended."""
    capture = options.pop("capture", False)
    retries = options.pop("retries", 0)
    found = []
    with Collector(2, method, progress=False, capture=capture, retries=retries) as collector:
        for job in collector.collect(fn, inputs, batch=path, **options):
            error = job.exception()
            found.append((job.args[0], job.resumed, error or job.output().read()))
    return found


@each_method
def test_what_is_done_is_yielded_and_not_run(tmp_path: Path, method: str) -> None:
    with noted(tmp_path) as note:
        inputs = [(note, text) for text in "abc"]
        first = run(method, who_ran, inputs, tmp_path / "b")
        assert sorted(first) == [((note, t), False, t.encode()) for t in "abc"]
        again = run(method, who_ran, [*inputs, (note, "d")], tmp_path / "b")
        assert sorted(again) == [
            *(((note, t), True, t.encode()) for t in "abc"),
            ((note, "d"), False, b"d"),
        ]
        assert sorted(Path(note).read_text().split()) == ["a", "b", "c", "d"]


def test_a_resumed_job_is_a_job_like_any_other(tmp_path: Path) -> None:
    run("forkserver", talks, ["x"], tmp_path / "b", capture=True)
    with Collector(1, progress=False) as collector:
        jobs = list(collector.collect(talks, ["x"], batch=tmp_path / "b"))
        (job,) = jobs
        assert isinstance(job, Job)
        assert job.resumed
        assert (job.done(), job.running(), job.cancelled()) == (True, False, False)
        assert (job.cancel(), job.kill()) == (False, False)
        assert (job.result(), job.exception(), job.attempt) == ("said x", None, 1)
        assert (job.output().read(), job.log().text()) == (b"written x", "printed x\n")
        assert b"".join(job.follow()) == b"written x"
        assert (job.name, job.args, job.kwargs) == ("talks-1", ("x",), {})
        assert job.progress.bytes_written == 9
        assert wait(jobs).done == {job}
        assert list(as_completed(jobs)) == jobs
        told: list[Any] = []
        job.add_done_callback(told.append)
        assert told == [job]
        with pytest.raises(TypeError, match="cannot be pickled"):
            job.__reduce__()
    assert job.output().read() == b"written x"


def test_a_resumed_job_is_shown_as_any_other_once_it_was_read(tmp_path: Path) -> None:
    shown = []
    for resumed in (False, True):
        with Collector(1, progress=False) as collector:
            options: dict[str, Any] = {"batch": tmp_path / "b", "resume": "new", "ordered": True}
            jobs = list(collector.collect(fails_if_bad, ["good", "bad"], **options))
            assert [job.resumed for job in jobs] == [resumed] * 2
            if resumed:
                known = [repr(job).partition(" state=")[2] for job in jobs]
                assert known == ["finished (not read yet)>"] * 2
            assert jobs[0].result() is None
            assert jobs[1].exception() is not None
            shown.append([repr(job).partition(" state=")[2] for job in jobs])
    assert shown[0] == shown[1] == ["finished returned NoneType>", "finished raised BoomError>"]


def test_a_batch_that_is_done_starts_no_process(tmp_path: Path) -> None:
    run("forkserver", double, range(5), tmp_path / "b")
    with Collector(2, progress=False) as collector:
        found = list(collector.collect(double, range(5), batch=tmp_path / "b"))
        assert sink_pid(collector) is None
    assert [job.result() for job in found] == [0, 2, 4, 6, 8]


def test_in_order_means_the_order_of_the_inputs(tmp_path: Path) -> None:
    run("forkserver", double, [1, 3], tmp_path / "b")
    with Collector(2, progress=False) as collector:
        jobs = collector.collect(double, [4, 3, 2, 1, 0], batch=tmp_path / "b", ordered=True)
        assert [(job.args[0], job.resumed) for job in jobs] == [
            (4, False),
            (3, True),
            (2, False),
            (1, True),
            (0, False),
        ]


def test_failures_run_again_unless_only_new_ones_shall(tmp_path: Path) -> None:
    first = run("forkserver", fails_if_bad, ["good", "bad"], tmp_path / "b")
    assert [isinstance(error, BoomError) for _, _, error in sorted(first, key=str)] == [True, False]
    (bad,) = (
        job
        for job in run("forkserver", fails_if_bad, ["good", "bad"], tmp_path / "b", resume="new")
        if job[0] == "bad"
    )
    assert bad[1]
    assert isinstance(bad[2], BoomError)
    assert str(bad[2]) == "bad is bad"
    again = run("forkserver", fails_if_bad, ["good", "bad"], tmp_path / "b")
    assert {(item, resumed) for item, resumed, _ in again} == {("good", True), ("bad", False)}
    everything = run("forkserver", fails_if_bad, ["good", "bad"], tmp_path / "b", resume="all")
    assert not any(resumed for _, resumed, _ in everything)
    with pytest.raises(BatchError, match="has results already"):
        run("forkserver", fails_if_bad, ["good", "bad"], tmp_path / "b", resume="never")
    with Batch.open(tmp_path / "b") as batch:
        attempts = {record.input: len(record.attempts) for record in batch}
        assert attempts == {"good": 2, "bad": 3}


@each_method
def test_a_death_is_kept_with_what_was_written(tmp_path: Path, method: str) -> None:
    run(method, crash, ["a"], tmp_path / "b")
    with Batch.open(tmp_path / "b") as batch:
        (record,) = batch
        (attempt,) = record.attempts
        assert (attempt.status, attempt.exitcode) == ("crash", -9)
        assert attempt.output().read() == b"before a"
        assert not attempt.output().complete
        assert "SIGKILL" in (record.error or "")


def test_attempts_are_kept_apart_until_one_succeeds(tmp_path: Path) -> None:
    with noted(tmp_path) as note:
        run("forkserver", fails_first, [(note, "x")], tmp_path / "b", retries=1)
        (kept,) = Batch.open(tmp_path / "b")
        first, second = kept.attempts
        assert (first.status, first.error, first.kept) == (
            "error",
            "ValueError: the first time",
            False,
        )
        assert (second.status, second.kept) == ("done", True)
        assert second.output().read() == b"2" * LARGE
    assert len(list((tmp_path / "b").glob("shard-0/files/*/*"))) == 1


def test_failed_attempts_stay_where_that_is_asked_for(tmp_path: Path) -> None:
    with noted(tmp_path) as note:
        run("forkserver", fails_first, [(note, "x")], tmp_path / "b", retries=1, keep_failed=True)
        (kept,) = Batch.open(tmp_path / "b")
        assert [attempt.output().read() for attempt in kept.attempts] == [
            b"1" * LARGE,
            b"2" * LARGE,
        ]


def test_large_outputs_are_files_of_their_own(tmp_path: Path) -> None:
    sizes = [0, 1, 65535, 65536, 6 * 1024 * 1024]
    run("forkserver", many_bytes, sizes, tmp_path / "b")
    with Batch.open(tmp_path / "b") as batch:
        assert [len(record.output().read()) for record in batch] == sizes
        assert batch.verify() == []
    files = list((tmp_path / "b").glob("shard-0/files/*/*"))
    assert sorted(path.stat().st_size for path in files) == sizes[-2:]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_an_input_without_a_key_says_so_and_the_jobs_before_it_are_done(tmp_path: Path) -> None:
    with Collector(1, progress=False) as collector:
        jobs = collector.collect(ignore, ["a", {1, 2}, "b"], batch=tmp_path / "b")
        assert next(jobs).args == ("a",)
        with pytest.raises(TypeError, match=r"set is no kind of input .* give key="):
            next(jobs)
        keyed = collector.collect(ignore, [{1, 2}], batch=tmp_path / "b", key=sorted)
        assert [job.resumed for job in keyed] == [False]
        keyed = collector.collect(ignore, [{2, 1}], batch=tmp_path / "b", key=sorted)
        assert [job.resumed for job in keyed] == [True]


@pytest.mark.parametrize("options", [{}, {"ordered": True}, {"halt": "soon,fail=9"}])
def test_a_key_that_stops_iterating_is_an_error_and_not_the_end(
    tmp_path: Path, options: Any
) -> None:
    def key(item: str) -> str:
        return next(char for char in item if char.isalpha())

    with Collector(1, progress=False) as collector:
        jobs = collector.collect(ignore, ["a", "1", "b"], batch=tmp_path / "b", key=key, **options)
        assert next(jobs).args == ("a",)
        with pytest.raises(RuntimeError, match="raised StopIteration") as caught:
            next(jobs)
    assert isinstance(caught.value.__cause__, StopIteration)


def test_a_value_that_cannot_be_kept_fails_its_job(tmp_path: Path) -> None:
    ((_, _, error),) = run("fork", unpicklable, ["a"], tmp_path / "b")
    assert isinstance(error, JobError)


def test_a_function_whose_source_no_tokenizer_reads_runs(tmp_path: Path) -> None:
    def of(_head: str, fn: Any, _tail: str) -> Any:
        return fn

    # fmt: off
    fn = of("""head
""", lambda number: number + 1, """tail
""")
    # fmt: on
    with pytest.raises(tokenize.TokenError):
        inspect.getsource(fn)
    found = run("forkserver", fn, [1], tmp_path / "b")
    assert found == [(1, False, b"")]


def test_options_of_a_directory_need_one() -> None:
    with Collector(1, progress=False) as collector:
        for option in ({"key": str}, {"save": "x"}, {"durable": True}, {"shard": (1, 2)}):
            with pytest.raises(TypeError, match="give batch= too"):
                collector.collect(double, [1], **option)
        for wrong in ({"resume": "sometimes"}, {"shard": (3, 2)}, {"save": "{nothing}"}):
            with pytest.raises(ValueError, match=r"resume|shard|nothing"):
                collector.collect(double, [1], batch="b", **wrong)
        resume: Any = True
        with pytest.raises(TypeError, match="must be 'failed', 'new', 'all' or 'never', not True"):
            collector.collect(double, [1], batch="b", resume=resume)


def test_a_relative_directory_is_that_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with Collector(1, progress=False) as collector:
        jobs = collector.collect(double, [1], batch="b")
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert [job.result() for job in jobs] == [2]
        with pytest.raises(ValueError, match="not an empty one"):
            collector.collect(double, [1], batch="")
    assert (tmp_path / "b" / "batch.json").exists()


@pytest.mark.slow
def test_a_callback_that_exits_keeps_no_other_job_from_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def attach(job: Job[Any], _progress: object) -> None:
        job.add_done_callback(lambda _job: sys.exit(3))

    with Collector(1, progress=False, on_progress=attach) as collector:
        jobs = list(collector.collect(pausing, range(3), batch=tmp_path / "b"))
        assert sorted(job.result() for job in jobs) == [0, 1, 2]
    assert "a callback of a job failed" in caplog.text
    caplog.clear()  # its tracebacks hold the jobs, and they the directory


def test_a_loop_that_is_left_keeps_what_was_running(tmp_path: Path) -> None:
    with Collector(1, progress=False) as collector:
        jobs = collector.collect(double, range(100), batch=tmp_path / "b")
        next(jobs)
        jobs.close()
    with Batch.open(tmp_path / "b") as batch:
        assert 0 < batch.status()["done"] < 100
        assert batch.verify() == []
    assert len(run("forkserver", double, range(100), tmp_path / "b")) == 100


def test_durable_keeps_the_same(tmp_path: Path) -> None:
    first = run("forkserver", many_bytes, [10, 70_000, 11], tmp_path / "b", durable=True)
    again = run("forkserver", many_bytes, [10, 70_000, 11], tmp_path / "b", durable=True)
    assert [resumed for _, resumed, _ in again] == [True] * 3
    assert sorted(len(data) for _, _, data in again) == sorted(len(data) for _, _, data in first)


@pytest.mark.slow
def test_shards_share_the_inputs_and_know_each_other_s_results(tmp_path: Path) -> None:
    found = []
    for part in (1, 2, 3):
        found += run("forkserver", double, range(30), tmp_path / "b", shard=(part, 3))
    assert sorted(item for item, _, _ in found) == list(range(30))
    assert not any(resumed for _, resumed, _ in found)
    again = run("forkserver", double, range(30), tmp_path / "b", shard=(1, 2))
    assert 0 < len(again) < 30
    assert all(resumed for _, resumed, _ in again)
    assert all(resumed for _, resumed, _ in run("forkserver", double, range(30), tmp_path / "b"))
    names = sorted(name for name in os.listdir(tmp_path / "b"))
    assert names == [
        "batch.json",
        "shard-0",
        "shard-1of2",
        "shard-1of3",
        "shard-2of3",
        "shard-3of3",
    ]
