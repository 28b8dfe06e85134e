"""The forkserver, by itself."""

import os
from pathlib import Path

import pytest

from collector.process.start.forkserver import ForkServer
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
