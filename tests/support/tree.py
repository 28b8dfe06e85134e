"""The processes of a script, found from outside, and what can be done to a process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, final

from tests.support.leaks import is_running, wait_until

ROOT: Final = Path(__file__).parents[2]
_TOKEN: Final = "COLLECTOR_TEST_TREE"
_CLONES: Final = {"56", "58", "220", "435"}
"""clone, vfork and clone3 of x86-64, clone of arm64 (clone3 has one number everywhere)."""


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
            with suppress(ProcessLookupError):  # it has ended since it was looked for
                os.kill(pid, signal.SIGSTOP)
            assert wait_until(partial(_stands_still, pid))
        stopped |= new
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _stands_still(pid: int) -> bool:
    """Whether each of its threads has stopped, or ended, or can do nothing before a child goes on.

    That is so in vfork(2), until the child has begun its program; the child is one of the tree.
    """
    states = thread_states(pid)
    return states <= set("TtZX") or (states <= set("TtZXD") and _waits_in_vfork(pid))


def _waits_in_vfork(pid: int) -> bool:
    with suppress(OSError):  # it has ended meanwhile
        for thread in Path(f"/proc/{pid}/task").iterdir():
            if " D " in (thread / "stat").read_text().rpartition(")")[2][:4]:
                return (thread / "syscall").read_text().split()[0] in _CLONES
    return False


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
def stopped(pid: int | None) -> Iterator[None]:
    """Within this block the process stands still."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def assert_runs(source: str, *arguments: str) -> list[str]:
    """Run a script to its good end, with nothing left of its tree; return what it printed."""
    with script(source, *arguments) as running:
        assert running.process.stdout is not None
        printed = running.process.stdout.read()
        assert running.process.wait() == 0, printed
        assert running.gone()
        return printed.splitlines()


def waits_for_a_pipe(pid: int) -> bool:
    """Whether the main thread is in read(2) of a pipe and has slept there for a while."""
    return Path(f"/proc/{pid}/wchan").read_text() in ("pipe_read", "anon_pipe_read") or (
        Path(f"/proc/{pid}/syscall").read_text().split()[0] == "0"
    )
