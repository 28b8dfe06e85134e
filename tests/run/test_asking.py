"""`collector top`, `follow` and `kill` while `collector run` runs, on a path of 200 characters."""

import contextlib
import csv
import functools
import io
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.agreeing import compare, make_gates
from tests.support.asking import command, program, top
from tests.support.leaks import wait_until
from tests.support.running import QUIET, RUN

STEP = (
    "n={}; [ $COLLECTOR_ATTEMPT = 1 ] && [ $((n % 17)) = 5 -o $((n % 10)) = 3 ] && exit 1; "
    "printf 0123456789; : < go-$n; printf end; [ $((n % 10)) != 3 ]"
)
FLOOD = "printf 0123456789; : < go-{}; head -c $((32 << 20)) /dev/urandom"


@contextlib.contextmanager
def running(here: Path, *words: str) -> Iterator["tuple[subprocess.Popen[bytes], Path]"]:
    """Start it with a batch directory; yield it with its run directory once two jobs run."""
    batch = here / ("x" * 100) / ("y" * 100)
    batch.parent.mkdir(parents=True)
    process = subprocess.Popen(
        [*RUN, *QUIET, "-j2", "-o", batch, *words],
        cwd=here,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    with process:
        try:
            assert wait_until(lambda: [len(run["running"]) for run in top()] == [2])
            (run,) = (batch / "shard-0" / "run").glob("run-*")
            assert len(os.fspath(run)) > 200
            assert top()[0]["batch"] == os.fspath(batch)
            yield process, run
        finally:
            process.kill()


@pytest.mark.parametrize(
    "jobs",
    [pytest.param(60, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.campaign)],
)
def test_top_agrees_with_the_events_of_the_batch_at_every_moment(jobs: int, tmp_path: Path) -> None:
    make_gates(tmp_path, jobs)
    inputs = map(str, range(1, jobs + 1))
    words = ["--attempts", "2", "--events", "events", STEP, ":::", *inputs]
    with running(tmp_path, *words) as (process, run):
        compare(run, tmp_path / "events", tmp_path, jobs)
        assert process.wait() == jobs // 10


def test_what_top_says_is_of_jobs_and_not_of_attempts(tmp_path: Path) -> None:
    for name in "abcd":
        os.mkfifo(tmp_path / f"go-{name}")
    script = "[ $COLLECTOR_ATTEMPT = 1 ] && exit 1; : < go-{}"
    with running(tmp_path, "--attempts", "2", script, ":::", *"abcd") as (process, run):
        assert wait_until(lambda: [job["attempt"] for job in top()[0]["running"]] == [2, 2])
        (said,) = top()
        assert (said["done"], said["failed"], said["total"]) == (0, 0, 4)
        jobs = [job["job"] for job in said["running"]]
        assert set(jobs) < {1, 2, 3, 4}
        killed = program("kill", run.name, str(jobs[0]))
        assert killed.stdout.startswith(b"job %d (" % jobs[0])
        assert wait_until(lambda: top()[0]["failed"] == 1)
        assert jobs[0] not in [job["job"] for job in top()[0]["running"]]
        left = [name for number, name in enumerate("abcd", 1) if number != jobs[0]]
        with ThreadPoolExecutor() as threads:  # second attempts run in any order
            threads.map(lambda name: (tmp_path / f"go-{name}").open("wb").close(), left)
        assert process.wait() == 1


def test_a_killed_job_is_not_run_again(tmp_path: Path) -> None:
    for name in "ab":
        os.mkfifo(tmp_path / f"go-{name}")
    script = "echo {} >> ran; : < go-{}"
    with running(tmp_path, "--attempts", "3", script, ":::", *"ab") as (process, run):
        assert program("kill", run.name, "1").returncode == 0
        assert wait_until(lambda: top()[0]["failed"] == 1)
        (tmp_path / "go-b").open("wb").close()
        assert process.wait() == 1
    assert sorted((tmp_path / "ran").read_text().split()) == ["a", "b"]


LATER = "echo {} >> ran; [ {} = 3 ] && exit 75; : < go-{}"


@pytest.mark.parametrize(
    ("script", "ran"),
    [
        pytest.param("echo {} >> ran; : < go-{}", ["1", "2"], id="not-begun"),
        pytest.param(LATER, ["1", "2", "3"], id="to-be-run-later"),
    ],
)
def test_a_job_that_is_killed_while_it_waits_has_failed_in_each_report(
    tmp_path: Path, script: str, ran: list[str]
) -> None:
    for name in "123":
        os.mkfifo(tmp_path / f"go-{name}")
    inputs = list("312" if script is LATER else "123")
    words = ["--later", "9999", "--events", "events", script, ":::", *inputs]
    with running(tmp_path, *words) as (process, run):
        assert wait_until(lambda: len((tmp_path / "ran").read_text().split()) == len(ran))
        number = inputs.index("3") + 1
        assert wait_until(lambda: number not in [job["job"] for job in top()[0]["running"]])
        assert program("kill", run.name, f"{number}").returncode == 0
        assert wait_until(lambda: top()[0]["failed"] == 1)
        for name in "12":
            (tmp_path / f"go-{name}").open("wb").close()
        assert process.wait() == 1
    assert sorted((tmp_path / "ran").read_text().split()) == ran
    events = map(json.loads, (tmp_path / "events").read_text().splitlines())
    ends = {event["job"]: event for event in events if event["event"] == "ended"}
    assert (ends[number]["status"], ends[number]["why"]) == ("failed", "killed while it waited")
    batch = run.parents[2]
    status = json.loads(program("status", batch, "--json").stdout)
    assert (status["done"], status["failed"], status["waiting"]) == (2, 1, 0)
    rows = csv.DictReader(io.StringIO(program("report", batch, "--csv", "-").stdout.decode()))
    assert sorted(row["result"] for row in rows) == ["done", "done", "killed"]


def test_a_job_that_waits_for_its_turn_or_its_next_attempt_can_be_killed(tmp_path: Path) -> None:
    script = "echo {} >> ran; exit 1"
    words = ["-j1", "--attempts", "3", "--delay", "9999", "--events", "events", script, ":::"]
    line = [*RUN, *QUIET, "-o", "B", *words, "a", "b"]
    with subprocess.Popen(line, cwd=tmp_path, stdin=subprocess.DEVNULL) as process:
        try:
            # The first one waits for its next attempt, the second one for its first.
            for job in "12":
                assert wait_until(functools.partial(held, tmp_path / "B", job))
                assert program("kill", tmp_path / "B", job).returncode == 0
            assert process.wait() == 2
        finally:
            process.kill()
    assert (tmp_path / "ran").read_text() == "a\n"
    events = map(json.loads, (tmp_path / "events").read_text().splitlines())
    ends = [(event["job"], event["why"]) for event in events if event["event"] == "ended"]
    assert ends == [
        (1, "exit status 1"),
        (1, "killed while it waited"),
        (2, "killed while it waited"),
    ]


def held(batch: Path, job: str) -> bool:
    """Tell whether a job waits to be submitted."""
    return b"waits to be run: follow it when it runs" in program("follow", batch, job).stderr


@pytest.mark.slow
def test_the_number_of_a_job_that_has_ended_is_not_taken_for_the_name_of_another(
    tmp_path: Path,
) -> None:
    for name in ("2", "x", "y"):
        os.mkfifo(tmp_path / f"go-{name}")
    with running(tmp_path, "# the inputs are the names\n: < go-{}", ":::", *"2xy") as (
        process,
        run,
    ):
        (tmp_path / "go-x").open("wb").close()
        assert wait_until(lambda: [said["done"] for said in top()] == [1])
        for asked in ("kill", "follow"):
            told = program(asked, run.name, "2")
            assert (told.returncode, told.stdout) == (1, b""), told
            assert b"the one of that name has the number 1" in told.stderr, told
        for name in ("2", "y"):
            (tmp_path / f"go-{name}").open("wb").close()
        assert process.wait() == 0


@pytest.mark.slow
def test_a_directory_that_is_called_as_another_run_begins_is_for_nobody_to_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "go-a")
    with running(tmp_path / "one", "-j2", ": < ../go-{}", ":::", "a", "a") as (first, run):
        name = run.name.removeprefix("run-")[:8]
        line = [*RUN, *QUIET, "-o", name, ": < go-{}", ":::", "a"]
        with subprocess.Popen(line, cwd=tmp_path, stdin=subprocess.DEVNULL) as second:
            assert wait_until(lambda: sorted(len(said["running"]) for said in top()) == [1, 2])
            monkeypatch.chdir(tmp_path)
            status, _, said = command("kill", name, "1")
            killed = command("kill", os.path.join(".", name), "1")
            second.send_signal(signal.SIGTERM if killed[0] else 0)
            assert second.wait() == 1
            assert (status, said.count(b"several runs are meant")) == (1, 1)
        assert wait_until(lambda: [len(said["running"]) for said in top()] == [2])
        first.kill()


