"""A running Collector is looked at from another process; and `statistics()`."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector import Collector, Mode, Statistics, list_runs, reclaim
from collector.cli.asking import ask_all
from collector.cli.top import Heard, print_runs
from collector.wire.questions import Question
from tests.support.asking import a_batch, command, long_root_in, program, top
from tests.support.askingjobs import gated
from tests.support.inside import run_directory
from tests.support.jobs import fail, square
from tests.support.leaks import descendants, wait_until
from tests.support.rundirs import REPOSITORY, make_orphan, names
from tests.support.tiers import each_method, everyday_are

pytestmark = pytest.mark.usefixtures("one_server")

TWO_GATED = """
jobs = [collector.submit(gated, f"{here}/go-{n}", b"0123456789", b"end %d" % n) for n in (1, 2)]
for job in jobs:
    error = job.exception()
    print(job.id, "failed" if error else job.output().read().decode(), flush=True)
"""


@pytest.fixture
def long_root(tmp_path: Path) -> Path:
    return long_root_in(tmp_path)


@each_method
def test_a_batch_is_looked_at_from_another_process(
    method: str, long_root: Path, tmp_path: Path
) -> None:
    with a_batch(long_root, tmp_path / "here", TWO_GATED, method) as batch:
        batch.runs(2)
        assert wait_until(lambda: top()[0]["bytes"] == 20)
        (said,) = top()
        assert said["run"] == batch.run.name
        assert len(os.fspath(batch.run)) > 200
        assert said["pid"] == batch.process.pid
        assert (said["done"], said["failed"], said["total"]) == (0, 0, 2)
        assert said["memory_bytes"] == 20
        assert [sorted(job) for job in said["running"]] == 2 * [
            ["attempt", "bytes", "job", "name", "seconds"]
        ]
        assert {(job["job"], job["attempt"]) for job in said["running"]} == {(1, 1), (2, 1)}
        # `ls` has it under its own path, without being told of the root
        listed = json.loads(command("ls", "--json")[1])["runs"]
        assert [(run["path"], len(run["doing"]["running"])) for run in listed] == [
            (os.fspath(batch.run), 2)
        ]
        assert b"0 of 2 done, 2 running" in command("ls")[1]
        # one is killed, and it alone
        assert command("kill", said["run"][:10], "1") == (
            0,
            b"job 1 (gated-1) is being ended\n",
            b"",
        )
        assert batch.hear() == "1 failed"
        batch.let_go("go-2")
        assert batch.hear() == "2 0123456789end 2"
        assert batch.end() == 0
    assert top() == []
    assert list(long_root.iterdir()) == []


@each_method
def test_a_followed_job_is_exact_from_its_first_byte_and_ends_with_it(
    method: str, long_root: Path, tmp_path: Path
) -> None:
    body = """
small = collector.submit(gated, f"{here}/small", b"0123456789", b"the end")
large = collector.with_options(name="large").submit(flood, f"{here}/large", 32 << 20)
print(large.result(), flush=True)
"""
    with a_batch(long_root, tmp_path / "here", body, method) as batch:
        batch.runs(2)
        found: dict[str, bytes] = {}

        def follow(job: str) -> None:
            done = program("follow", batch.run.name, job)
            found[job] = done.stdout
            assert (done.returncode, done.stderr) == (0, b"")

        readers = [threading.Thread(target=follow, args=(job,)) for job in ("1", "large")]
        for reader in readers:
            reader.start()
        assert wait_until(lambda: len(list(batch.run.glob("*.spill"))) == 2)  # they are followed
        batch.let_go("large")
        digest = batch.hear()
        readers[1].join()
        assert hashlib.sha256(found["large"]).hexdigest() == digest
        assert readers[0].is_alive()
        batch.let_go("small")
        readers[0].join()
        assert found["1"] == b"0123456789the end"
        assert batch.end() == 0


@pytest.mark.slow
def test_a_follower_ends_when_nobody_reads_it_any_more_though_its_job_writes_nothing(
    temp_root: Path, tmp_path: Path
) -> None:
    body = 'job = collector.submit(gated, f"{here}/go", b"first\\n", b"last")\njob.result()'
    with a_batch(temp_root, tmp_path / "here", body) as batch:
        batch.runs(1)
        line = [sys.executable, "-m", "collector", "follow", batch.run.name, "1"]
        with subprocess.Popen(line, cwd=REPOSITORY, stdout=subprocess.PIPE) as follower:
            assert follower.stdout is not None
            assert follower.stdout.readline() == b"first\n"
            follower.stdout.close()
            assert follower.wait() == 0
        assert not (tmp_path / "here" / "go").exists()  # the job waits still
        batch.let_go("go")
        assert batch.end() == 0


@pytest.mark.slow
def test_a_follower_whose_stdout_takes_nothing_says_so(temp_root: Path, tmp_path: Path) -> None:
    body = 'job = collector.submit(gated, f"{here}/go", b"first\\n", b"last")\njob.result()'
    with a_batch(temp_root, tmp_path / "here", body) as batch:
        batch.runs(1)
        for to, why in ((">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")):
            for job in ("", "1"):
                line = f"exec {sys.executable} -m collector follow {batch.run.name} {job} {to}"
                told = subprocess.run(
                    ["sh", "-c", line], cwd=REPOSITORY, capture_output=True, check=False
                )
                said = (told.returncode, told.stderr.decode())
                assert said == (1, f"collector: cannot print: {why}\n")
        batch.let_go("go")
        assert batch.end() == 0


@pytest.mark.slow
def test_all_jobs_are_followed_with_their_names_before_each_line(
    temp_root: Path, tmp_path: Path
) -> None:
    body = """
