"""A Ray of a Collector's own: how it is told to be, and that neither process nor file stays.

Runs in:    the pump, which starts it; the pump, its guardian and the parent see to its end.
Owns:       all processes that have our mark in their environment or write to files of that Ray: its
            servers, its workers, and what jobs have started there, in whatever group or session.
            Its files lie in a run directory, so a sweep finds them if nobody is left to remove
            them.
Invariants: I1  no process of another Ray, of this user or another, is touched.
            I2  others cannot enter the directory above its files: Ray lets everybody write there.
"""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

from collector import settings
from collector.integrations.ray import installed
from collector.process.process_group import is_tracker
from collector.process.start.launcher import open_pidfd
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.reclaim import start_sweep

_MARK: Final = "COLLECTOR_RAY"
"""Names the directory of a Ray of ours."""
_UNSET: Final = ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH")
_PAUSE_S: Final = 0.01
_FILES: Final = "r"
"""Begins the name of its directory in the run directory; short, as all of that path must be."""
_numbers: Final = itertools.count(1)


class Place:
    """Where a Ray has its files: in a run directory whose path is short enough.

    No two have the same place: the guardian of one that is gone may still look for what is left.

    Args:
        run_directory: That of the Collector; another one is made if its path is too long.

    Raises:
        RunDirectoryError: None can be made.
    """

    def __init__(self, run_directory: str) -> None:
        self._apart: RunDirectory | None = None
        name = f"{_FILES}{next(_numbers)}"
        self.path = os.path.join(run_directory, name)
        if len(os.fsencode(self.path)) > settings.RAY_TEMP_PATH_BYTES:
            root = f"/tmp/coll-{os.geteuid()}"  # noqa: S108 - it is judged before it is used
            self._apart = RunDirectory.create(root)
            start_sweep(self._apart.path.parent)
            self.path = os.path.join(self._apart.path, name)

    def remove(self) -> None:
        """Remove the files; nothing of that Ray runs."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._apart is not None:
            self._apart.dispose()


def environment(token: str, directory: str) -> dict[str, str]:
    """Return what is set in the environment of a process that starts a Ray, and so of all of it.

    Ray would start workers ahead of the first task, for jobs that may never come.
    """
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        _MARK: directory,
        "RAY_prestart_worker_first_driver": "0",
    }


def set_environment(token: str, directory: str) -> None:
    """Set that in this process."""
    for name in _UNSET:
        os.environ.pop(name, None)
    os.environ.update(environment(token, directory))


def options(
    asked: Mapping[str, Any], workers: int, store_bytes: int, directory: str
) -> dict[str, Any]:
    """Return how it is started: with room for as many jobs as there are workers.

    Args:
        asked: What each job asks for.
        workers: How many jobs there may be at once.
        store_bytes: Size of its object store.
        directory: Where it has its files.
    """
    many = max(1, workers)
    own = asked.get("resources", {})
    return {
        "address": "local",
        "num_cpus": max(1, round(many * installed.cpus_of(asked) + 0.499)),
        "resources": {name: amount * many for name, amount in own.items()},
        "include_dashboard": False,
        "object_store_memory": store_bytes,
        "_temp_dir": directory,
        "_node_ip_address": "127.0.0.1",
    }


def end_remains(directory: str) -> None:
    """Kill what is left of the Ray with its files there, but this process; then none of it runs.

    A Ray that loses the process that had started it ends its servers; its workers find out after
    some seconds, or never where something adopts them, and what jobs have started does not.
    """
    deadline = time.monotonic() + settings.STOP_DEADLINE_S
    while _kill_all(directory) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)


def hold(directory: str) -> RunDirectory | None:
    """Hold the run directory that a Ray has its files in, as long as that is there.

    Whoever else removes it at the parent's death leaves it to us.
    """
    with contextlib.suppress(OSError):
        return RunDirectory.join(os.path.dirname(directory))
    return None


class Guardian:
    """Does that when the process is dead that has it, in a process of its own, and ends.

    The processes of that Ray are none to rely on: each of them ends when the server does, and so
    may be gone before it has ended the others. It holds the run directory meanwhile: a sweep would
    rename that, and some of these processes are known by the paths of their files only.

    Args:
        directory: Where that Ray has its files. It is started later, and this process has no other
            thread yet.

    Raises:
        OSError: No process or descriptor is to be had.
    """

    def __init__(self, directory: str) -> None:
        self._life, theirs = socket.socketpair()
        try:
            pid = os.fork()
        except OSError:
            self._life.close()
            theirs.close()
            raise
        if not pid:
            _guard(theirs.fileno(), directory)
        self._pid = pid
        theirs.close()
        self._life.recv(1)  # it holds the run directory by now

    def dismiss(self) -> None:
        """End it: there is nothing to be done, or we have done it."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._life.close()


def _guard(watched: int, directory: str) -> NoReturn:
    """In the process that was forked: wait for the end of the other one, and do it."""
    try:
        os.setsid()  # whoever ends the other one ends its group
        nothing = os.open(os.devnull, os.O_WRONLY)
        for number, fd in enumerate((watched, nothing, nothing)):
            os.dup2(fd, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # what is open here is the other one's
        place = hold(directory)
        os.write(0, b"0")
        os.read(0, 1)
        end_remains(directory)
        if place is not None:
            place.dispose()
    finally:
        os._exit(0)


def _kill_all(directory: str) -> int:
    """Kill all processes of that Ray, but resource trackers; return how many there were."""
    return sum(_kill_if_there(pid, directory) for pid in _others())


def _others() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            yield int(name)


def _kill_if_there(pid: int, directory: str) -> bool:
    try:
        if not _belongs(pid, directory):
            return False
        process = open_pidfd(pid)
        if process is None:  # it is dead by now, or this kernel has none
            os.kill(pid, signal.SIGKILL)
            return True
        try:
            if not _belongs(pid, directory) or is_tracker(pid):  # its number may be another's now
                return False
            signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)
    except OSError:  # it is dead, or not ours
        return False
    return True


def _belongs(pid: int, directory: str) -> bool:
    """Whether it has the mark, or writes to a file there: some of Ray's write over the former."""
    with open(f"/proc/{pid}/environ", "rb") as file:
        if os.fsencode(f"{_MARK}={directory}") in file.read().split(b"\0"):
            return True
    with os.scandir(f"/proc/{pid}/fd") as descriptors:
        return any(_writes_below(entry, directory) for entry in descriptors)


def _writes_below(descriptor: "os.DirEntry[str]", directory: str) -> bool:
    try:
        writes = descriptor.stat(follow_symlinks=False).st_mode & stat.S_IWUSR
        return bool(writes) and os.readlink(descriptor.path).startswith(f"{directory}/")
    except FileNotFoundError:  # it is closed by now
        return False
