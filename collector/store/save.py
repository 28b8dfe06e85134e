"""Put an output where its user wants it: whole under its final name, or not there at all.

Runs in:    the process that saves an output.
Owns:       `<name>.<random>.part` beside the target while it copies.
Invariants: I1  what has the final name is complete.
            I2  after an error neither the final name nor the `.part` was made by us.
            I3  without `overwrite` nothing that has the name is replaced, whoever comes between.
Source:     git's lockfile: write aside, rename to commit, delete to roll back. link(2) fails where
            rename(2) would replace.
"""

import contextlib
import errno
import io
import os
from pathlib import Path
from typing import IO, Final, Protocol, runtime_checkable

from collector.errors import spill_error
from collector.settings import READ_BLOCK_BYTES
from collector.store.place import OpenPlace, Saved, Spilled
from collector.store.spillfile import SpillFile, identity_of, write_all

_NO_LINKS: Final = frozenset(
    {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EINVAL}
)
"""What link(2) says where the file system has no hard links."""

_PART_STEM_BYTES: Final = 200
"""So much of the target's name is in that of its `.part`: names end at 255 bytes."""


@runtime_checkable
class Openable(Protocol):
    """What is no path but can be opened for writing, such as a remote path of universal_pathlib."""

    def open(self, mode: str, /) -> IO[bytes]:
        """Open it; `mode` is "wb"."""


def target_of(path: str | os.PathLike[str]) -> str:
    """Make the path of a target absolute, as seen from the working directory now.

    Raises:
        IsADirectoryError: It is a directory's, as "new/" is, whatever is there.
        ValueError: It is empty.
    """
    named = os.fsdecode(path)
    if not named:
        raise ValueError("save() takes a path, not an empty one")
    if os.path.basename(named) in {"", os.curdir}:
        raise IsADirectoryError(errno.EISDIR, "the path is a directory's; add a file name", named)
    return os.path.abspath(named)


def save_as(place: OpenPlace, target: str, *, overwrite: bool) -> Saved:
    """Give an output its final name: rename its file if that is ours and can be, else copy it.

    Args:
        place: Where the output is; what it holds is still the caller's to let go of.
        target: Absolute path; missing directories are made.
        overwrite: Replace what is there.

    Raises:
        FileExistsError: Something has that name, and not `overwrite`.
        SpillError: The bytes could not be written.
        OutputLostError: The output could not be read to its end.
        OSError: As it came from the system; or `target` is the output's own temporary file.
    """
    if overwrite and isinstance(place, Spilled) and _is_same_name(place.path, target):
        # A file renamed onto itself stays what it is, and would go as what we have let go of.
        message = "this is the output's own temporary file; save it under a name of yours"
        raise OSError(errno.EINVAL, message, target)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if isinstance(place, Spilled) and place.file.owned and not place.may_grow:
        fd = place.open()
        try:
            if _rename(place.file, fd, target, overwrite=overwrite):
                return Saved(target, place.identity, place.size)
        finally:
            with contextlib.suppress(OSError):  # it was only read; the file has its name
                os.close(fd)
    with place.reader() as reader:
        return _copy(reader, target, overwrite=overwrite)


def send_to(reader: io.BufferedReader, target: Openable, *, overwrite: bool) -> None:
    """Write an output into anything that opens; after an error it is removed, if it knows `unlink`.

    Raises:
        FileExistsError: `target.exists()` says so, and not `overwrite`.
        OSError: Whatever the target raises.
    """
    exists = getattr(target, "exists", None)
    if not overwrite and exists is not None and exists():
        raise _exists_error(str(target))
    file = target.open("wb")
    try:
        with file:
            while block := reader.read(READ_BLOCK_BYTES):
                if file.write(block) not in {None, len(block)}:
                    raise OSError(errno.EIO, "the target took only part", str(target))  # noqa: TRY301
    except BaseException:
        # Closing it has put there what came so far. That must not pass for the output.
        with contextlib.suppress(Exception):
            target.unlink()  # type: ignore[attr-defined]
        raise


def _is_same_name(own: Path, target: str) -> bool:
    directory, name = os.path.split(target)
    return name == own.name and os.path.realpath(directory) == os.path.realpath(own.parent)


def _rename(file: SpillFile, fd: int, target: str, *, overwrite: bool) -> bool:
    """Rename a file that is ours; False if the target lies on another file system."""
    with contextlib.suppress(OSError):  # file systems without modes
        os.fchmod(fd, _new_file_mode())
    try:
        _publish(file.name, target, overwrite=overwrite, directory_fd=file.directory_fd)
    except OSError as error:
        if error.errno == errno.EXDEV:
            return False
        raise
    return True


def _copy(reader: io.BufferedReader, target: str, *, overwrite: bool) -> Saved:
    """Copy an output through a `.part` file beside the target."""
    if not overwrite and os.path.lexists(target):
        raise _exists_error(target)
    directory, name = os.path.split(target)
    stem = os.fsdecode(os.fsencode(name)[:_PART_STEM_BYTES])
    part = os.path.join(directory, f"{stem}.{os.urandom(4).hex()}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            _fill(fd, reader, target)
            saved = Saved(target, identity_of(fd), os.fstat(fd).st_size)
        finally:
            os.close(fd)
        _publish(part, target, overwrite=overwrite)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
    return saved


def _fill(fd: int, reader: io.BufferedReader, target: str) -> None:
    block = memoryview(bytearray(READ_BLOCK_BYTES))
    while size := reader.readinto(block):
        try:
            write_all(fd, block[:size])
        except OSError as error:
            raise spill_error(error, target) from error
    try:
        os.fsync(fd)
    except OSError as error:
        raise spill_error(error, target) from error


def _publish(source: str, target: str, *, overwrite: bool, directory_fd: int | None = None) -> None:
    if overwrite:
        os.replace(source, target, src_dir_fd=directory_fd)
        return
    try:
        os.link(source, target, src_dir_fd=directory_fd, follow_symlinks=False)
    except FileExistsError:
        raise _exists_error(target) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _publish_without_links(source, target, directory_fd)
    else:
        with contextlib.suppress(OSError):  # its owner removes what is left under that name
            os.unlink(source, dir_fd=directory_fd)


def _publish_without_links(source: str, target: str, directory_fd: int | None) -> None:
    """Take the name with an empty file of ours, which nobody else can, then replace that."""
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
    except FileExistsError:
        raise _exists_error(target) from None
    try:
        os.replace(source, target, src_dir_fd=directory_fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(target)
        raise


def _exists_error(target: str) -> FileExistsError:
    return FileExistsError(
        errno.EEXIST, "the name is taken; pass overwrite=True to replace what is there", target
    )


def _new_file_mode() -> int:
    """Tell the mode that open() would give a new file, without touching the umask if possible."""
    with contextlib.suppress(OSError), open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return 0o666 & ~int(line.split()[1], 8)
    umask = os.umask(0o077)
    os.umask(umask)
    return 0o666 & ~umask
