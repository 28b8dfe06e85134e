"""Give a whole file the name that its user wants: a free one, or that of a file which goes.

Runs in:    the process that publishes a file.
Owns:       one descriptor of the directory in which the name is to be.
Invariants: I1  what gets the name is complete. Only where a file system has neither hard links nor
                renameat2(2) there is an empty file of ours under it for an instant.
            I2  without `overwrite` nothing that has the name is replaced, also if it got the name
                just now.
            I3  with `overwrite`, only a file or a symbolic link is replaced, and no link that leads
                to what is never replaced; where the file system can exchange two names, also if
                something else got the name just now.
            I4  every error names the path that the caller gave.
Source:     link(2) and renameat2(2) fail where rename(2) would replace.
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from typing import Final, final

from collector.errors import CollectorError, spill_error
from collector.store.output.rename import UNSUPPORTED, NameIn, exchange, rename_to_free
from collector.store.rundir.claim import is_run_directory
from collector.store.rundir.scratch import SCRATCH_NAME

_OTHER_KINDS: Final = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""What is never replaced, beside directories."""

_OWN_DESCRIPTORS: Final = "/proc/self/fd"
_MAX_LINKS: Final = 40
"""As many as Linux follows in one path: path_resolution(7)."""

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_TRIES: Final = 100
"""How often others may change what has the name between two of our calls."""

_GET_FLAGS: Final = 2 << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | 1
_APPEND_ONLY: Final = 0x20
"""FS_IOC_GETFLAGS and FS_APPEND_FL of `linux/fs.h`."""


@final
class Target:
    """A name in a directory that is open, so that it is the same one from the first step on.

    Attributes:
        path: The absolute path, for messages.
        entry: The name in the directory.
    """

    def __init__(self, path: str) -> None:
        """Open the directory; it is made if it is missing.

        Raises:
            NotADirectoryError: One of the parents is something else.
            SpillError: There is no room for it.
            OSError: As it came from the system; or it lies in a run directory, but not in a scratch
                directory of that.
        """
        self.path = path
        parent, name = os.path.split(path)
        with naming(path):
            _refuse_run_directory(parent)
            _make_directory(parent)
            # We need not see what is in it: some directories only take new names.
            flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
            self.entry = NameIn(os.open(parent, flags), name)

    def close(self) -> None:
        """Close the directory; once. Never raises."""
        with contextlib.suppress(OSError):  # nothing was written there
            os.close(self.entry.directory_fd)

    def give_to(self, source: NameIn, *, overwrite: bool) -> None:
        """Give the name to a file that has another one, which it loses.

        Raises:
            FileExistsError: Something has it, and not `overwrite`, or it is of another kind.
            IsADirectoryError: A directory has it.
            OSError: As it came from the system.
        """
        for _ in range(_TRIES):
            if self._take(source):
                return
            self.refuse_taken(overwrite=overwrite)
            if overwrite and self._replace(source):
                return
        raise OSError(errno.EBUSY, "others keep changing what has this name", self.path)

    def set_aside(self, part: NameIn) -> bool:
        """Give what has the name another one in the same directory; False if nothing has it.

        Raises:
            OSError: As `give_to` with `overwrite`; it has its name then.
        """
        try:
            _refuse_kind(_status(self.entry))
            _refuse_link(self.path)
            self.refuse_append_only()
            _rename(self.entry, part)
        except FileNotFoundError:
            return False
        try:
            _refuse_kind(_status(part))
        except OSError:
            _rename(part, self.entry)
            raise
        return True

    def refuse_taken(self, *, overwrite: bool) -> None:
        """Do what the function `refuse_taken` does, in the directory that is open."""
        with contextlib.suppress(FileNotFoundError):
            _refuse_kind(_status(self.entry))
            _refuse_others(self.path, overwrite=overwrite)

    def refuse_append_only(self) -> None:
        """Make sure that a name given in the directory can be taken away again.

        Raises:
            PermissionError: It cannot.
        """
        try:
            fd = os.open(".", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.entry.directory_fd)
            try:
                flags = fcntl.ioctl(fd, _GET_FLAGS, bytes(struct.calcsize("l")))
            finally:
                os.close(fd)
        except OSError:
            return  # closed to us, or a file system without flags
        if flags[0] & _APPEND_ONLY:
            message = "the directory is append-only: nothing in it can be replaced or renamed"
            raise PermissionError(errno.EPERM, message, self.path)

    def _take(self, source: NameIn) -> bool:
        """Give the name if it is free; False if something has it."""
        try:
            os.link(
                source.name,
                self.entry.name,
                src_dir_fd=source.directory_fd,
                dst_dir_fd=self.entry.directory_fd,
                follow_symlinks=False,
            )
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            return self._take_without_links(source)
        with contextlib.suppress(OSError):  # its owner removes what is left under that name
            os.unlink(source.name, dir_fd=source.directory_fd)
        return True

    def _take_without_links(self, source: NameIn) -> bool:
        try:
            rename_to_free(source, self.entry)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            return self._take_with_empty_file(source)
        return True

    def _take_with_empty_file(self, source: NameIn) -> bool:
        """Take the name with an empty file of ours, which nobody else can, then replace that."""
        fd, name = self.entry
        try:
            empty = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=fd)
        except FileExistsError:
            return False
        try:
            os.close(empty)
            _rename(source, self.entry)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=fd)
            raise
        return True

    def _replace(self, source: NameIn) -> bool:
        """Put a file in the place of the file or link that has the name; False if nothing has it.

        1. we see a file, 2. somebody puts a FIFO in its place, 3. rename(2) replaces the FIFO. So
        the two exchange their names, and we look again at what we have got.
        """
        try:
            exchange(source, self.entry)
        except FileNotFoundError:
            return False
        except OSError as error:
            self.refuse_taken(overwrite=True)
            self.refuse_append_only()
            if error.errno not in UNSUPPORTED:
                raise
            _rename(source, self.entry)
            return True
        try:
            _refuse_kind(_status(source))
        except BaseException:  # of a signal handler too: all is as it was before
            exchange(source, self.entry)
            raise
        discard(source)
        return True


def refuse_taken(path: str, *, overwrite: bool) -> None:
    """Make sure that a file may be put under a name, as far as can be seen now.

    Raises:
        FileExistsError: Something has it, and not `overwrite`, or it is of another kind.
        IsADirectoryError: A directory has it.
        OSError: It cannot be looked at: the name is too long, or a parent is no directory.
    """
    with naming(path), contextlib.suppress(FileNotFoundError):
        _refuse_kind(os.lstat(path))
        _refuse_others(path, overwrite=overwrite)


def _refuse_others(path: str, *, overwrite: bool) -> None:
    _refuse_link(path)
    if not overwrite:
        message = "the name is taken; pass overwrite=True to replace what is there"
        raise FileExistsError(errno.EEXIST, message)


def _refuse_kind(status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(
            errno.EISDIR, "this is a directory; add the name that the file in it is to have"
        )
    if kind in _OTHER_KINDS:
        raise _never_replaced(_OTHER_KINDS[kind])


def _refuse_link(path: str) -> None:
    """Leave a link to what is never replaced: /dev/stdout is one, and the whole system's."""
    kind = None
    with contextlib.suppress(OSError):  # it leads nowhere
        kind = _kind_behind(path)
    if kind is not None:
        raise _never_replaced(f"a link to {kind}")


def _kind_behind(link: str) -> str | None:
    """Tell to what a link leads that is never replaced; None if that may be, or it is no link."""
    table = os.stat(_OWN_DESCRIPTORS).st_dev if os.path.isdir(_OWN_DESCRIPTORS) else None
    at = link
    for _ in range(_MAX_LINKS):
        if not os.path.islink(at):
            break
        if os.lstat(at).st_dev == table:  # whatever is open there, a file too
            return "a descriptor of a process"
        at = os.path.join(os.path.dirname(at), os.readlink(at))
    return _OTHER_KINDS.get(stat.S_IFMT(os.stat(link).st_mode))


def _never_replaced(what: str) -> FileExistsError:
    message = (
        f"this is {what}, which is never replaced; take a new name, or open it and copy the output "
        "there"
    )
    return FileExistsError(errno.EEXIST, message)


def discard(entry: NameIn) -> None:
    """Remove a file or link that has no use any more, and nothing else; never raises."""
    with contextlib.suppress(OSError):  # clean-up: what nobody can remove stays
        _refuse_kind(_status(entry))
        os.unlink(entry.name, dir_fd=entry.directory_fd)


def _status(entry: NameIn) -> os.stat_result:
    return os.stat(entry.name, dir_fd=entry.directory_fd, follow_symlinks=False)


def _rename(source: NameIn, target: NameIn) -> None:
    os.rename(
        source.name,
        target.name,
        src_dir_fd=source.directory_fd,
        dst_dir_fd=target.directory_fd,
    )


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Let every error within name the path that the caller gave, not what we call a file aside."""
    try:
        yield
    except CollectorError:
        raise
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise spill_error(error, path) from None
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), path) from None


def _refuse_run_directory(path: str) -> None:
    """Put nothing where it goes with a run; a scratch directory is there to be used."""
    at, below = os.path.realpath(path), ""
    while name := os.path.basename(at):
        if is_run_directory(at) and not SCRATCH_NAME.fullmatch(below):
            message = (
                "this is in the temporary directory of a Collector, which goes; save it elsewhere"
            )
            raise OSError(errno.EINVAL, message)
        at, below = os.path.dirname(at), name


def _make_directory(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except FileExistsError as error:  # not what FileExistsError says of a file that is saved
        message = f"its parent {error.filename} is no directory"
        raise NotADirectoryError(errno.ENOTDIR, message) from None
