"""What a worker or the sink is told of the run directory.

Runs in:    the parent, in the supervising thread.
"""

import errno
import os

from collector.store.rundir.current_directory import CurrentDirectory
from collector.store.rundir.directory import RunDirectory
from collector.wire.messages import RunDirectoryAt


def whereabouts(directory: CurrentDirectory, question: int = 0) -> RunDirectoryAt:
    """Say where the run directory is now, after making a new one if others removed the last."""
    try:
        return place_of(directory.current(), question)
    except OSError as error:
        number, path = error.errno or errno.EIO, str(error.filename or "")
        return RunDirectoryAt(question, number, path, "", error.strerror or str(error))


def place_of(directory: RunDirectory, question: int = 0) -> RunDirectoryAt:
    """Say where this directory is."""
    return RunDirectoryAt(question, 0, os.fspath(directory.path), directory.identity, "")
