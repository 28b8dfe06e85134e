"""Make a path absolute as the kernel reads it.

Runs in:    any process.
"""

import os


def absolute_path(path: str | os.PathLike[str]) -> str:
    """Return a path that leads to the same place from any working directory.

    `os.path.abspath` takes ".." for what stands before it: behind a link to a directory that is
    another place than the one that `open` finds.

    Raises:
        FileNotFoundError: It is relative, and the working directory is gone.
    """
    from pathlib import Path  # noqa: PLC0415 - 5 ms, ahead of a server that is to start

    return os.fspath(Path(path).absolute())


def working_directory() -> str:
    """Return the working directory; "" if it is gone, where no relative path leads anywhere."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""
