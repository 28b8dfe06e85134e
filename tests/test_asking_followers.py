"""Who follows jobs and does not keep up: what it costs, what it misses, and what it is told."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from array import array
from pathlib import Path
from typing import Any

import pytest

from collector import Collector, settings
from tests.support.asking import a_batch, command, connect, heard_by_us, program
from tests.support.askingjobs import gated, one_by_one
from tests.support.inside import run_directory
from tests.support.leaks import wait_until
from tests.support.rundirs import REPOSITORY

pytestmark = pytest.mark.usefixtures("one_server")


def held() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_more_jobs_that_run_than_news_may_wait_are_all_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ASKING_NEWS", 2)
    gate = os.fspath(tmp_path / "go")
    with Collector(3, progress=False) as collector:
        jobs = [collector.submit(gated, gate, b"first ", b"last\n") for _ in range(3)]
        assert wait_until(lambda: len(collector.statistics().running) == 3)
        run, told = run_directory(collector), []
        follower = threading.Thread(target=lambda: told.append(command("follow", run.name)))
        follower.start()
        try:
            assert wait_until(lambda: len(list(run.glob("*.spill"))) == 3 or told)
        finally:
            Path(gate).touch()
        assert [job.exception() for job in jobs] == [None, None, None]
    follower.join()
    ((status, printed, complained),) = told
    assert sorted(printed.splitlines()) == [b"gated-%d\tfirst last" % n for n in (1, 2, 3)]
    assert (status, complained) == (0, b"")


@pytest.mark.slow
def test_of_a_follower_that_does_not_read_few_files_are_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "ASKING_NEWS", 8)
    monkeypatch.setattr(settings, "ASKING_DEADLINE_S", 1000.0)
    with Collector(1, progress=False) as collector:
        assert collector.submit(one_by_one, 0).result() == 0
        with connect(run_directory(collector)) as deaf:
            deaf.sendall(b'{"kind": "follow"}\n')
            assert wait_until(lambda: "collector-answer" in map(_name, threading.enumerate()))
            before = held()
            # Some hundreds of lines find room in the socket.
            jobs = [collector.submit(one_by_one, number) for number in range(200)]
            for job in jobs:
                job.output().close()
            assert wait_until(lambda: held() < before + 8)


def _name(thread: threading.Thread) -> str:
    return thread.name


TOP: dict[str, Any] = {
    "run": "run-1",
    "pid": 1,
    "done": 0,
    "failed": 0,
    "bytes": 0,
    "memory_bytes": 0,
    "running": [],
}


def tell(asking: socket.socket, fd: int | None = None, **what: Any) -> None:
    rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))]
    asking.sendmsg([json.dumps(what).encode() + b"\n"], rights)


def test_a_follower_hears_all_while_nobody_reads_what_it_prints() -> None:
    with (
        Collector(1, ask=False, progress=False) as collector,
        heard_by_us(collector) as (run, end),
        tempfile.TemporaryFile() as file,
    ):
        file.write(written := os.urandom(1 << 20))
        file.flush()
        line = [sys.executable, "-m", "collector", "follow", run, "1"]
        with subprocess.Popen(line, cwd=REPOSITORY, stdout=subprocess.PIPE) as follower:
            with end.accept()[0] as asking:
                asking.settimeout(30.0)
                asking.recv(4096)
                tell(asking, job=1, name="n")
                tell(asking, file.fileno(), job=1, file=True, bytes=0)
                for size in range(0, len(written), 512):
                    tell(asking, job=1, bytes=size)
                tell(asking, job=1, bytes=len(written), ended=True, error=None)
            assert follower.communicate()[0] == written
            assert follower.returncode == 0


@pytest.mark.parametrize("words", [["1"], []], ids=["one", "all"])
@pytest.mark.parametrize("ended", [False, True], ids=["begun", "over"])
@pytest.mark.parametrize("goes_on", [False, True], ids=["gone", "there"])
def test_a_follower_says_why_the_end_is_missing(
    words: list[str], *, ended: bool, goes_on: bool
) -> None:
    told = []
    with Collector(1, ask=False, progress=False) as collector, heard_by_us(collector) as (run, end):
        follower = threading.Thread(target=lambda: told.append(command("follow", run, *words)))
        follower.start()
        with end.accept()[0] as asking:
            asking.recv(4096)
            tell(asking, job=1, name="n")
            if ended:
                tell(asking, job=1, bytes=0, ended=True, error=None)
            if not goes_on:
                end.close()
        if goes_on and not (ended and words):
            with end.accept()[0] as asking:  # whether it does so
                asking.recv(4096)
                tell(asking, **TOP)
        follower.join()
    ((status, _, complained),) = told
    if ended and words:
        assert (status, complained) == (0, b"")
        return
    why = b"the run has ended, and job n with it"
    if goes_on:
        why = b"the run goes on, but more came of it than was read in time: the rest is missing"
    elif ended:
        why = b"the run has ended without saying so: what came last may be missing"
    assert (status, complained) == (1, b"collector: " + why + b"\n")


@pytest.mark.slow
def test_one_who_follows_all_waits_for_jobs_and_says_that_their_run_was_killed(
    temp_root: Path, tmp_path: Path
) -> None:
    body = 'collector.submit(one_by_one, 1).result()\nprint("ran", flush=True)\nwait_for("x")'
    with a_batch(temp_root, tmp_path / "here", body) as batch:
        assert batch.hear() == "ran"
        run, told = batch.run.name, []
        threads = f"/proc/{batch.process.pid}/task"
        silent = len(os.listdir(threads))
        follower = threading.Thread(target=lambda: told.append(program("follow", run)))
        follower.start()
        assert wait_until(lambda: len(os.listdir(threads)) > silent)  # it is heard
        assert not wait_until(lambda: told, 2 * settings.ASKING_PATIENCE_S)  # nothing runs
        batch.process.send_signal(signal.SIGKILL)
        follower.join()
    assert (told[0].returncode, told[0].stderr) == (
        1,
        b"collector: the run has ended without saying so: what came last may be missing\n",
    )
