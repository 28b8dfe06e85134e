"""Publish a file: it is written aside, and gets its name when it is whole.

Runs in:    the process that saves an output, or writes a file beside one.
Owns:       a descriptor of a file without a name (Linux), or of `.collector-<random>.part` beside
            the target; one of the directory.
Invariants: I1  nothing of ours is under the final name before `publish`, and the whole file after
                it (as `target` I1 says).
            I2  where the file has no name until then, not even `kill -9` leaves anything. It has a
                name aside if it is to replace another file, or if the file system has no files
                without names.
            I3  a file that is moved there gets the group, mode and ACL that a new one has.
Source:     open(2) on O_TMPFILE, with linkat(2) through /proc/self/fd, which needs no privilege;
            git's lockfile: write aside, rename to commit, delete to roll back.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Self, final

from collector.errors import spill_error
from collector.settings import READ_BLOCK_BYTES
from collector.store.absolute import absolute_path
from collector.store.output.chunk import Buffer
from collector.store.output.digest import mark_of, new_digest
from collector.store.output.rename import UNSUPPORTED, NameIn
from collector.store.output.spill_file import Identity, identity_of, write_all
from collector.store.output.target import Target, discard, naming

if TYPE_CHECKING:
    import hashlib

NO_SYNC: Final = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS}
)
"""What fsync(2) says where there is nothing that it could do."""

_ACCESS: Final = ("system.posix_acl_access", "system.nfs4_acl", "security.selinux")
"""Extended attributes of a file that say who may use it: its ACL, its label."""

_CANNOT_LINK: Final = UNSUPPORTED | {errno.EEXIST, errno.ENOENT, errno.EXDEV}
"""What linkat(2) says of a file without a name; the last two where /proc is not the real one."""


@final
class Publication:
    """A new file that is not there yet. A context manager: left unpublished, it is gone.

    Attributes:
        path: Where it is to be, absolute.
    """

    def __init__(self, path: str | os.PathLike[str], *, mode: int = 0o666) -> None:
        """Begin a file beside `path`, in a directory that is made if it is missing.

        Args:
            path: Where it is to be.
            mode: Of the file, less the umask.

        Raises:
            SpillError: There is no room for it.
            OSError: It cannot be made; it names `path`, as all errors of this class.
        """
        self.path = absolute_path(path)
        self._mode = mode
        self._part: NameIn | None = None
        self._fd = -1
        self._target = Target(self.path)
        try:
            with naming(self.path):
                self._fd = self._open()
        except BaseException:
            self._let_go()
            raise

    def new_digest(self) -> "hashlib._Hash | None":
        """Begin a digest of what is written, where the file may be renumbered; else None.

        Raises:
            OSError: As all errors of this class.
        """
        with naming(self.path):
            return new_digest(self._fd)

    def mark(self, digest: bytes | None) -> str:
        """Return what it will be known by, once it is whole; see `digest.mark_of`.

        Raises:
            OSError: As all errors of this class.
        """
        with naming(self.path):
            return mark_of(self._fd, digest)

    def write(self, data: Buffer) -> None:
        """Write all of `data`.

        Raises:
            SpillError: The disk refuses it.
        """
        try:
            write_all(self._fd, data)
        except OSError as error:
            raise spill_error(error, self.path) from error

    def sync(self) -> None:
        """Have the bytes on the disk: some file systems find out only now that they are full.

        Raises:
            SpillError: The disk refuses it.
        """
        try:
            os.fsync(self._fd)
        except OSError as error:
            if error.errno not in NO_SYNC:
                raise spill_error(error, self.path) from error

    def publish(self, *, overwrite: bool) -> Identity:
        """Give the file its name.

        Returns:
            Which file it is.

        Raises:
            FileExistsError: The name is taken, and not `overwrite`, or by what is never replaced.
            IsADirectoryError: It is taken by a directory.
            SpillError: The disk is full.
            OSError: The name cannot be given.
        """
        with naming(self.path):
            identity = identity_of(self._fd)
            if self._part is None and self._link(self._target.entry):
                return identity
            part = self._give_part()
            identity = identity_of(self._fd)
            self._close()
            self._target.give_to(part, overwrite=overwrite)
            self._part = None
        return identity

    def move_here(self, fd: int, entry: NameIn, *, overwrite: bool) -> bool:
        """Give the name to a file that is there already, in place of this new one.

        Args:
            fd: The file, open.
            entry: Its name, which it loses.
            overwrite: As `publish`.

        Returns:
            False if that cannot be done: it lies on another file system, or cannot be made what a
            new file in this directory is. It is still where it was then.

        Raises:
            OSError: As `publish`.
        """
        if not _make_alike(fd, self._fd):
            return False
        with naming(self.path):
            try:
                self._target.give_to(entry, overwrite=overwrite)
            except OSError as error:
                if error.errno == errno.EXDEV:
                    return False
                raise
        return True

    @contextlib.contextmanager
    def old_set_aside(self) -> Iterator[None]:
        """Take what has the name away; put it back if the block raises, else remove it.

        Raises:
            OSError: It cannot be taken away.
        """
        old = self._new_part()
        with naming(self.path):
            found = self._target.set_aside(old)
        try:
            yield
        except BaseException:
            if found:
                with contextlib.suppress(FileExistsError):  # somebody has put another one there
                    self._target.give_to(old, overwrite=False)
            raise
        finally:
            discard(old)

    def _open(self) -> int:
        if _can_have_no_name():
            flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
            with contextlib.suppress(OSError):  # this file system cannot; another error comes again
                return os.open(".", flags, self._mode, dir_fd=self._target.entry.directory_fd)
        return self._open_part()

    def _open_part(self) -> int:
        self._target.refuse_append_only()
        self._part = self._new_part()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(self._part.name, flags, self._mode, dir_fd=self._part.directory_fd)

    def _new_part(self) -> NameIn:
        # Always as long: where names end at 143 bytes, the target's may have as many.
        return NameIn(self._target.entry.directory_fd, f".collector-{os.urandom(8).hex()}.part")

    def _link(self, entry: NameIn) -> bool:
        """Give a file without a name one; False if that is taken or cannot be done at all."""
        try:
            # With a dir_fd Python calls linkat(AT_SYMLINK_FOLLOW): the file behind the link.
            os.link(
                f"/proc/self/fd/{self._fd}",
                entry.name,
                dst_dir_fd=entry.directory_fd,
                follow_symlinks=True,
            )
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            return False
        return True

    def _give_part(self) -> NameIn:
        """Let the file have a name aside, if it has none."""
        if self._part is not None:
            return self._part
        self._target.refuse_append_only()
        self._part = self._new_part()
        if not self._link(self._part):
            self._copy_to_part()
        return self._part

    def _copy_to_part(self) -> None:
        without_name, self._fd = self._fd, self._open_part()
        try:
            start = 0
            while block := os.pread(without_name, READ_BLOCK_BYTES, start):
                self.write(block)
                start += len(block)
            self.sync()
        finally:
            os.close(without_name)

    def _close(self) -> None:
        """Close it before it is renamed: some file systems send the bytes only now."""
        fd, self._fd = self._fd, -1
        try:
            os.close(fd)
        except OSError as error:
            raise spill_error(error, self.path) from error

    def _let_go(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # it is synced, or goes
                os.close(self._fd)
        if self._part is not None:
            discard(self._part)
        self._target.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._let_go()


def _can_have_no_name() -> bool:
    return hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd")


def _make_alike(fd: int, new: int) -> bool:
    """Give a file the group, mode and ACL of a new one; False if that cannot be done."""
    try:
        wanted = os.fstat(new)
        status = os.fstat(fd)
        if status.st_uid != wanted.st_uid:
            return False
        if status.st_gid != wanted.st_gid:
            os.fchown(fd, -1, wanted.st_gid)
        for name in _ACCESS:
            _make_attribute_alike(fd, new, name)
        if _access_of(fd) != _access_of(new):  # an ACL brings its mode along
            os.fchmod(fd, stat.S_IMODE(wanted.st_mode))
        return _access_of(fd) == _access_of(new)
    except OSError:
        return False


def _access_of(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_mode, status.st_gid


def _make_attribute_alike(fd: int, new: int, name: str) -> None:
    value = _attribute(new, name)
    if value == _attribute(fd, name):
        return
    if value is None:
        os.removexattr(fd, name)
    else:
        os.setxattr(fd, name, value)


def _attribute(fd: int, name: str) -> bytes | None:
    try:
        return os.getxattr(fd, name)
    except OSError as error:
        if error.errno not in {errno.ENODATA, errno.ENOTSUP, errno.EOPNOTSUPP}:
            raise
        return None
