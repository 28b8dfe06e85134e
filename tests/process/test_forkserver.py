"""The forkserver, by itself."""

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from collector.process.start import context
from collector.process.start.forkserver import ForkServer
from collector.process.start.launcher import Life
from tests.support.dying_server import role


def test_a_child_runs_once_also_if_its_server_dies_before_it_can_tell_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent asks a new server then, for the same descriptors: two sinks would share them."""
    mark = tmp_path / "server-has-died"
    monkeypatch.setenv("DYING_SERVER_MARK", os.fspath(mark))  # for the server, not for us
    server = ForkServer(preload=(role.__module__,), spare=())
    read, write = os.pipe()
    try:
        child = server.start(role, [write], b"!", [])
        os.close(write)
        with open(read, "rb") as said:
            assert said.read() == b"!"  # to the end of the last child
        assert mark.exists()
        assert child.dead(60)
        child.reap()
        child.close()
    finally:
        server.close()


def reads_and_ends(descriptors: Sequence[int], _arguments: bytes) -> None:
    """A role."""
    os.write(descriptors[1], b"!")
    os.read(descriptors[0], 1)
    os._exit(7)


@pytest.mark.slow
def test_a_server_that_has_no_turn_for_a_while_tells_of_an_end_all_the_same() -> None:
    """On a machine with ten times as much to do as it can, a crash was one without a reason."""
    server = ForkServer(preload=(), spare=())
    read, write = os.pipe()
    begun, begins = os.pipe()
    try:
        child = server.start(reads_and_ends, [read, begins], b"", [])
        os.close(read)
        assert os.read(begun, 1) == b"!"
        os.close(begins)
        os.close(begun)
        assert server._server is not None
        os.kill(server._server.pid, signal.SIGSTOP)
        os.close(write)
        assert child.dead(60)
        turn = threading.Timer(2, os.kill, (server._server.pid, signal.SIGCONT))
        turn.start()
        assert child.reap() == 7
        turn.join()
        child.close()
    finally:
        server.close()


def test_what_tells_of_the_life_of_a_process_closes_nothing_of_others_once_it_is_closed() -> None:
    """A forked child closes the descriptors of each pool that it knows, also of one that ends."""
    life = Life()
    (fd,) = life.descriptors()
    life.close()
    other = os.open(os.devnull, os.O_RDONLY)
    try:
        assert other == fd  # the number is taken again
        assert life.descriptors() == []
        life.close()
        os.fstat(other)
    finally:
        os.close(other)


def test_a_child_by_fork_begins_also_where_a_descriptor_that_is_not_for_it_is_closed_already() -> (
    None
):
    closed, end = os.pipe()
    os.close(closed)
    pid = os.fork()
    if not pid:
        try:
            context._run(lambda *_told: os._exit(7), [], b"", [closed, end])
        finally:
            os._exit(1)
    os.close(end)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
