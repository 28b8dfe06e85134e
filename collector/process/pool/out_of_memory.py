"""Whether the kernel has killed a process for its memory: the count of our control group.

Runs in:    the supervising thread of the parent.
Owns:       nothing; the files are opened when a worker was killed, and closed at once.
"""

import re
from typing import Final, final

from collector.process.control_groups import groups

OUT_OF_MEMORY: Final = (
    "was killed by SIGKILL (signal 9) for its memory: the kernel has counted that in the control "
    "group (oom_kill)"
)
_COUNT: Final = re.compile(r"^oom_kill ([0-9]+)$", re.MULTILINE)
_CGROUPS: Final = "/proc/self/cgroup"
_MOUNTS: Final = "/proc/self/mountinfo"


def count_files(cgroups: str, mounts: str) -> list[str]:
    """Return where the kernel counts what it has killed in our control group. Pure.

    Args:
        cgroups: The text of /proc/self/cgroup.
        mounts: The text of /proc/self/mountinfo.
    """
    return [
        str(mount.joinpath(*below, "memory.events" if unified else "memory.oom_control"))
        for unified, mount, below in groups("memory", cgroups, mounts)
    ]


@final
class OomKills:
    """Counts what the kernel has killed for its memory in our control group, and below it.

    A control group of version 1 counts only what is in it, not what is below.
    """

    def __init__(self) -> None:
        self._files = count_files(_text(_CGROUPS), _text(_MOUNTS))
        self._known = self._count()

    def has_killed(self) -> bool:
        """Whether the kernel has killed more processes than this has returned True for."""
        if self._count() <= self._known:
            return False
        self._known += 1
        return True

    def _count(self) -> int:
        return sum(int(found[1]) for found in map(_COUNT.search, map(_text, self._files)) if found)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
