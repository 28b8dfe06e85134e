"""Put an output where its user wants it: whole under its final name, or not there at all.

Runs in:    the process that saves an output.
Invariants: those of `publish`, by which it is done. Beyond them:
            I1  what is saved is as long as the output, or it is not saved.
"""

import contextlib
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from collector.settings import READ_BLOCK_BYTES
from collector.store.absolute import absolute_path
from collector.store.output.digest import digest_of, mark_of
from collector.store.output.publish import Publication
from collector.store.output.rename import NameIn
from collector.store.output.sealed import OpenState, Saved, Spilled
from collector.store.output.target import naming, refuse_taken


@runtime_checkable
class Openable(Protocol):
    """What is no path but can be opened for writing, such as a remote path of universal_pathlib."""

    def open(self, mode: str, /) -> IO[bytes]:
        """Open it; `mode` is "wb"."""


def target_of(path: str | os.PathLike[str]) -> str:
    """Make the path of a target absolute, as seen from the working directory now.

    Raises:
        IsADirectoryError: It is a directory's, as "new/" is, whatever is there.
        FileNotFoundError: It is relative, and the working directory is gone.
        ValueError: It is empty.
    """
    named = os.fsdecode(path)
    if not named:
        raise ValueError("save() takes a path, not an empty one")
    if os.path.basename(named) in {"", os.curdir, os.pardir}:
        raise IsADirectoryError(errno.EISDIR, "the path is a directory's; add a file name", named)
    try:
        return absolute_path(named)
    except FileNotFoundError:
        message = "the path is relative, and the working directory is gone"
        raise FileNotFoundError(errno.ENOENT, message, named) from None


def save_as(
    place: OpenState,
    target: str,
    *,
    overwrite: bool,
    mode: int = 0o666,
    sync: bool = True,
    ready: Callable[[str], object] | None = None,
) -> Saved:
    """Give an output its final name: rename its file if that is ours and can be, else copy it.

    Args:
        place: Where the output is; what it holds is still the caller's to let go of.
        target: Absolute path; missing directories are made.
        overwrite: Replace what is there.
        mode: Of the file, less the umask.
        sync: Have a copy on the disk before it gets its name.
        ready: Called with the mark of the file (`digest.mark_of`) before it gets its name; twice if
            it is copied because it could not be renamed.

    Raises:
        FileExistsError: Something has that name, and not `overwrite`; or it is neither a file nor a
            symbolic link.
        IsADirectoryError: A directory has it.
        SpillError: The bytes could not be written.
        OutputLostError: The output could not be read to its end.
        OSError: As it came from the system; or `target` lies in the run directory of the output.
    """
    refuse_taken(target, overwrite=overwrite)
    if isinstance(place, Spilled) and _is_within(place.path.parent, target):
        message = "this is in the output's own temporary directory, which goes; save it elsewhere"
        raise OSError(errno.EINVAL, message, target)
    with naming(target), Publication(target, mode=mode) as new:
        if isinstance(place, Spilled) and place.file.owned and not place.may_grow:
            moved = _move(place, new, overwrite=overwrite, ready=ready)
            if moved is not None:
                return moved
        return _copy(place, new, overwrite=overwrite, sync=sync, ready=ready)


def moved_to(place: OpenState, target: str) -> Saved | None:
    """Return where an output is whose `save_as` was broken off, if its file has its name by now."""
    if not isinstance(place, Spilled) or place.file.identity() == place.identity:
        return None
    moved = Saved(target, place.identity, place.size, None)
    with contextlib.suppress(OSError):  # it is not there
        os.close(moved.open())
        return moved
    return None


def _move(
    place: Spilled,
    new: Publication,
    *,
    overwrite: bool,
    ready: Callable[[str], object] | None,
) -> Saved | None:
    """Rename the file of an output; None if it must be copied."""
    fd = place.open()
    try:
        digest = None if new.new_digest() is None else digest_of(fd)
        entry = NameIn(place.file.directory_fd, place.file.name)
        if ready is not None:
            ready(mark_of(fd, digest))
        if new.move_here(fd, entry, overwrite=overwrite):
            return Saved(new.path, place.identity, place.size, digest)
    finally:
        with contextlib.suppress(OSError):  # it was only read; the file may have its name
            os.close(fd)
    return None


def _copy(
    place: OpenState,
    new: Publication,
    *,
    overwrite: bool,
    sync: bool,
    ready: Callable[[str], object] | None,
) -> Saved:
    digest = new.new_digest()
    block = memoryview(bytearray(READ_BLOCK_BYTES))
    copied = 0
    with place.reader() as reader:
        while size := reader.readinto(block):
            new.write(block[:size])
            copied += size
            if digest is not None:
                digest.update(block[:size])
    if sync:
        new.sync()
    told = None if digest is None else digest.digest()
    if ready is not None:
        ready(new.mark(told))
    identity = new.publish(overwrite=overwrite)
    return Saved(new.path, identity, copied, told)


def send_to(reader: io.BufferedReader, target: Openable, *, overwrite: bool) -> None:
    """Write an output into anything that opens; after an error it is removed, if it knows `unlink`.

    Raises:
        FileExistsError: `target.exists()` says so, and not `overwrite`.
        OSError: Whatever the target raises.
    """
    exists = getattr(target, "exists", None)
    if not overwrite and exists is not None and exists():
        message = "it exists; pass overwrite=True to replace it"
        raise FileExistsError(errno.EEXIST, message, str(target))
    file: Any = target.open("wb")
    try:
        with file:
            while block := reader.read(READ_BLOCK_BYTES):
                taken = file.write(block)
                # None says nothing, but of a raw file that it would have had to wait.
                if taken != len(block) and (taken is not None or isinstance(file, io.RawIOBase)):
                    raise OSError(errno.EIO, "the target took only part", str(target))  # noqa: TRY301
    except BaseException:
        # Closing it has put there what came so far. That must not pass for the output.
        with contextlib.suppress(Exception):
            target.unlink()  # type: ignore[attr-defined]
        raise


def _is_within(run_directory: Path, target: str) -> bool:
    return Path(os.path.realpath(os.path.dirname(target))).is_relative_to(
        os.path.realpath(run_directory)
    )
