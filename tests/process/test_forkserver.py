"""The forkserver, by itself."""

import os
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