@pytest.mark.slow
def test_a_followed_job_is_exact_from_its_first_byte_and_a_killed_one_ends_alone(
    tmp_path: Path,
) -> None:
    for name in "abc":
        os.mkfifo(tmp_path / f"go-{name}")
    script = f"case {{}} in a) printf 0123456789; : < go-a; printf end;; *) {FLOOD};; esac"
    with running(tmp_path, script, ":::", *"abc") as (process, run):
        found: dict[str, subprocess.CompletedProcess[bytes]] = {}

        def follow(where: str, job: str) -> None:
            found[job] = program("follow", where, job)

        batch = os.fspath(run.parents[2])
        readers = [
            threading.Thread(target=follow, args=told) for told in ((run.name, "1"), (batch, "2"))
        ]
        for reader in readers:
            reader.start()
        assert wait_until(lambda: len(list(run.glob("*.spill"))) == 2)  # they are followed
        (tmp_path / "go-b").open("wb").close()
        readers[1].join()
        assert wait_until(lambda: 3 in [job["job"] for job in top()[0]["running"]])
        assert readers[0].is_alive()
        assert program("kill", run.name, "3").returncode == 0
        assert wait_until(lambda: top()[0]["failed"] == 1)
        assert [job["job"] for job in top()[0]["running"]] == [1]
        (tmp_path / "go-a").open("wb").close()
        readers[0].join()
        assert process.wait() == 1
    assert (found["1"].returncode, found["1"].stdout, found["1"].stderr) == (
        0,
        b"0123456789end",
        b"",
    )
    assert (found["2"].returncode, found["2"].stderr) == (0, b"")
    kept = program("cat", batch, "b").stdout
    assert len(kept) == 10 + (32 << 20)
    assert found["2"].stdout == kept
