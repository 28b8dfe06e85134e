"""Write a file aside and give it its name when it is whole.

Owns:       a descriptor of a file without a name (Linux), or of `<name>.<random>.part`.
Invariants: I1  nothing is under the final name before `publish`, and the whole file after it.
            I2  where the file has no name until then, not even `kill -9` leaves anything.
Source:     open(2) on O_TMPFILE, with linkat(2) through /proc/self/fd, which needs no privilege.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self, final

from collector.errors import spill_error

_PART_STEM_BYTES: Final = 200
"""So much of the target's name is in that of its `.part`: names end at 255 bytes."""


@final
class Publication:
    """A new file that is not there yet. A context manager: left unpublished, it is gone."""

    def __init__(self, target: str | os.PathLike[str]) -> None:
        """Begin a file beside `target`, whose directory is made if it is missing.

        Raises:
            SpillError: It cannot be made.
        """
        self.target = os.path.abspath(os.fspath(target))
        parent, name = os.path.split(self.target)
        stem = os.fsdecode(os.fsencode(name)[:_PART_STEM_BYTES])
        self._part = os.path.join(parent, f"{stem}.{secrets.token_hex(4)}.part")
        self._named = False
        try:
            os.makedirs(parent, exist_ok=True)
            self._fd = self._open(parent)
        except OSError as error:
            raise spill_error(error, self.target) from error

    def _open(self, parent: str) -> int:
        flags = os.O_WRONLY | os.O_CLOEXEC
        if _can_have_no_name():
            with contextlib.suppress(OSError):  # this file system cannot; another error comes again
                return os.open(parent, flags | os.O_TMPFILE, 0o666)
        self._named = True
        return os.open(self._part, flags | os.O_CREAT | os.O_EXCL, 0o666)

    def write(self, data: bytes) -> None:
        """Write all of `data`.

        Raises:
            SpillError: The disk refuses it.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise spill_error(error, self.target) from error

    def sync(self) -> None:
        """Have the bytes on the disk: some file systems find out only now that they are full.

        Raises:
            SpillError: The disk refuses it.
        """
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise spill_error(error, self.target) from error

    def publish(self, *, overwrite: bool) -> None:
        """Give the file its name.

        Raises:
            FileExistsError: The name is taken, and `overwrite` is False.
            OSError: The name cannot be given.
        """
        try:
            self._publish(overwrite=overwrite)
        except OSError as error:  # it tells of /proc and .part, which the user does not know
            raise OSError(error.errno, error.strerror, self.target) from error

    @contextlib.contextmanager
    def old_set_aside(self) -> Iterator[None]:
        """Take what has the name away; put it back if the block raises, else remove it.

        Raises:
            OSError: It cannot be taken away.
        """
        aside = f"{self._part.removesuffix('.part')}-old.part"
        try:
            os.rename(self.target, aside)
        except FileNotFoundError:
            yield
            return
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.target) from error
        try:
            yield
        except BaseException:
            os.rename(aside, self.target)
            raise
        with contextlib.suppress(OSError):  # clean-up: a .part that nobody can remove stays
            os.unlink(aside)

    def _publish(self, *, overwrite: bool) -> None:
        if overwrite:
            if not self._named:
                self._link(self._part)
                self._named = True
            os.replace(self._part, self.target)
            self._named = False
        elif self._named:
            self._move()
        else:
            self._link(self.target)

    def _link(self, path: str) -> None:
        # With a dir_fd Python calls linkat(AT_SYMLINK_FOLLOW): the file behind the link in /proc.
        directory, name = os.path.split(path)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.link(f"/proc/self/fd/{self._fd}", name, dst_dir_fd=fd)
        finally:
            os.close(fd)

    def _move(self) -> None:
        try:
            os.link(self._part, self.target)  # unlike rename(2) this takes no name that is taken
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if os.path.lexists(self.target):
                raise FileExistsError(errno.EEXIST, "File exists", self.target) from None
            os.rename(self._part, self.target)
        else:
            os.unlink(self._part)
        self._named = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)
        if self._named:
            with contextlib.suppress(OSError):  # clean-up: a .part that nobody can remove stays
                os.unlink(self._part)


def _can_have_no_name() -> bool:
    return hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd")
