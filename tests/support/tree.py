"""The processes of a Collector, found from inside, and of a script, found from outside."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

from collector import Collector
from tests.support.leaks import is_running, wait_until

ROOT: Final = Path(__file__).parents[2]
_TOKEN: Final = "COLLECTOR_TEST_TREE"


def worker_pids(collector: Collector) -> list[int]:
    """The workers that are there now."""
    return [w.child.pid for w in list(collector._core.pool._supervisor._workers.values())]


def sink_pid(collector: Collector) -> int | None:
    """The sink that is there now."""
    sink = collector._core.pool._supervisor._sink
    return None if sink is None else sink.child.pid


def server_pid(collector: Collector) -> int | None:
    """The forkserver that is there now."""
    launcher = collector._core.pool._supervisor._crew.launcher
    server = getattr(launcher, "_server", None)
    return None if server is None else int(server.pid)


def kill(pid: int | None) -> None:
    """End a process as nothing else does."""
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


@final
class Script:
    """A script that runs in a process tree which can be told from all others."""

    def __init__(self, process: "subprocess.Popen[str]", token: str) -> None:
        self.process = process
        self._token = f"{_TOKEN}={token}".encode()

    def hear(self) -> str:
        """Wait for the next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tree(self) -> list[int]:
        """Every live process of the tree, the script itself included."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._has(pid)]

    def _has(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return self._token in environment and is_running(pid)

    def gone(self) -> bool:
        """Wait until nothing of the tree is left."""
        return wait_until(lambda: not self.tree(), 20)


@contextmanager
def script(source: str, *arguments: str) -> Iterator[Script]:
    """Run a script; in the end nothing of its tree is left, however the test ended."""
    token = os.urandom(8).hex()
    process = subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT), _TOKEN: token},
        stdout=subprocess.PIPE,
        text=True,
    )
    running = Script(process, token)
    try:
        yield running
    finally:
        for pid in running.tree():
            os.kill(pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
