"""Give an output that was stored before names were wanted the name that it is to have now.

Runs in:    the parent, in the thread that reads the inputs.
Owns:       nothing.
Invariants: I1  nothing of the user's is replaced: a file that has the name is what an earlier run
                has saved, or it is in the way.
"""

import contextlib
import errno
import os
import stat

from collector.batch.history import History
from collector.batch.lines import Ended, Saved
from collector.batch.shard import Shard
from collector.settings import PACKED_BYTES
from collector.store.output.output import Output, publish


def unsaved(history: History, row: int) -> tuple[Shard, Ended] | None:
    """Return the last attempt of a job that is done; None if its output has a name already."""
    found = history.attempt(row)
    return None if found is None or isinstance(found[1].out, Saved) else found


def save_stored(shard: Shard, ended: Ended, path: str, *, sync: bool) -> None:
    """Copy the output of an attempt to a name.

    No line tells of that: the output stays in the batch too, and counts whatever becomes of the
    copy.

    Args:
        shard: Has it.
        ended: The attempt.
        path: Absolute.
        sync: Have the copy on the disk.

    Raises:
        FileExistsError: Something else has the name.
        OSError: It cannot be read or written.
    """
    output = shard.output(ended.out, complete=True)
    if _begins_alike(path, output):
        return  # an earlier run has saved it
    try:
        publish(output, path, overwrite=False, sync=sync)
    except FileExistsError as error:
        message = "something else has that name: move it away"
        raise FileExistsError(errno.EEXIST, message, path) from error


def _begins_alike(path: str, output: Output) -> bool:
    """Tell whether a file is as long as an output, and has the same bytes as far as one reads."""
    with contextlib.suppress(FileNotFoundError):
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode) and status.st_size == output.size:
            with open(path, "rb") as file, output.open() as own:
                return file.read(PACKED_BYTES) == own.read(PACKED_BYTES)
    return False
