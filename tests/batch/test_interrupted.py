"""What is kept of jobs that were running when somebody ended them, and of those that run long."""

import gc
import json
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collector import (
    Batch,
    BatchError,
    Collector,
    Job,
    JobKilledError,
    JobTimeoutError,
    Progress,
    Retry,
)
from collector.batch import recorder
from collector.batch.storing import Attempt, Put, Task
from collector.batch.writer import BatchWriter
from collector.cli.program import main
from tests.support.batchdir import journal, run, writer
from tests.support.batchjobs import (
    double,
    double_later,
    fails_first,
    forever,
    noted,
    rests_first,
)
from tests.support.inside import run_directory
from tests.support.leaks import wait_until

pytestmark = pytest.mark.usefixtures("one_server")


def events(path: Path, kind: str) -> list[Any]:
    lines = map(json.loads, journal(path).read_bytes().splitlines())
    return [line for line in lines if line["event"] == kind]


def test_a_job_that_runs_for_a_second_is_told_of_before_it_ends(tmp_path: Path) -> None:
    with Collector(1, progress=False) as collector:
        jobs = collector.collect(forever, ["a"], batch=tmp_path / "b", ordered=True)
        loop = threading.Thread(target=lambda: list(jobs))
        loop.start()
        while not events(tmp_path / "b", "started") if journal(tmp_path / "b").exists() else True:
            loop.join(0.05)
        with Batch.open(tmp_path / "b") as batch:
            (record,) = batch
            assert (record.status, record.input, record.name) == ("interrupted", "a", "forever-1")
            assert "was started and has never ended" in batch.why("a")
            assert batch.status()["interrupted"] == 1
        collector.kill_workers()
        loop.join()


def test_a_job_that_rests_at_a_gate_is_not_told_of_as_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, path, now_s = tmp_path / "go", tmp_path / "b", 1e9
    monkeypatch.setattr(recorder, "time", SimpleNamespace(time=lambda: now_s))
    with Collector(1, progress=False) as collector:
        inputs = [(os.fspath(go_on), text) for text in ("rests", "runs")]
        jobs = collector.collect(rests_first, inputs, batch=path)
        loop = threading.Thread(target=lambda: list(jobs))
        loop.start()
        assert wait_until(lambda: bool(collector.statistics().running))
        go_on.touch()
        second = ["rests_first-2"]
        assert wait_until(lambda: [j.name for j in collector.statistics().running] == second)
        now_s += 2
        assert wait_until(lambda: journal(path).exists() and bool(events(path, "started")))
        collector.kill_workers()
        loop.join()
    assert [line["name"] for line in events(path, "started")] == second


def test_a_ctrl_c_leaves_what_ran_interrupted_and_not_failed(tmp_path: Path) -> None:
    def loop() -> None:
        with Collector(2, progress=False) as collector:
            for job in collector.collect(forever, ["quick", "a", "b"], batch=tmp_path / "b"):
                assert job.args == ("quick",)
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    with Batch.open(tmp_path / "b") as batch:
        status = batch.status()
        assert (status["done"], status["failed"]) == (1, 0)
        assert status["interrupted"] + status["waiting"] == 2
    ended = [line["input"] for line in events(tmp_path / "b", "ended")]
    assert ended == ["quick"]


def assert_it_was_killed(path: Path) -> None:
    """The only job of a batch has failed so, and what it had written is kept."""
    with Batch.open(path) as batch:
        (record,) = batch
        assert record.attempts[0].status == "killed"
        assert record.output().text() == "talks"
        with pytest.raises(JobKilledError):
            record.value()


def test_a_job_that_the_user_kills_has_failed(tmp_path: Path) -> None:
    with Collector(1, progress=False, on_progress=lambda job, _: job.kill()) as collector:
        (job,) = collector.collect(forever, ["talks"], batch=tmp_path / "b")
        assert isinstance(job.exception(), JobKilledError)
    assert_it_was_killed(tmp_path / "b")


