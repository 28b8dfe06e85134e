"""Who follows jobs and does not keep up: what it costs, what it misses, and what it is told."""

import os
import threading
from pathlib import Path

import pytest

from collector import Collector, settings
from tests.support.asking import command, connect
from tests.support.askingjobs import gated, one_by_one
from tests.support.inside import run_directory
from tests.support.leaks import wait_until

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
