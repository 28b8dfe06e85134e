"""Count what lies in a directory of ours, at any depth, without changing anything.

So it walks down and back up. `removal` does not share that walk: it moves deeper directories up,
and so needs no way back.

Runs in:    whoever lists or sweeps run directories.
Invariants: I1  no link is followed, and no other file system is entered.
            I2  two descriptors are enough for any depth: the way back up is "..", checked.
"""

import os
import stat
from collections.abc import Callable

from collector.store.rundir import kernel
from collector.store.rundir.locks import close_private, open_private

Tick = Callable[[], None]
"""Called once for each entry counted or removed: to draw a bar, or to rest a little."""


class Contents:
    """What lies in a directory.

    Attributes:
        files: Number of entries that are not directories.
        bytes: Sum of the sizes of the regular files that have no other name elsewhere.
    """

    __slots__ = ("bytes", "files")

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0

    def add(self, status: os.stat_result) -> None:
        """Count one entry that is no directory."""
        self.files += 1
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            self.bytes += status.st_size


def nothing() -> None:
    """Do nothing: the tick of work that nobody watches."""


def count_contents(
    fd: int, *, spared: frozenset[str] = frozenset(), tick: Tick = nothing
) -> Contents:
    """Count what lies in the directory `fd` and below; never raises.

    What vanishes meanwhile or cannot be read is not counted.

    Args:
        fd: Descriptor of the directory; stays open.
        spared: Names of files in the directory itself that do not count.
        tick: Called once for each file counted.
    """
    walk = _Walk(fd, tick)
    try:
        walk.count(spared)
        while walk.next_directory():
            walk.count(frozenset())
    except OSError:
        return walk.contents  # the way back is gone, or no descriptor is left: the best there is
    finally:
        walk.close()
    return walk.contents


class _Walk:
    """A walk through a tree that holds the descriptor of one directory below its top at a time."""

    def __init__(self, top: int, tick: Tick) -> None:
        self.contents = Contents()
        self._tick = tick
        self._top = top
        self._here = top
        self._trail = [kernel.fstat(top)]  # the directories from the top to here
        self._waiting: list[list[str]] = [[]]  # for each of them, those in it still to enter

    def next_directory(self) -> bool:
        """Enter the next directory in depth-first order; False after the last one."""
        while True:
            while self._waiting[-1]:
                try:
                    if self._descend(self._waiting[-1].pop()):
                        return True
                except OSError:
                    continue  # gone, or closed to us: not counted
            if len(self._trail) == 1:
                return False
            self._ascend()

    def count(self, spared: frozenset[str]) -> None:
        """Count the files here and note the directories."""
        try:
            with kernel.scandir(self._here) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        self._waiting[-1].append(entry.name)
                    elif entry.name not in spared:
                        self._count_file(entry)
        except OSError:
            return  # closed to us, or no descriptor left: not counted

    def close(self) -> None:
        """Let go of the descriptor, unless it is the top one."""
        if self._here != self._top:
            close_private(self._here)
            self._here = self._top

    def _descend(self, name: str) -> bool:
        """Enter a directory; False if it lies on another file system."""
        deeper = open_private(name, dir_fd=self._here)
        status = kernel.fstat(deeper)
        if status.st_dev != self._trail[0].st_dev:
            close_private(deeper)
            return False
        self.close()
        self._here = deeper
        self._trail.append(status)
        self._waiting.append([])
        return True

    def _ascend(self) -> None:
        above = open_private("..", dir_fd=self._here)
        self.close()
        self._here = above
        self._trail.pop()
        self._waiting.pop()
        if not os.path.samestat(kernel.fstat(above), self._trail[-1]):
            raise NotADirectoryError  # it was moved while we were in it

    def _count_file(self, entry: "os.DirEntry[str]") -> None:
        try:
            self.contents.add(entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            return
        self._tick()