first = collector.submit(gated, f"{here}/go", b"a\\nb", b"c\\n")
named = collector.with_options(name="n")
jobs = [named.submit(gated, f"{here}/go", b"", b"x%d\\ny" % n) for n in range(20)]
"""
    with a_batch(temp_root, tmp_path / "here", body) as batch:
        batch.runs(2)
        printed: list[bytes] = []
        reader = threading.Thread(target=lambda: printed.append(program("follow").stdout))
        reader.start()
        assert wait_until(lambda: list(batch.run.glob("*.spill")))  # it is being followed
        batch.let_go("go")
        assert batch.end() == 0
        reader.join()
    lines = printed[0].splitlines()
    assert [line for line in lines if line.startswith(b"gated-1\t")] == [
        b"gated-1\ta",
        b"gated-1\tbc",
    ]
    others = [line for line in lines if line.startswith(b"n\t")]
    assert sorted(others) == sorted([*(b"n\tx%d" % n for n in range(20)), *20 * [b"n\ty"]])


@pytest.mark.slow
def test_what_nobody_can_answer_is_said(temp_root: Path, tmp_path: Path) -> None:
    assert program("follow").stderr == b"collector: no Collector runs that can be asked\n"
    with a_batch(temp_root, tmp_path / "here", TWO_GATED) as batch:
        batch.runs(2)
        name = batch.run.name
        for arguments, said in (
            (("kill", "run-nothing", "1"), b"no live run has the name 'run-nothing'"),
            (("kill", name, "77"), b"no job '77' runs or waits here: see collector top"),
            (("kill", name, "x" * 10_000), b"give its number"),
            (("follow", name, "nothing"), b"no job 'nothing' runs or waits here"),
            (("follow", tmp_path / "here", "1"), b"no live run has the name"),
        ):
            done = program(*arguments)
            assert (done.returncode, done.stdout) == (1, b"")
            assert said in done.stderr
        assert program("kill", name).returncode == 2
        assert b"RUN|DIR JOB" in program("kill", name).stderr
        assert program("kill", temp_root, "1").returncode == 0  # the directory that it lies in
        batch.let_go("go-1")
        batch.let_go("go-2")
        assert batch.end() == 0


@pytest.mark.slow
def test_a_collector_that_is_stopped_does_not_hang_top(temp_root: Path, tmp_path: Path) -> None:
    with a_batch(temp_root, tmp_path / "here", TWO_GATED) as batch:
        batch.runs(2)
        batch.process.send_signal(signal.SIGSTOP)
        done = program("top", "--json")
        assert (done.returncode, done.stdout) == (0, b"[]\n")
        assert b"has not answered within 3 s: its process is stopped" in done.stderr
        batch.process.send_signal(signal.SIGCONT)
        assert wait_until(lambda: top() != [])
        batch.let_go("go-1")
        batch.let_go("go-2")
        assert batch.end() == 0


@pytest.mark.slow
@each_method
def test_nothing_of_it_is_left_after_a_kill_of_the_parent(
    method: str, temp_root: Path, tmp_path: Path
) -> None:
    default = Path(os.environ["TMPDIR"]) / f"collector-{os.geteuid()}"
    with a_batch(temp_root, tmp_path / "here", TWO_GATED, method) as batch:
        batch.runs(2)
        assert len(list(default.iterdir())) == 1
        batch.process.kill()
        assert wait_until(lambda: not [*temp_root.iterdir(), *default.iterdir()])
    default.rmdir()


@pytest.mark.slow
def test_an_entry_is_swept_once_nobody_holds_it(temp_root: Path, tmp_path: Path) -> None:
    default = Path(os.environ["TMPDIR"]) / f"collector-{os.geteuid()}"
    body = TWO_GATED.replace("for job", "print(os.getppid(), flush=True)\nfor job", 1)
    with a_batch(temp_root, tmp_path / "here", body) as batch:
        batch.runs(2)
        assert reclaim([default]).live == 1
        assert [run.path for run in list_runs([default])] == [os.fspath(batch.run)]
        pid = batch.process.pid
        everybody = [pid, *(process.pid for process in descendants(pid))]
        for pid in everybody:  # the sink too: then nobody is left who could remove it
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: reclaim([default, temp_root]).live == 0)
    assert [*temp_root.iterdir(), *default.iterdir()] == []
    default.rmdir()


def test_whoever_makes_an_entry_sweeps_the_entries_of_the_dead(temp_root: Path) -> None:
    """A program with a `temp_root` leaves one each time it is killed with all its processes."""
    default = Path(os.environ["TMPDIR"]) / f"collector-{os.geteuid()}"
    for _ in range(2):
        make_orphan(default)
    with Collector(1, temp_root=temp_root) as collector:
        assert collector.submit(square, 3).result() == 9
        assert wait_until(lambda: len(names(default)) == 1)
        assert [run.state for run in list_runs([default])] == ["live"]
    assert names(default) == []
    default.rmdir()


@contextmanager
def looked_at(collector: Collector) -> Iterator[list[Statistics]]:
    """Ask for statistics all the time, in a thread between whose steps others run."""
    seen = [collector.statistics()]
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.append(collector.statistics())

    thread = threading.Thread(target=look)
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(before_s)


class TestStatistics:
    def test_it_counts_what_waits_runs_and_is_done(self, tmp_path: Path) -> None:
        gate = os.fspath(tmp_path / "gate")
        with Collector(1) as collector:
            nothing = collector.statistics()
            assert nothing == Statistics(
                waiting=0, running=(), done=0, failed=0, total=0, bytes=0, memory_bytes=0
            )
            job = collector.with_options(name="it").submit(gated, gate, b"12345", b"67")
            others = [collector.submit(square, number) for number in range(5)]
            assert collector.statistics().total == 6
            assert wait_until(lambda: collector.statistics().bytes == 5)
            now = collector.statistics()
            assert (now.waiting, now.done, now.failed, now.memory_bytes) == (5, 0, 0, 5)
            (running,) = now.running
            assert (running.id, running.name, running.attempt) == (job.id, "it", 1)
            assert (running.bytes, running.mode) == (5, Mode.MEMORY)
            assert running.seconds > 0
            assert others[4].cancel()
            assert wait_until(lambda: collector.statistics().waiting == 4)
            Path(gate).touch()
            assert [other.result() for other in others[:4]] == [0, 1, 4, 9]
            after = collector.submit(fail, ValueError("no"))
            assert isinstance(after.exception(), ValueError)
            now = collector.statistics()
            assert (now.waiting, now.running, now.done, now.failed) == (0, (), 6, 1)
            assert (now.total, now.bytes, now.memory_bytes) == (6, 7, 7)
            job.output().close()
            assert wait_until(lambda: collector.statistics().memory_bytes == 0)
        assert collector.statistics().done == 6

    def test_a_running_collect_says_how_many_jobs_there_will_be(self, tmp_path: Path) -> None:
        with Collector(2, progress=False) as collector:
            jobs = collector.collect(square, range(100))
            next(jobs)
            assert collector.statistics().total == 100
            unknown = collector.collect(square, iter(range(3)))
            assert collector.statistics().total is None
            assert len(list(unknown)) == 3
            del unknown
            assert collector.statistics().total == 103
            assert len(list(jobs)) == 99
            now = collector.statistics()
            assert (now.done, now.total) == (103, 103)

    def test_what_an_earlier_run_of_the_batch_has_done_counts_as_done(self, tmp_path: Path) -> None:
        for inputs in (5, 8):
            with Collector(1, progress=False) as collector:
                for job in collector.collect(square, range(inputs), batch=tmp_path / "batch"):
                    assert job.exception() is None
                now = collector.statistics()
                assert (now.done, now.failed, now.total, now.waiting) == (inputs, 0, inputs, 0)

    @pytest.mark.parametrize("kept", everyday_are([True], of=[False, True]))
    def test_the_total_is_the_same_at_every_moment(self, tmp_path: Path, *, kept: bool) -> None:
        """An input is still to come until the instant at which its job has a number."""
        batch, inputs, earlier = (tmp_path / "batch" if kept else None), 300, 100
        with Collector(1, progress=False) as collector:
            if kept:  # these are done when they come
                list(collector.collect(square, range(earlier), batch=batch))
        with Collector(1, progress=False) as collector, looked_at(collector) as seen:
            list(collector.collect(square, range(inputs), batch=batch))
        assert {now.total for now in seen} == {0, inputs}  # before it begins, and from then on
        assert all(now.done + now.waiting + len(now.running) <= inputs for now in seen)


@each_method
def test_without_asking_there_is_neither_socket_nor_thread(method: str, temp_root: Path) -> None:
    with Collector(1, method, temp_root=temp_root, ask=False) as collector:
        assert collector.submit(square, 3).result() == 9
        assert "ask" not in os.listdir(run_directory(collector))
        assert not _answering_threads()
        assert top() == []
    with Collector(1, method, temp_root=temp_root) as collector:
        assert collector.submit(square, 3).result() == 9
        assert not _answering_threads()
        assert len(top()) == 1
        assert wait_until(lambda: not _answering_threads())  # until somebody asks again
        assert len(top()) == 1
    assert not _answering_threads()


def test_ask_is_true_or_false() -> None:
    with pytest.raises(TypeError, match="ask must be True or False, not 1"):
        Collector(ask=1)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_job_that_runs_again_is_told_to_its_follower(temp_root: Path, tmp_path: Path) -> None:
    body = """
