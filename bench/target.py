"""Where the bytes go: fresh files on warmed pages, or files whose pages are resident.

A virtual machine gives freed pages back to its host, and a fresh page then costs ten times what it
costs on a warm one; so what a run is about to use is touched and freed right before it (`warm`), by
everybody alike. A resident file is written from its beginning again and again: its blocks are
allocated, its pages there, so that nothing is measured but the way to the file.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Final

MIB: Final = 1024 * 1024
RESIDENT_BYTES: Final = 64 * MIB
_BLOCK: Final = b"x" * MIB
_WARM_BYTES: Final = 16 * MIB
"""What warming writes at once. A large write takes large pages, which the small ones of smaller
writes do not warm; the other way round they do."""


@contextlib.contextmanager
def directory() -> Iterator[str]:
    """Make a directory for one contender, on the disk that is measured."""
    path = tempfile.mkdtemp(prefix="contender-", dir=os.environ.get("COLLECTOR_BENCH_DIR"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def warm(path: str, size: int) -> None:
    """Have `size` bytes of page cache, and some more, touched and freed just now."""
    name = os.path.join(path, "warm")
    fd = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    try:
        block = b"x" * _WARM_BYTES
        for _ in range(1 + size * 5 // 4 // _WARM_BYTES):
            os.write(fd, block)
    finally:
        os.close(fd)
        os.unlink(name)


class Fresh:
    """A new file for each run."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.fd = -1

    def __enter__(self) -> int:
        self.fd = os.open(self._name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def remove(self) -> None:
        """Remove the file; no part of the run."""
        os.unlink(self._name)


class Resident:
    """One file whose pages stay; writing goes round and round in it."""

    def __init__(self, name: str) -> None:
        self.fd = os.open(name, os.O_CREAT | os.O_RDWR, 0o600)
        self._at = 0
        for _ in range(RESIDENT_BYTES // MIB):
            os.write(self.fd, _BLOCK)
        os.fsync(self.fd)
        os.lseek(self.fd, 0, os.SEEK_SET)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`."""
        self._written(os.write(self.fd, data))

    def write_together(self, chunks: Sequence[bytes]) -> None:
        """Write all of them with one call."""
        self._written(os.writev(self.fd, chunks))

    def _written(self, size: int) -> None:
        self._at += size
        if self._at >= RESIDENT_BYTES:
            self._at = 0
            os.lseek(self.fd, 0, os.SEEK_SET)

    def __enter__(self) -> int:
        self._at = 0
        os.lseek(self.fd, 0, os.SEEK_SET)
        return self.fd

    def __exit__(self, *_: object) -> None:
        """The file stays."""

    def remove(self) -> None:
        """Nothing: it stays."""


def target(path: str, number: int, *, resident: bool) -> Fresh | Resident:
    """Return the target of one worker."""
    name = os.path.join(path, f"{'resident' if resident else 'fresh'}-{number}")
    return Resident(name) if resident else Fresh(name)
