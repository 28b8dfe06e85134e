"""The processes of a Collector, found from inside, and of a script, found from outside."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
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


def kill_at_once(tree: Callable[[], Iterable[int]]) -> None:
    """End several processes, none of which lives to see the death of another.

    They are stopped first, and looked for until there are no new ones: a process that another was
    about to start is one of them.
    """
    stopped: set[int] = set()
    while new := set(tree()) - stopped:
        for pid in new:
            os.kill(pid, signal.SIGSTOP)
            assert wait_until(partial(_stands_still, pid))
        stopped |= new
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)


def _stands_still(pid: int) -> bool:
    """Whether each of its threads has stopped, or ended."""
    return thread_states(pid) <= set("TtZX")


def thread_states(pid: int) -> set[str]:
    """The states that its threads are in, as `/proc` calls them."""
    states: set[str] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            states.add(path.read_text().rpartition(")")[2].split()[0])
    return states


@final
class Script:
    """A script that runs in a process tree which can be told from all others."""

    def __init__(self, process: "subprocess.Popen[str]", token: str) -> None:
        self.process = process
        self._token = f"{_TOKEN}={token}".encode()
        self._seen: set[int] = set()

    def hear(self) -> str:
        """Wait for the next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        self.tree()
        return line

    def tree(self) -> list[int]:
        """Every live process of the tree, the script itself included."""
        pids = map(int, filter(str.isdigit, os.listdir("/proc")))
        found = [pid for pid in pids if self._has(pid)]
        self._seen.update(found)
        return found

    def _has(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            environment = b""
        # One that is about to end has no environment any more, and its descriptors and locks still.
        ours = self._token in environment if environment else pid in self._seen
        return ours and is_running(pid)

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
            with suppress(ProcessLookupError):  # it was quicker
                os.kill(pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def supervisor_held_up(collector: Collector) -> Iterator[None]:
    """Within this block the parent hears of nothing and starts nothing."""
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go_on.wait()

    collector._core.pool._supervisor.note(hold)
    held.wait()
    try:
        yield
    finally:
        go_on.set()


@contextmanager
def stopped(pid: int | None) -> Iterator[None]:
    """Within this block the process stands still."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