job = collector.with_options(retries=1).submit(dies_once, f"{here}/die", f"{here}/go")
print(job.result(), flush=True)
"""
    with a_batch(temp_root, tmp_path / "here", body) as batch:
        batch.runs(1)
        line = [sys.executable, "-m", "collector", "follow", batch.run.name, "1"]
        pipe = subprocess.PIPE
        with subprocess.Popen(line, cwd=REPOSITORY, stdout=pipe, stderr=pipe) as follower:
            assert follower.stdout is not None
            assert follower.stdout.read(9) == b"attempt 1"  # else it could come too late for that
            batch.let_go("die")
            rest, why = follower.communicate()
        assert (follower.returncode, rest) == (1, b"")
        assert b"attempt 1 failed, and the job runs again" in why
        batch.let_go("go")
        assert batch.hear() == "2"
        assert batch.end() == 0


def _answering_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "collector-answer"]


def test_the_rate_of_a_run_is_over_the_time_between_its_own_answers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = {"run": "run-a", "pid": 1, "batch": None, "done": 0, "failed": 0, "total": None}
    said |= {"memory_bytes": 0, "running": []}
    earlier = Heard({"a": said | {"bytes": 1024}}, {"a": 10.0})
    print_runs(earlier, Heard({"a": said | {"bytes": 9 * 1024}}, {"a": 14.0}))
    assert " 2.0 KiB/s " in capsys.readouterr().out


def test_it_is_told_when_each_answer_came() -> None:
    with Collector(1) as collector:
        assert collector.submit(square, 3).result() == 9
        run, came_s = os.fspath(run_directory(collector)), dict[str, float]()
        before_s = time.monotonic()
        ask_all([run, "/nowhere"], Question("top"), came_s)
        assert list(came_s) == [run]
        assert before_s <= came_s[run] <= time.monotonic()
