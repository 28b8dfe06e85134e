"""Write and read the file by which a run directory names another one, which lies elsewhere.

Runs in:    a Collector with a `temp_root`; whoever lists run directories.
Invariants: I1  any content is tolerated: missing, a link, huge, no path. What it names is judged as
                any run directory is.
"""

import os
from typing import Final

from collector.store.rundir import kernel
from collector.store.rundir.locks import close_private, open_private
from collector.store.rundir.owner import read_small

ELSEWHERE_NAME: Final = "elsewhere"
"""Name of the file in which the path stands."""

_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW


def write_elsewhere(directory_fd: int, path: str) -> None:
    """Have the entry name this run directory.

    Raises:
        OSError: as `os.open` and `os.write`.
    """
    aside = f"{ELSEWHERE_NAME}.new"
    fd = open_private(aside, _FLAGS, dir_fd=directory_fd)
    try:
        kernel.write(fd, os.fsencode(path))
    finally:
        close_private(fd)
    kernel.rename(aside, ELSEWHERE_NAME, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)


def read_elsewhere(directory_fd: int) -> str:
    """Return the path that the entry names; empty if it is none, or names nothing. Never raises."""
    try:
        path = os.fsdecode(read_small(ELSEWHERE_NAME, directory_fd))
    except OSError:
        return ""
    return path if os.path.isabs(path) and "\0" not in path else ""
