"""What a Collector does whichever engine runs its jobs: one suite, for all of them.

No test here names a process of ours; those that do are about one engine.
"""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector import (
    Batch,
    Collector,
    JobKilledError,
    JobTimeoutError,
    Retry,
    RetryLater,
    WorkerCrashError,
    current_job,
)
from tests.support.engines import each_engine, kinds, opened
from tests.support.leaks import is_running, wait_until

MIB = 1 << 20

pytestmark = [each_engine, pytest.mark.usefixtures("one_server")]


@pytest.fixture(name="collector")
def _collector(engine: str, shared_collector: Collector | None) -> Iterator[Collector]:
    """One whose processes outlive the test: on Ray it is that of all such tests."""
    if engine == "ray":
        assert shared_collector is not None
        yield shared_collector
    else:
        with opened(engine) as collector:
            yield collector


@pytest.fixture(name="own_collector")
def _own_collector(engine: str) -> Iterator[Collector]:
    """For a test in which processes of it end."""
    with opened(engine) as collector:
        yield collector


def number_lines(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield b"%d\n" % number


def large(size: int, step: int) -> Iterator[bytes]:
    data = os.urandom(step)
    digest = hashlib.sha256()
    for _ in range(size // step):
        digest.update(data)
        yield data
    return digest.hexdigest()  # type: ignore[return-value]  # the value of a generator


def square(number: int) -> int:
    return number * number


def write_and_die(size: int, number: int = signal.SIGKILL) -> Iterator[bytes]:
    for at in range(0, size, 1000):
        yield b"%07d|" % at * 125
    current_job().flush()
    os.kill(os.getpid(), number)


def fail(text: str) -> Iterator[bytes]:
    yield b"before"
    raise LookupError(text)


def fail_at_first(path: str) -> Iterator[bytes]:
    yield b"attempt %d" % current_job().attempt
    if current_job().attempt == 1:
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def asks_for_later(path: str) -> Iterator[bytes]:
    current_job().count(calls=1, tokens=10)
    current_job().count(calls=1)
    if not Path(path).exists():
        Path(path).touch()
        raise RetryLater(0.01)
    yield b"at last"


def looks_up(path: str) -> None:
    if not Path(path).exists():
        Path(path).touch()
        raise KeyError(path)


def arguments() -> list[str]:
    return sys.argv


def with_a_child(path: str) -> Iterator[bytes]:
    yield b"begun"
    current_job().flush()
    child = subprocess.Popen(["sleep", "600"])
    Path(path).write_text(str(child.pid))
    child.wait()


def prints(text: str) -> int:
    sys.stdout.write(f"{text}\n")
    subprocess.run(["sh", "-c", "echo from a shell >&2"], check=True)
    return len(text)


def logs(text: str) -> None:
    logging.getLogger("jobs").warning("%s", text)


def uses_its_job() -> tuple[str, int, bool]:
    job = current_job()
    file = job.scratch_dir / "a"
    file.write_bytes(b"scratch")
    subprocess.run(["cat", os.fspath(file)], stdout=job, check=True)
    job.write("text")
    return job.name, job.attempt, file.exists()


def waits_for(path: str) -> Iterator[bytes]:
    yield b"one "
    while not Path(path).exists():
        time.sleep(0.01)
    yield b"two"


def fails_for_odd(number: int) -> Iterator[bytes]:
    yield b"%d" % number
    if number % 2:
        raise ValueError(number)


def test_outputs_and_values_are_exact(collector: Collector) -> None:
    jobs = list(collector.collect(number_lines, range(30)))
    assert sorted(job.args[0] for job in jobs) == list(range(30))
    for job in jobs:
        assert job.result() is None
        assert job.output().read() == b"".join(number_lines(job.args[0]))
        assert job.output().chunks == job.args[0]
        assert job.output().complete


@pytest.mark.parametrize("step", [100, 65_536, 3 * MIB])
def test_a_large_output_is_exact(collector: Collector, step: int) -> None:
    job = collector.submit(large, 24 * MIB // step * step, step)
    assert hashlib.sha256(job.output().read()).hexdigest() == job.result()
    assert job.output().mode == "streaming"
    assert job.output().chunks == 24 * MIB // step


def test_a_job_sees_the_arguments_of_the_program(collector: Collector) -> None:
    assert collector.submit(arguments).result() == sys.argv


def test_map_yields_values_in_order(collector: Collector) -> None:
    assert list(collector.map(square, range(50), chunksize=7)) == [n * n for n in range(50)]


def test_a_large_value_and_large_arguments_come_through(collector: Collector) -> None:
    data = os.urandom(9 * MIB)
    assert collector.submit(bytes.__add__, data, b"!").result() == data + b"!"


def test_an_exception_arrives_as_itself_and_what_was_written_is_kept(collector: Collector) -> None:
    job = collector.submit(fail, "nothing there")
    error = job.exception()
    assert isinstance(error, LookupError)
    assert error.args == ("nothing there",)
    assert "in fail" in str(error.__cause__)
    assert job.output().read() == b"before"
    assert not job.output().complete


@pytest.mark.parametrize("size", [0, 1000, 7 * MIB // 1000 * 1000])
def test_a_crash_costs_one_job_and_keeps_a_true_prefix(own_collector: Collector, size: int) -> None:
    others = [own_collector.submit(square, number) for number in range(4)]
    job = own_collector.submit(write_and_die, size)
    error = job.exception()
    assert isinstance(error, WorkerCrashError)
    assert error.signal == signal.SIGKILL
    whole = b"".join(b"%07d|" % at * 125 for at in range(0, size, 1000))
    assert whole.startswith(job.output().read())
    assert job.output().read() == whole
    assert [other.result() for other in others] == [0, 1, 4, 9]


def test_a_retry_starts_with_a_fresh_output(own_collector: Collector, tmp_path: Path) -> None:
    job = own_collector.with_options(retries=1).submit(fail_at_first, os.fspath(tmp_path / "died"))
    assert job.exception() is None
    assert (tmp_path / "died").exists()
    assert job.output().read() == b"attempt 2"


def test_a_job_is_run_later_as_it_asks_and_what_all_runs_counted_is_summed(
    collector: Collector, tmp_path: Path
) -> None:
    job = collector.submit(asks_for_later, os.fspath(tmp_path / "asked"))
    assert job.exception() is None
    assert job.output().read() == b"at last"
    assert job.attempt == 1
    assert job.meters == {"calls": 4, "tokens": 20}


@pytest.mark.parametrize("kind", [LookupError, ValueError])
def test_a_retry_for_some_exceptions_looks_at_what_was_raised(
    collector: Collector, tmp_path: Path, kind: type[Exception]
) -> None:
    retry = Retry(error=1, on=kind, delay=0.01)
    job = collector.with_options(retries=retry).submit(looks_up, os.fspath(tmp_path / "tried"))
    assert isinstance(job.exception(), KeyError if kind is ValueError else type(None))


@pytest.mark.parametrize("by", ["kill", pytest.param("timeout", marks=pytest.mark.slow)])
def test_an_ended_job_takes_its_subprocesses_along(
    own_collector: Collector, tmp_path: Path, by: str
) -> None:
    path = tmp_path / "pid"
    assert own_collector.submit(square, 1).result() == 1  # what starts for the first job is there
    options = own_collector.with_options(timeout=5) if by == "timeout" else own_collector
    job = options.submit(with_a_child, os.fspath(path))
    assert wait_until(lambda: path.exists() and path.read_text() != "", 60)
    if by == "kill":
        job.kill()
    error = job.exception()
    assert isinstance(error, JobKilledError if by == "kill" else JobTimeoutError)
    assert b"begun".startswith(job.output().read())
    pid = int(path.read_text())
    assert wait_until(lambda: not is_running(pid), 20)


def test_a_cancelled_job_does_not_run(collector: Collector, tmp_path: Path) -> None:
    go = tmp_path / "go"
    running = [collector.submit(waits_for, os.fspath(go)) for _ in range(2)]
    assert wait_until(lambda: all(job.running() for job in running), 60)
    waiting = collector.submit(square, 3)
    assert waiting.cancel()
    go.touch()
    assert [job.output().read() for job in running] == [b"one two", b"one two"]
    assert waiting.cancelled()


def test_what_a_job_and_its_programs_print_is_captured(collector: Collector) -> None:
    job = collector.with_options(capture=True).submit(prints, "hello")
    assert job.result() == 5
    assert job.log().read() == b"hello\nfrom a shell\n"
    silent = collector.with_options(capture=True).submit(square, 3)
    assert silent.result() == 9
    assert silent.log().read() == b""


def test_what_a_job_logs_reaches_the_handlers_here(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.submit(logs, "from far away").result()
    assert wait_until(lambda: "from far away" in caplog.text, 20)


def test_a_job_has_its_scratch_directory_and_its_descriptor(collector: Collector) -> None:
    job = collector.submit(uses_its_job)
    assert job.result() == (job.name, 1, True)
    assert job.output().read() == b"scratchtext"


def test_an_output_is_followed_while_it_grows(collector: Collector, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = collector.submit(waits_for, os.fspath(go))
    follower = job.follow()
    seen = b""
    for piece in follower:
        seen += piece
        if seen == b"one ":
            go.touch()
    assert seen == b"one two"


def test_a_batch_is_kept_and_continued(collector: Collector, tmp_path: Path) -> None:
    first = list(collector.collect(fails_for_odd, range(10), batch=tmp_path / "b"))
    jobs = list(collector.collect(fails_for_odd, range(10), batch=tmp_path / "b"))
    assert len(first) == len(jobs) == 10
    assert sum(job.resumed for job in jobs) == 5
    with Batch.open(tmp_path / "b") as batch:
        assert batch.verify() == []
        assert {record.input: record.output().read() for record in batch} == {
            str(number): b"%d" % number for number in range(10)
        }
        assert batch.status()["failed"] == 5


def test_more_workers_than_outputs_in_memory_stay_within_the_budget(engine: str) -> None:
    with opened(engine, memory_budget=8 * MIB) as collector:
        jobs = [collector.submit(large, 4 * MIB, 65_536) for _ in range(6)]
        for job in jobs:
            assert hashlib.sha256(job.output().read()).hexdigest() == job.result()
        held = sum(job.output().size for job in jobs if job.output().mode == "memory")
        assert held <= 8 * MIB


SCRIPT = """
import dataclasses, sys
from collector import Collector

table = {number: number * 7 for number in range(1000)}
loaded = []

@dataclasses.dataclass(slots=True)
class Point:
    x: int

def load(value):
    loaded.append(value)

def job(number):
    yield f"{table[number]} {loaded} {Point(number)}\\n"
    return Point(table[number])

with Collector(2, initializer=load, initargs=(5,), progress=False, **KINDS) as collector:
    for done in collector.collect(job, range(3), ordered=True):
        assert isinstance(done.result(), Point)
        print(done.result(), done.output().text(), end="")
    table = {number: -number for number in range(1000)}
    print(collector.submit(job, 4).result(), collector.submit(lambda: len(table)).result())
"""

PRINTED = """\
Point(x=0) 0 [5] Point(x=0)
Point(x=7) 7 [5] Point(x=1)
Point(x=14) 14 [5] Point(x=2)
Point(x=-4) 1000
"""


@pytest.mark.parametrize("how", ["file", "stdin"])
def test_an_unguarded_script_travels(engine: str, tmp_path: Path, how: str) -> None:
    source = SCRIPT.replace("**KINDS", f"**{kinds(engine)}")
    (tmp_path / "script.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "script.py"] if how == "file" else [sys.executable, "-"],
        input=source if how == "stdin" else None,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, PRINTED, "")


def test_many_threads_may_submit(collector: Collector) -> None:
    found: list[int] = []

    def submit(number: int) -> None:
        found.append(collector.submit(square, number).result())

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [number**2 for number in range(20)]


def test_a_failing_initializer_breaks_the_collector(engine: str) -> None:
    with opened(engine, initializer=fail_loudly) as collector:
        error = collector.submit(square, 2).exception()
        assert "the initializer failed" in str(error)
        assert "no licence" in str(error)


def fail_loudly() -> None:
    raise RuntimeError("no licence")
