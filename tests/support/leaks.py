"""What a test may not leave behind: descriptors, threads, processes, files, signal handlers.

Runs in:    the process of pytest. It adopts the orphans of its tests (`adopt_orphans`): a process
            that outlives its parent is seen and ended here, whatever its group or session.
Owns:       nothing; a `Snapshot` only looks.
Invariants: I1  only descendants of this process are ever reaped or killed, each by its pid.
"""

import ctypes
import gc
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

PATIENCE_S: Final = 10.0
"""How long processes and threads that are on their way out may take, on a loaded machine."""

WAIT_S: Final = 60.0
"""How long anything may take that is waited for: only a test that fails takes so long."""

_PR_SET_CHILD_SUBREAPER: Final = 36
_CLONE_NEWNS: Final = 0x20000
_MS_REC: Final = 0x4000
_MS_SLAVE: Final = 0x80000
_SIGNALS: Final = [(f"handler of {number.name}", number) for number in signal.Signals]
shared_by_tests: Final[set[int]] = set()
"""Children of this process that several tests use; what is below them is no test's own."""

_SHARED_MEMORY: Final = Path("/dev/shm")
_OURS_IN_SHARED_MEMORY: Final = re.compile(r"sem\.|psm_|mp-|pymp-|.*collector")
_LEFT_DIRECTORY: Final = re.compile(r"(run|trash|scratch|pymp)-")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """One process as `/proc` tells it; pid and start time together name it for good."""

    pid: int
    parent: int
    state: str
    threads: int
    started: int

    @property
    def has_ended(self) -> bool:
        """Whether it is a zombie, all of it.

        The first thread of a killed process is one while others still hold descriptors and locks.
        """
        return self.state in "ZX" and self.threads <= 1

    def __str__(self) -> str:
        command = _read(f"/proc/{self.pid}/cmdline").replace(b"\0", b" ").decode(errors="replace")
        return f"{self.pid} ({self.state}) {command or _read(f'/proc/{self.pid}/comm').decode()}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What this process holds at one moment."""

    descriptors: Counter[str]
    threads: frozenset[threading.Thread]
    processes: frozenset[tuple[int, int]]
    handlers: dict[str, object]
    shared_memory: frozenset[str]
    files: frozenset[str]

    @classmethod
    def take(cls, temp: Path) -> "Snapshot":
        """Look at this process, at its descendants, and at the files below `temp`."""
        return cls(
            descriptors=_descriptors(),
            threads=frozenset(threading.enumerate()),
            processes=frozenset((process.pid, process.started) for process in descendants()),
            handlers=_handlers(),
            shared_memory=_shared_memory(),
            files=frozenset(_left_below(temp)),
        )

    def leaks(self, temp: Path) -> list[str]:
        """Tell what is here now and was not then, one line each; empty if nothing is.

        Zombies that came to us as orphans are reaped on the way: their parent is dead.
        """
        new = [p for p in descendants() if (p.pid, p.started) not in self.processes]
        found = [f"process {process}" for process in new if not _reap_if_adopted(process)]
        now = _descriptors()
        found += [f"descriptor {name}" for name in (now - self.descriptors).elements()]
        found += [f"thread {t!r}" for t in threading.enumerate() if t not in self.threads]
        found += [f"shared memory {name}" for name in _shared_memory() - self.shared_memory]
        found += [f"file {name}" for name in _left_below(temp) if name not in self.files]
        found += [
            f"{name}: {self.handlers.get(name)!r} became {handler!r}"
            for name, handler in _handlers().items()
            if handler != self.handlers.get(name)
        ]
        return found


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies (Linux: a child subreaper)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl(PR_SET_CHILD_SUBREAPER)")


def live_apart() -> None:
    """Take a mount namespace with a `/dev/shm` of its own, where we may (root).

    Without it the semaphores of any other program would look like leaks. A mount that a test leaves
    goes with the namespace.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        return  # only root may: what other programs of this user make there is seen
    for source, target, kind, flags, options in (
        (b"none", b"/", None, _MS_REC | _MS_SLAVE, None),
        (b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"mode=1777"),
    ):
        if libc.mount(source, target, kind, ctypes.c_ulong(flags), options) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), f"mount({target!r})")


def is_running(pid: int) -> bool:
    """Whether the process lives; a zombie does not, however long nobody waits for it."""
    process = _process(pid)
    return process is not None and not process.has_ended


def wait_until(condition: Callable[[], object], timeout: float = WAIT_S) -> bool:
    """Look again and again until `condition` holds; False if it has not after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.1)
    return True


def settle(before: Snapshot, temp: Path, timeout: float = PATIENCE_S) -> list[str]:
    """Give what is on its way out time to go, then tell what stayed."""
    if not before.leaks(temp):
        return []

    def clean() -> bool:
        gc.collect()
        return not before.leaks(temp)

    return [] if wait_until(clean, timeout) else before.leaks(temp)


