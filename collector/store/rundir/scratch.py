"""Make and remove the scratch directories of jobs: places of their own inside a run directory.

Runs in:    workers, which hold no lease, and whoever removes what a dead worker has left.
Owns:       nothing: the run directory that holds them goes with all that is in it.
"""

import contextlib
import os
import re
import stat
from typing import Final

from collector.store.absolute import absolute_path
from collector.store.rundir import kernel
from collector.store.rundir.locks import close_private, open_private
from collector.store.rundir.removal import remove_directory
from collector.store.rundir.root import PathName

SCRATCH_NAME: Final = re.compile(r"scratch-[0-9a-f]{16}", re.ASCII)


def scratch_name(prefix: str, ticket: int) -> str:
    """Return the name of the scratch directory of an attempt.

    Args:
        prefix: `scratch-` and the eight hexadecimal digits of its worker.
        ticket: Number of the attempt.
    """
    return f"{prefix}{ticket & 0xFFFFFFFF:08x}"


def make_scratch_in(run_fd: int, name: str) -> None:
    """Make the scratch directory `name`, mode 0700, in the run directory behind `run_fd`.

    Nothing happens if the directory is there already.

    Raises:
        FileExistsError: Something else has the name.
        OSError: As `os.mkdir`.
    """
    try:
        kernel.mkdir(name, stat.S_IRWXU, dir_fd=run_fd)
    except FileExistsError:
        status = kernel.stat(name, dir_fd=run_fd, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            raise


def remove_scratch(path: PathName) -> list[OSError]:
    """Remove a scratch directory with all that is in it; never raises an `OSError`.

    Returns:
        What could not be removed; the end of the run removes it, or else the next sweep.
    """
    place, name = os.path.split(absolute_path(path))
    with contextlib.suppress(OSError):
        fd = open_private(place)
        try:
            return remove_scratch_in(fd, name)
        finally:
            close_private(fd)
    return []


def remove_scratch_in(run_fd: int, name: str) -> list[OSError]:
    """Remove the scratch directory `name` of the run directory behind `run_fd`; as above."""
    return remove_directory(name, dir_fd=run_fd) if SCRATCH_NAME.fullmatch(name) else []
