"""Collect what a program left as zombies that replaced itself by this one (`os.exec*`).

The process stays the same one, so the children of the former program are its own, and the kernel
keeps a dead one until its parent asks for the status. A program that uses collector again knows
them by their names, and because they were there before it had started any. So a program that
replaces itself again and again has the zombies of one former program at most. Any other program
keeps them until it ends, or asks.

Runs in:    the parent.
Owns:       the zombies of the former program's Collectors.
Source:     wait(2), execve(2); proc_pid_task_tid_children(5).
"""

import os
from typing import Final, final

from collector.process.start.child import NAMES

_SHOWN_BYTES: Final = 15
"""So much of a name the kernel keeps."""

_OURS: Final = {name[:_SHOWN_BYTES] for name in NAMES}


@final
class _Former:
    """The children that were there before this program had started any."""

    def __init__(self) -> None:
        self.pids: set[int] | None = None


_former: Final = _Former()


def collect_former() -> None:
    """Collect those that have died; first called before the first process is started."""
    if _former.pids is None:
        _former.pids = _children_with_our_names()
    for pid in list(_former.pids):
        try:
            collected = os.waitpid(pid, os.WNOHANG)[0]
        except ChildProcessError:  # the program collects all, or this is a forked child
            collected = pid
        if collected:
            _former.pids.discard(pid)


def _children_with_our_names() -> set[int]:
    # After an exec there was one thread, whose children they all are.
    children = _text(f"/proc/self/task/{os.getpid()}/children").split()
    return {int(pid) for pid in children if _text(f"/proc/{pid}/comm").rstrip("\n") in _OURS}


def _text(path: str) -> str:
    """Return what stands in a file of `/proc`; nothing if there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