def test_a_job_that_collector_kill_ends_has_failed(tmp_path: Path) -> None:
    asked = threading.Event()

    def ask(job: Job[Any], _: Progress) -> None:
        if not asked.is_set():
            asked.set()
            run = run_directory(collector)
            assert main(["kill", "--root", str(run.parent), run.name, str(job.id)]) == 0

    with Collector(1, progress=False, temp_root=tmp_path / "r", on_progress=ask) as collector:
        (job,) = collector.collect(forever, ["talks"], batch=tmp_path / "b")
        assert isinstance(job.exception(), JobKilledError)
    assert_it_was_killed(tmp_path / "b")


def test_a_script_may_end_with_a_collect_that_was_not_read_to_its_end(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from collector import *\n"
        "def measure(text): yield text\n"
        "collector = Collector(1)\n"
        f"jobs = collector.collect(measure, ['a', 'bc'], batch={str(tmp_path / 'b')!r})\n"
        "next(jobs)\n"
        "collector.shutdown()\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, check=True)
    assert ended.stderr == b""
    with Batch.open(tmp_path / "b") as batch:
        assert [record.output().text() for record in batch] == ["a", "bc"]


def test_a_time_out_is_kept_as_one(tmp_path: Path) -> None:
    with Collector(1, progress=False, timeout=0.3) as collector:
        (job,) = collector.collect(forever, ["a"], batch=tmp_path / "b")
        assert isinstance(job.exception(), JobTimeoutError)
    with Batch.open(tmp_path / "b") as batch:
        (record,) = batch
        (attempt,) = record.attempts
        assert attempt.status == "timeout"
        assert attempt.worker == 1
        assert attempt.seconds > 0


def test_shutdown_waits_until_everything_is_stored(tmp_path: Path) -> None:
    collector = Collector(2, progress=False)
    jobs = collector.collect(double, range(50), batch=tmp_path / "b", buffersize=50)
    next(jobs)
    collector.shutdown()
    with Batch.open(tmp_path / "b") as batch:
        assert batch.status()["done"] == 50
    assert sorted(job.args[0] for job in jobs)
    run_again = Collector(1, progress=False)
    with run_again:
        assert all(j.resumed for j in run_again.collect(double, range(50), batch=tmp_path / "b"))


def test_shutdown_returns_no_sooner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    put = BatchWriter.put
    go_on = tmp_path / "go on"

    def slowly(writing: BatchWriter, task: Task, attempt: Attempt) -> Put:
        if task.seq:
            gate.wait()
        return put(writing, task, attempt)

    monkeypatch.setattr(BatchWriter, "put", slowly)
    collector = Collector(2, progress=False)
    inputs = [(number, str(go_on)) for number in range(5)]
    jobs = collector.collect(double_later, inputs, batch=tmp_path / "b", buffersize=5)
    next(jobs)  # the first one waits for nothing, so that no other is stored with it
    go_on.touch()
    others = collector.submit(double, 7)
    assert others.result() == 14  # a slow disk holds up nobody else
    shutdown = threading.Thread(target=collector.shutdown)
    shutdown.start()
    shutdown.join(0.5)
    assert shutdown.is_alive()
    gate.set()
    shutdown.join()
    assert len(events(tmp_path / "b", "ended")) == 5
    assert len(list(jobs)) == 4


@pytest.mark.parametrize("named", [False, True])
def test_the_next_collect_has_what_still_ran_when_a_loop_was_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, named: bool
) -> None:
    go_on = tmp_path / "go on"
    inputs = [(0, str(go_on)), (1, str(go_on))]
    with Collector(2, progress=False) as collector:
        left = collector.collect(double_later, inputs, batch=tmp_path / "b")
        assert next(left).args == (inputs[0],)
        if named:
            with pytest.raises(BatchError, match=r"call close\(\) on what the other collect"):
                next(collector.collect(double_later, inputs, batch=tmp_path / "b"))
        left.close()
        found: list[bool] = []

        def goes_on() -> None:
            found.extend(
                job.resumed for job in collector.collect(double_later, inputs, batch=tmp_path / "b")
            )

        loop = threading.Thread(target=goes_on)
        loop.start()
        while "waits for 1 jobs of an earlier collect" not in caplog.text:
            loop.join(0.01)
            assert loop.is_alive()
        go_on.touch()
        loop.join()
    assert found == [True, True]
    caplog.clear()


