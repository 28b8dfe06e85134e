"""Do without a directory in which `tempfile` can make a file: a `temp_root` is all that we need.

A container may have a root that is read-only and one volume, or the disk of the others is full.

Runs in:    any process.
Owns:       nothing.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator


def found_temp_directory() -> str | None:
    """Return the directory of `tempfile`; None if none of those that it tries takes a file."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def needing_none() -> Iterator[None]:
    """Let modules be imported that ask for the directory, and make no file there."""
    if found_temp_directory() is not None:
        yield
        return
    tempfile.tempdir = os.path.abspath(os.sep)
    try:
        yield
    finally:
        tempfile.tempdir = None
