"""End a process group, but for the resource trackers in it: they clean up what it leaves.

A job that makes shared memory or a named semaphore of `multiprocessing` has that library start a
tracker, a process that unlinks what is left once the last process that could have used it is dead.
The tracker is in the job's group, also where a program that the job runs has started it.

Runs in:    parent, forkserver, sink and worker: whoever ends a worker.
Owns:       nothing.
Invariants: I1  no process of the group lives on that is no tracker.
            I2  the leader is killed last: if it died with a stopped process in its group, the
                kernel would send SIGHUP to all of it, and that ends a tracker.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Final

_TRACKER: Final = b"resource_tracker import main"
"""In the command line of a tracker: of multiprocessing, multiprocess, loky."""

_EXEC_S: Final = 0.01
_LOOKS: Final = 100
"""A process in the midst of `exec` is looked at so many times, with a pause in between."""


def end_process(pid: int) -> None:
    """Kill a process and its group, also where it does not lead one yet; it may be dead already."""
    end_group(pid)
    _kill(os.kill, pid, signal.SIGKILL)


def end_group(group: int) -> None:
    """Kill all processes of a group that are no resource trackers; it may be gone already."""
    if not any(map(is_tracker, _members(group))):
        _kill(os.killpg, group, signal.SIGKILL)
        return
    _stop(group)
    own, trackers, killed = os.getpid(), set[int](), set[int]()
    # A fork that was under way ends all the same: its child is there, stopped, a little later. One
    # whose process has got SIGKILL does not.
    while found := _members(group) - trackers - killed:
        others = {pid for pid in found if not is_tracker(pid)}
        for pid in found - others:
            _kill(os.kill, pid, signal.SIGCONT)
        trackers |= found - others
        for pid in others - {group, own} or others - {own} or others:
            _kill(os.kill, pid, signal.SIGKILL)
            killed.add(pid)


def _stop(group: int) -> None:
    """Stop a group all at once, so that none forks another child; our own but for ourselves."""
    if group != os.getpgrp():
        _kill(os.killpg, group, signal.SIGSTOP)
        return
    stopped = {os.getpid()}
    while found := _members(group) - stopped:
        for pid in found:
            _kill(os.kill, pid, signal.SIGSTOP)
        stopped |= found


def end_further(begun: int) -> None:
    """Kill what the job of a worker has begun, as its worker has noted it.

    Args:
        begun: A process group. Or, of one that was about to be started, the negated inode number of
            a pipe that only its processes write to: once the worker is dead, they are all found.
            Or 0 for none.
    """
    if begun > 0:
        end_group(begun)
    for _ in range(_LOOKS if begun < 0 else 0):
        groups = {_group_of(pid) for pid in _holders(-begun)} - {None, os.getpgrp()}
        if not groups:
            return
        for group in filter(None, groups):
            end_group(group)
        time.sleep(_EXEC_S)  # what was killed goes in a moment


def _members(group: int) -> set[int]:
    """Return the processes of a group."""
    return {pid for pid in _processes() if _group_of(pid) == group}


def _processes() -> list[int]:
    """Return all processes; none where there is no `/proc` to look at."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:  # it has ended
        return None


def _holders(pipe: int) -> set[int]:
    """Return the processes that hold an end of a pipe, as far as we may look at them."""
    return {pid for pid in _processes() if _holds(pid, pipe)}


def _holds(pid: int, pipe: int) -> bool:
    descriptors = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):  # it has ended, or is not ours to look at
        for fd in os.listdir(descriptors):
            with contextlib.suppress(OSError):  # it is closed by now
                if os.readlink(f"{descriptors}/{fd}") == f"pipe:[{pipe}]":
                    return True
    return False


def is_tracker(pid: int) -> bool:
    """Whether a process is a resource tracker, which ends by itself; not if it is dead."""
    words = _command(pid).split(b"\0")
    return any(word.startswith(b"from ") and _TRACKER in word for word in words)


def _command(pid: int) -> bytes:
    """Return its command line, each word with a NUL behind it; empty if it is dead."""
    for _ in range(_LOOKS):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                command = file.read()
            if command:
                return command
            os.readlink(f"/proc/{pid}/exe")
        except OSError:
            break
        time.sleep(_EXEC_S)  # it is alive without a command line: in the midst of `exec`
    return b""


def _kill(how: Callable[[int, int], None], pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        how(pid, number)
