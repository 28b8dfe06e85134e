"""Real disks for tests: small ones that fill up, and another file system to rename across."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a tmpfs of `size_bytes` below `place` for as long as the block takes; needs root."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    disk = Path(tempfile.mkdtemp(prefix="disk-", dir=place))
    options = f"size={size_bytes},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
        disk.rmdir()


def fill(disk: Path, spare_bytes: int = 0) -> Path:
    """Fill a disk up to `spare_bytes` with one file, and return that."""
    status = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(status.f_bavail * status.f_frsize - spare_bytes))
    return ballast


def free(disk: Path) -> int:
    """The bytes that a disk still takes."""
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize
