"""What the figures were made on."""

import os
import platform
import sys
from pathlib import Path
from typing import Final

_SUPER_BLOCKS: Final = Path("/proc/self/mountinfo")


def facts(directory: str) -> dict[str, str]:
    """Return what to know of a machine, and of the disk that `directory` is on."""
    load = os.getloadavg()[0]
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} usable cores",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "file system": _file_system(directory),
        "python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "load before": f"{load:.1f}",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(directory: str) -> str:
    """Return the type of the file system that has the longest mount point above `directory`."""
    path = os.path.realpath(directory)
    found, kind = "", "unknown"
    for line in _SUPER_BLOCKS.read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4]
        if len(point) >= len(found) and (path + "/").startswith(point.rstrip("/") + "/"):
            found, kind = point, after.split()[0]
    return kind
