"""How many CPUs this process may use: by its affinity, and by the quotas of its control groups.

Runs in:    the parent.
Owns:       nothing.
Source:     Linux, Documentation/admin-guide/cgroup-v2.rst ("cpu.max") and
            Documentation/scheduler/sched-bwc.rst ("cpu.cfs_quota_us").
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from collector.process.control_groups import groups

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
    for unified, directory in _groups(proc):
        quota = _text(directory / "cpu.max") if unified else _quota_of_v1(directory)
        words = quota.split()
        if len(words) == 2 and all(map(_is_count, words)) and int(words[1]):  # noqa: PLR2004
            yield -(-int(words[0]) // int(words[1]))


def _quota_of_v1(directory: Path) -> str:
    return f"{_text(directory / 'cpu.cfs_quota_us')} {_text(directory / 'cpu.cfs_period_us')}"


def _is_count(word: str) -> bool:
    """Whether it is a number, and not `max` or the -1 of no quota."""
    return word.isascii() and word.isdecimal() and len(word) <= _LONGEST


def _groups(proc: Path) -> Iterator[tuple[bool, Path]]:
    """Yield the directories of our groups and of those around them; whether it is of version 2."""
    for unified, mount, below in groups("cpu", _text(proc / "cgroup"), _text(proc / "mountinfo")):
        for depth in range(len(below) + 1):
            yield unified, Path(mount, *below[:depth])


def _text(path: Path) -> str:
    """Return what stands in a file; nothing if it cannot be read."""
    try:
        return path.read_text("utf-8", "surrogateescape")
    except OSError:
        return ""