def test_the_next_collect_runs_what_waited_for_another_attempt_when_a_loop_was_left(
    tmp_path: Path,
) -> None:
    in_an_hour = Retry(error=1, delay=3600, max_delay=3600)
    with noted(tmp_path) as note, Collector(1, progress=False, retries=in_an_hour) as collector:
        inputs = [(note, "first"), (note, "well")]
        for job in collector.collect(fails_first, inputs, batch=tmp_path / "b"):
            assert job.args == (inputs[1],)
            break
        found = {
            job.args[0][1]: (job.resumed, job.exception())
            for job in collector.collect(fails_first, inputs, batch=tmp_path / "b")
        }
    assert found == {"first": (False, None), "well": (True, None)}


def test_a_batch_that_was_read_holds_no_descriptor(tmp_path: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        with Collector(1, progress=False) as collector:
            list(collector.collect(double, range(3), batch=tmp_path / "first"))
            before = os.listdir("/proc/self/fd")
            for name in "abc":
                for _ in range(2):
                    assert list(collector.collect(double, range(3), batch=tmp_path / name))
            assert os.listdir("/proc/self/fd") == before
    finally:
        gc.enable()


def test_two_batches_of_one_collector_keep_apart(tmp_path: Path) -> None:
    with Collector(2, progress=False) as collector:
        one = collector.collect(double, range(9), batch=tmp_path / "one")
        two = collector.collect(double, range(9), batch=tmp_path / "two")
        for first, second in zip(one, two, strict=True):
            assert first.exception() is second.exception() is None
    for name in ("one", "two"):
        with Batch.open(tmp_path / name) as batch:
            assert batch.status()["done"] == 9


def test_what_is_made_known_before_it_runs_waits(tmp_path: Path) -> None:
    with writer(tmp_path / "b", inputs=3) as writing:
        for text in ("x", "y"):
            writing.read(writing.task(text, name=f"job-{text}"))
    with Batch.open(tmp_path / "b") as batch:
        assert [(r.input, r.name, r.status) for r in batch] == [
            ("x", "job-x", "waiting"),
            ("y", "job-y", "waiting"),
        ]
        assert batch.status()["waiting"] == 3
    assert run(tmp_path / "b", ["x", "y"]) == ["x", "y"]


def test_threads_that_read_one_batch_know_of_each_job_what_it_is(tmp_path: Path) -> None:
    texts = [f"{number} " + "x" * 500 for number in range(4000)]  # more than is read at once
    with writer(tmp_path / "b") as writing:
        for text in texts:
            writing.read(writing.task(text, name=f"job of {text}"))
    threads = 4
    together = threading.Barrier(threads)

    def read(batch: Batch) -> list[str]:
        together.wait(60)
        return [record.input for record in batch]

    with Batch.open(tmp_path / "b") as batch, ThreadPoolExecutor(threads) as executor:
        for found in executor.map(read, [batch] * threads):
            assert found == texts


def test_a_child_that_the_user_forks_writes_and_closes_nothing(tmp_path: Path) -> None:
    with Collector(1, progress=False) as collector:
        jobs = collector.collect(double, range(4), batch=tmp_path / "b")
        next(jobs)
        before = journal(tmp_path / "b").read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                jobs.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert b'"left"' not in journal(tmp_path / "b").read_bytes()[len(before) :]
        assert len(list(jobs)) == 3
    with Batch.open(tmp_path / "b") as batch:
        assert batch.status()["done"] == 4
        assert batch.verify() == []
