"""Whether the kernel has killed a process for its memory: the count of our control group.

Runs in:    the supervising thread of the parent.
Owns:       nothing; the files are opened for a look, and closed at once.
"""

import math
import re
import time
from collections import deque
from typing import Final, final

from collector import settings
from collector.process.control_groups import groups

OUT_OF_MEMORY: Final = (
    "was killed by SIGKILL (signal 9) for its memory: the kernel has counted that in the control "
    "group (oom_kill)"
)
_COUNT: Final = re.compile(r"^oom_kill ([0-9]+)$", re.MULTILINE)
_CGROUPS: Final = "/proc/self/cgroup"
_MOUNTS: Final = "/proc/self/mountinfo"
_MOST_SEEN: Final = 1000


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
        self._look_again_s = -math.inf
        self._seen_s: deque[float] = deque(maxlen=_MOST_SEEN)

    def look(self, now_s: float) -> None:
        """See what it has killed since the last look, for that may be no worker: once a second.

        1. it kills the child of a job, 2. somebody kills a worker by hand, an hour later.
        """
        if now_s >= self._look_again_s:
            self._look_again_s = now_s + settings.OOM_LOOK_PAUSE_S
            count = self._count()
            self._seen_s.extend([now_s] * min(count - self._known, _MOST_SEEN))
            self._known = count

    def has_killed(self) -> bool:
        """Whether the kernel has just killed more processes than this has returned True for."""
        now_s = time.monotonic()
        self._look_again_s = now_s
        self.look(now_s)
        while self._seen_s:
            if self._seen_s.popleft() >= now_s - settings.OOM_KILL_S:
                return True
        return False

    def _count(self) -> int:
        return sum(int(found[1]) for found in map(_COUNT.search, map(_text, self._files)) if found)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