def end_processes(before: Snapshot) -> None:
    """Kill and reap the descendants that were not there `before`: the next test starts clean."""

    def gone() -> bool:
        new = [p for p in descendants() if (p.pid, p.started) not in before.processes]
        for process in new:
            if process.has_ended and process.parent == os.getpid():
                _reap(process.pid)
            elif not process.has_ended:
                _kill(process.pid)
        return not new

    wait_until(gone)


def descendants(root: int | None = None) -> list[ProcessInfo]:
    """Every living or unreaped process below `root` (this process unless told otherwise)."""
    children: dict[int, list[ProcessInfo]] = {}
    for process in _strangers.others():
        children.setdefault(process.parent, []).append(process)
    found: list[ProcessInfo] = []
    waiting = [os.getpid() if root is None else root]
    while waiting:
        below = [p for p in children.get(waiting.pop(), []) if p.pid not in shared_by_tests]
        found += below
        waiting += [process.pid for process in below]
    return found


class _Strangers:
    """Processes that are not below this one, nor ever will be: each is read once.

    There may be a hundred of them on the machine, and three looks at each for every test take a
    tenth of the time of all tests.
    """

    def __init__(self) -> None:
        self._known: dict[int, int] = {}
        """With the inode in `/proc`, which the next process of that number does not have."""

    def others(self) -> list[ProcessInfo]:
        """Read all processes that are no strangers, so far as it is known."""
        with os.scandir("/proc") as listed:  # which has the inodes: no need to ask for each
            inodes = {int(at.name): at.inode() for at in listed if at.name.isdecimal()}
        self._known = {pid: at for pid, at in self._known.items() if inodes.get(pid) == at}
        read = [_process(pid) for pid in inodes.keys() - self._known.keys()]
        found = {process.pid: process for process in read if process is not None}
        for pid in found:
            if self._is_stranger(pid, found):
                self._known[pid] = inodes[pid]
        return list(found.values())

    def _is_stranger(self, pid: int, found: dict[int, ProcessInfo]) -> bool:
        """Whether its parents lead past this process; not if one has gone meanwhile."""
        while pid and pid not in self._known:
            if pid == os.getpid() or pid not in found:
                return False
            pid = found[pid].parent
        return True


_strangers: Final = _Strangers()


def _reap_if_adopted(process: ProcessInfo) -> bool:
    """Reap a new zombie, unless its `Process` object still waits for it; tell whether it is gone.

    An adopted orphan and a child of `os.fork` look alike; a zombie that a `Process` object was made
    for is our own, and leaving it unjoined is a leak, so it stays and is reported.
    """
    if not process.has_ended or process.parent != os.getpid():
        return False
    if process.pid in {child.pid for child in _started_by_us()}:
        return False
    _reap(process.pid)
    return True


def _started_by_us() -> Iterator["_HasPid"]:
    for package in ("multiprocess", "multiprocessing"):
        module = sys.modules.get(f"{package}.process")
        yield from list(getattr(module, "_children", ()))


class _HasPid:
    pid: int | None


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # somebody else in this process was quicker


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it went by itself


def _process(pid: int) -> ProcessInfo | None:
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if not fields:
        return None
    return ProcessInfo(
        pid=pid,
        parent=int(fields[1]),
        state=fields[0].decode(),
        threads=int(fields[17]),
        started=int(fields[19]),
    )


def _read(path: str) -> bytes:
    """The content of a small file of `/proc`; empty if the process is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return b""
    try:
        return os.read(fd, 4096)
    except ProcessLookupError:
        return b""
    finally:
        os.close(fd)


def _descriptors() -> Counter[str]:
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            found[os.readlink(f"/proc/self/fd/{name}")] += 1
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return found


def _handlers() -> dict[str, object]:
    found: dict[str, object] = {name: signal.getsignal(number) for name, number in _SIGNALS}
    return found | {"blocked signals": signal.pthread_sigmask(signal.SIG_BLOCK, [])}


def _shared_memory() -> frozenset[str]:
    """Names in /dev/shm that multiprocess or collector could have made."""
    if not _SHARED_MEMORY.is_dir():
        return frozenset()
    return frozenset(
        name for name in os.listdir(_SHARED_MEMORY) if _OURS_IN_SHARED_MEMORY.match(name)
    )


def _left_below(temp: Path) -> Iterator[str]:
    """Every file below `temp`, and every directory that has the name of something temporary."""
    for parent, directories, files in os.walk(temp):
        yield from (os.path.join(parent, name) for name in files)
        yield from (
            os.path.join(parent, name) for name in directories if _LEFT_DIRECTORY.match(name)
        )
