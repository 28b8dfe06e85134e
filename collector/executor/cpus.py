"""How many CPUs this process may use: by its affinity, and by the quotas of its control groups.

Runs in:    the parent.
Owns:       nothing.
Source:     Linux, Documentation/admin-guide/cgroup-v2.rst ("cpu.max") and
            Documentation/scheduler/sched-bwc.rst ("cpu.cfs_quota_us"); proc_pid_mountinfo(5).
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

_V2: Final = "cgroup2"
_V1: Final = "cgroup"
_LONGEST: Final = 20
"""Digits of the longest number that the kernel writes."""


def usable_cpus(proc: Path = Path("/proc/self")) -> int:
    """Return how many CPUs this process may keep busy, at least 1.

    Args:
        proc: The directory of this process in `/proc`.
    """
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    known: int = getattr(os, "process_cpu_count", lambda: cpus)() or cpus
    if known != cpus:  # -X cpu_count, PYTHON_CPU_COUNT: Python 3.13
        return known
    return max(1, min([cpus, *_quotas(proc)]))


def _quotas(proc: Path) -> Iterator[int]:
    """Yield the quota of each control group that this process is in, in CPUs, rounded up."""
    for kind, directory in _groups(proc):
        quota = _lines(directory / "cpu.max") if kind == _V2 else _quota_of_v1(directory)
        words = " ".join(quota).split()
        if len(words) == 2 and all(map(_is_count, words)) and int(words[1]):  # noqa: PLR2004
            yield -(-int(words[0]) // int(words[1]))


def _quota_of_v1(directory: Path) -> list[str]:
    return [*_lines(directory / "cpu.cfs_quota_us"), *_lines(directory / "cpu.cfs_period_us")]


def _is_count(word: str) -> bool:
    """Whether it is a number, and not `max` or the -1 of no quota."""
    return word.isascii() and word.isdecimal() and len(word) <= _LONGEST


def _groups(proc: Path) -> Iterator[tuple[str, Path]]:
    """Yield the directories of our group and of those around it, as far as they can be seen here.

    Where there is a mount of a part of the tree (a container's), groups are told from its root.
    """
    paths = dict(_paths(proc))
    for kind, root, mount in _mounts(proc):
        path = paths.get(kind)
        if path is None or ".." in path.parts or not path.is_relative_to(root):
            continue  # it cannot be seen from here
        below = path.relative_to(root)
        yield kind, mount
        for number in range(len(below.parts)):
            yield kind, mount.joinpath(*below.parts[: number + 1])


def _paths(proc: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield the path of our group in each tree that can have quotas of CPUs."""
    for line in _lines(proc / "cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield _V2, PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            yield _V1, PurePosixPath(path)


def _mounts(proc: Path) -> Iterator[tuple[str, PurePosixPath, Path]]:
    """Yield where those trees are mounted: the kind, the part of the tree, and the directory."""
    for line in _lines(proc / "mountinfo"):
        before, _, after = line.partition(" - ")
        where, what = before.split(" "), after.split(" ")
        if len(where) < 5 or len(what) < 3:  # noqa: PLR2004
            continue
        kind, options = what[0], what[2].split(",")
        if kind == _V2 or (kind == _V1 and "cpu" in options):
            yield kind, PurePosixPath(_unescaped(where[3])), Path(_unescaped(where[4]))


def _unescaped(name: str) -> str:
    """Undo what the kernel does to blanks in names."""
    for code, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        name = name.replace(f"\\{code}", character)
    return name


def _lines(path: Path) -> list[str]:
    """Return the lines of a file; none if it cannot be read."""
    try:
        return path.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []
