"""Place events between two steps of a run directory, and act on it from other processes.

Runs in:    the process of pytest; `a_process` starts others.
"""

import contextlib
import fcntl
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, final

import pytest

from collector.store.rundir import kernel, root
from collector.store.rundir.claim import made_here
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.reclaim import list_runs, reclaim

NOBODY: Final = 65534
REPOSITORY: Final = Path(__file__).parents[2]

needs_root: Final = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: mounts, or what belongs to another user"
)

PRELUDE: Final = """
import os, signal, sys, time
from pathlib import Path
from collector.store.rundir import cleanup
from collector.store.rundir import kernel
from collector.store.rundir import reclaim
from collector.store.rundir import directory as rundir
from collector.store.rundir import claim
from collector.store.rundir import scratch as scratch_directories
from collector.store.rundir.directory import RunDirectory, process_run_directory

def make_scratch(path):
    fd, name = os.open(path, os.O_RDONLY), f"scratch-{os.urandom(8).hex()}"
    scratch_directories.make_scratch_in(fd, name)
    os.close(fd)
    return Path(path, name)

def say(*words):  # not by print: a signal's handler may say something in the midst of another word
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def wait():
    return sys.stdin.readline()

def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)

def after(name, action, nth=1):
    real, calls = getattr(kernel, name), []
    def hooked(*args, **kwargs):
        result = real(*args, **kwargs)
        calls.append(name)
        if len(calls) == nth:
            action()
        return result
    setattr(kernel, name, hooked)
"""


@final
class Point:
    """A synchronisation point: one call of one function of `kernel`, and what happens there."""

    def __init__(self) -> None:
        self.fired = 0
        self.calls = 0
        self.busy = False


def place(
    patch: pytest.MonkeyPatch,
    name: str,
    *,
    before: Callable[[], object] | None = None,
    after: Callable[[], object] | None = None,
    nth: int = 1,
    matching: str = "",
) -> Point:
    """Do something right before or after the nth call of `kernel.<name>`.

    Calls that the action makes itself do not count. With `matching`, only calls count whose first
    argument contains that text.
    """
    real: Callable[..., Any] = getattr(kernel, name)
    point = Point()

    def hooked(*args: Any, **kwargs: Any) -> Any:
        if point.busy or (matching and matching not in str(args[0])):
            return real(*args, **kwargs)
        point.calls += 1
        if point.calls != nth:
            return real(*args, **kwargs)
        point.fired += 1
        with _busy(point):
            if before is not None:
                before()
            result = real(*args, **kwargs)
            if after is not None:
                after()
        return result

    patch.setattr(kernel, name, hooked)
    return point


@contextlib.contextmanager
def _busy(point: Point) -> Iterator[None]:
    point.busy = True
    try:
        yield
    finally:
        point.busy = False


@final
class Other:
    """Another process, which talks by lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def hear(self) -> str:
        """Wait for the next line that it says; empty when it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def tell(self, line: str = "") -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Wait for its end; its exit status as of `subprocess`."""
        return self.process.wait()

    def kill(self, number: int) -> int:
        """Send it a signal and wait for its end."""
        self.process.send_signal(number)
        return self.end()


@contextlib.contextmanager
def a_process(
    code: str,
    *arguments: str | os.PathLike[str],
    wrapper: tuple[str, ...] = (),
    **environment: str,
) -> Iterator[Other]:
    """Run Python code, after PRELUDE, in another process; killed at the end if it still runs."""
    process = subprocess.Popen(
        [*wrapper, sys.executable, "-c", PRELUDE + code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(environment),
    )
    with process:
        try:
            yield Other(process)
        finally:
            process.kill()


BECOME: Final = """
import filelock, json, tempfile
import collector.cli.program
def become(user):  # an interpreter below /root is out of reach for others: all was imported above
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
"""


def run_code(
    code: str,
    *arguments: str | os.PathLike[str],
    wrapper: tuple[str, ...] = (),
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run Python code, after PRELUDE, in another process to its end."""
    return subprocess.run(
        [*wrapper, sys.executable, "-c", PRELUDE + code, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=_environment(environment),
    )


def _environment(more: dict[str, str]) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.fspath(REPOSITORY)} | more


def names(root: str | os.PathLike[str]) -> list[str]:
    """List what lies in a root, sorted."""
    return sorted(os.listdir(root))


def make_orphan(root: Path, files: int = 1, size: int = 10) -> Path:
    """Make what a killed process leaves: a run directory that nobody holds."""
    root.mkdir(mode=0o700, exist_ok=True)
    run = root / f"run-{os.urandom(8).hex()}"
    run.mkdir(mode=0o700)
    (run / "lock").touch(mode=0o600)
    (run / "owner.json").write_text('{"pid": 4194304, "command": "gone"}')
    for number in range(files):
        (run / f"out-{number:016x}.spill").write_bytes(b"x" * size)
    return run


def is_held(directory: RunDirectory | Path) -> bool:
    """Whether a sweep would leave the directory alone."""
    path = directory.path if isinstance(directory, RunDirectory) else directory
    states = {run.path: run.state for run in list_runs([path.parent])}
    return states[os.fspath(path)] == "live"


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """Mount a fresh tmpfs at `place`; needs root."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    with unmounting(place):
        yield place


@contextlib.contextmanager
def bound(place: Path, source: Path) -> Iterator[Path]:
    """Mount the directory `source` at `place` too; needs root."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", source, place], check=True)
    with unmounting(place):
        yield place


@contextlib.contextmanager
def unmounting(place: Path) -> Iterator[None]:
    """Unmount what is mounted at `place`, wherever that has been moved to by then."""
    fd = os.open(place, os.O_PATH)
    try:
        yield
    finally:
        moved = os.readlink(f"/proc/self/fd/{fd}")
        os.close(fd)
        subprocess.run(["umount", moved], check=True)


@contextlib.contextmanager
def immutable(path: Path) -> Iterator[None]:
    """Set the immutable flag (needs root); taken off the inode, wherever that is by then."""
    get_flags, set_flags, immutable_flag = 0x80086601, 0x40086602, 0x10  # linux/fs.h
    fd = os.open(path, os.O_RDONLY)
    try:
        before = fcntl.ioctl(fd, get_flags, bytes(8))
        flags = int.from_bytes(before, sys.byteorder) | immutable_flag
        fcntl.ioctl(fd, set_flags, flags.to_bytes(8, sys.byteorder))
    except OSError as error:
        os.close(fd)
        pytest.skip(f"no immutable flag to be had here: {error.strerror}")
    try:
        yield
    finally:
        fcntl.ioctl(fd, set_flags, before)
        os.close(fd)


def advise_anew(*known: tuple[str, int]) -> None:
    """Forget what was said of roots, but what is `known`: kind of advice, device."""
    root._advised.clear()
    root._advised.update(known)


def let_go(run: RunDirectory) -> None:
    """Give its locks back and leave all that is in it, as the death of its owner does."""
    run._lease.drop()
    made_here.discard(run.path.name)


def gone(temp_root: Path) -> bool:
    """Whether one sweep leaves nothing."""
    report = reclaim([temp_root])
    return not report.failures and names(temp_root) == []


@contextlib.contextmanager
def working_in(path: Path) -> Iterator[None]:
    """Within this block, that is the working directory."""
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path)
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def mode(path: Path) -> int:
    """The permissions of a file itself, no link followed."""
    return stat.S_IMODE(path.lstat().st_mode)


def run_script(script: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a script to its good end, without a word of complaint."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done
