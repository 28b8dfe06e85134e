"""The forkserver that many tests share: who has it, and that it hides nothing."""

import os

import pytest

from collector import Collector
from collector.process.start.forkserver import ForkServer
from collector.process.start.methods import launcher_for
from tests.support.inside import server_pid, worker_pids
from tests.support.jobs import METHODS
from tests.support.leaks import is_running, wait_until
from tests.support.one_server import OneServer
from tests.support.tree import kill


@pytest.mark.usefixtures("one_server")
def test_collectors_share_it_and_their_workers_end_with_them(
    server_of_all: OneServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in ("1", "2"):
        monkeypatch.setenv("NUMBER", number)
        with Collector(max_workers=1) as collector:
            assert collector.submit(os.getenv, "NUMBER").result() == number
            assert (
                collector.submit(os.getppid).result() == server_pid(collector) == server_of_all.pid
            )
            (worker,) = worker_pids(collector)
        assert wait_until(lambda pid=worker: not is_running(pid))  # type: ignore[misc]
    assert is_running(server_of_all.pid)


@pytest.mark.usefixtures("one_server")
def test_a_test_that_looks_at_its_stdout_has_a_server_of_its_own(
    server_of_all: OneServer, capfd: pytest.CaptureFixture[str]
) -> None:
    with Collector(max_workers=1) as collector:
        collector.submit(os.system, "echo seen").result()
        assert server_pid(collector) not in (None, server_of_all.pid)
    assert capfd.readouterr().out == "seen\n"


def test_one_that_was_killed_is_replaced_before_the_next_test() -> None:
    own = launcher_for(METHODS[0])
    assert isinstance(own, ForkServer)
    server = OneServer(own)
    first = server.pid
    kill(first)
    assert wait_until(lambda: not is_running(first))
    server.prepare()
    assert server.pid != first
    assert is_running(server.pid)
    server.end()
