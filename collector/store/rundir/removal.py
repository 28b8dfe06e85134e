"""Remove a directory of ours with all that is in it, through descriptors only.

Runs in:    whoever sweeps or disposes a run directory, or removes a scratch directory.
Invariants: I1  no link is followed, and nothing is removed but by name in a directory that is open.
            I2  depth costs neither stack nor descriptors: deeper directories are moved up first.
            I3  no mount is entered: renaming a mount point fails with EBUSY, moving a directory out
                of a mount with EXDEV, also where both lie on one device. What cannot be renamed at
                all is asked for its mount.
            I4  killed at any point, the same call finishes the work later.
"""

import errno
import os
import stat
from collections.abc import Callable
from typing import Final, final

from collector.store.rundir import kernel
from collector.store.rundir.contents import Contents, Tick, nothing
from collector.store.rundir.locks import close_private, open_private
from collector.store.rundir.root import mount_of

_FAILURES_KEPT: Final = 10


def remove_directory(name: str, *, dir_fd: int) -> list[OSError]:
    """Remove the directory `name` of `dir_fd`, whatever is in it; never raises an `OSError`.

    Returns:
        The first few things that could not be removed; empty if the directory is gone.
    """
    moved = _fresh_name()
    try:
        kernel.rename(name, moved, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)  # I3
        fd = _open_any(moved, dir_fd)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [error]
    try:
        return remove_tree(moved, fd, dir_fd=dir_fd)
    finally:
        close_private(fd)


def remove_tree(
    name: str,
    fd: int,
    *,
    dir_fd: int,
    last: tuple[str, ...] = (),
    removed: Contents | None = None,
    tick: Tick = nothing,
) -> list[OSError]:
    """Remove an open directory; never raises an `OSError`.

    Args:
        name: Its name, to which it must have been renamed just before, unless the caller has seen
            to it that it lies in the mount of its parent (I3).
        fd: Descriptor of the directory; stays open.
        dir_fd: Descriptor of its parent.
        last: Names of files in it that are removed after everything else.
        removed: What was removed is added to it, but for `last`.
        tick: Called once for each entry removed.

    Returns:
        The first few things that could not be removed; empty if the directory is gone.
    """
    removal = _Removal(fd, last, removed, tick)
    while removal.remove_level():
        pass  # directories went; what lay below them has moved up and goes in the next pass
    if not removal.failures:
        removal.remove_top(name, dir_fd)
    return removal.failures


class _Removal:
    """The removal of one tree, pass by pass as long as one meets directories and empties some."""

    def __init__(
        self, top: int, last: tuple[str, ...], removed: Contents | None, tick: Tick
    ) -> None:
        self.failures: list[OSError] = []
        self._top = top
        self._last = last
        self._removed = removed
        self._tick = tick

    def remove_level(self) -> bool:
        """Remove the files in the top directory and the directories in it; True to go on."""
        self.failures.clear()
        met = removed = 0
        try:
            _open_up(self._top)
            with kernel.scandir(self._top) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        met += 1
                        removed += self._dissolve(entry.name)
                    elif entry.name not in self._last:
                        self._remove_file(entry, self._top)
        except OSError as error:
            self._note(error, ".")
        return bool(met and removed)

    def remove_top(self, name: str, dir_fd: int) -> None:
        """Remove the last files and the directory itself."""
        for entry in self._last:
            try:
                kernel.unlink(entry, dir_fd=self._top)
            except OSError as error:
                self._note(error, entry)
        try:
            kernel.rmdir(name, dir_fd=dir_fd)
        except OSError as error:
            self._note(error, name)

    def _dissolve(self, name: str) -> int:
        """Remove one directory, after moving those in it up; how many entries it lost."""
        moved = _fresh_name()
        removed = 0
        try:
            if not _renamed(name, moved, self._top):  # I3
                return _RemovalInPlace(self._top, self._remove_file, self._note).remove(name)
            fd = _open_any(moved, self._top)
            try:
                with kernel.scandir(fd) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            removed += self._move_up(entry.name, fd)
                        else:
                            removed += self._remove_file(entry, fd)
            finally:
                close_private(fd)
            kernel.rmdir(moved, dir_fd=self._top)
            removed += 1
        except OSError as error:
            self._note(error, name)
        return removed

    def _move_up(self, name: str, fd: int) -> int:
        try:
            try:
                kernel.rename(name, _fresh_name(), src_dir_fd=fd, dst_dir_fd=self._top)
            except PermissionError:
                # Moving a directory changes its "..", for which it must be writable.
                moved = _fresh_name()
                kernel.rename(name, moved, src_dir_fd=fd, dst_dir_fd=fd)
                close_private(_open_any(moved, fd))
                kernel.rename(moved, moved, src_dir_fd=fd, dst_dir_fd=self._top)
        except OSError as error:
            self._note(error, name)
            return 0
        return 1

    def _remove_file(self, entry: "os.DirEntry[str]", fd: int) -> int:
        try:
            status = None if self._removed is None else entry.stat(follow_symlinks=False)
            kernel.unlink(entry.name, dir_fd=fd)
        except OSError as error:
            self._note(error, entry.name)
            return 0
        if self._removed is not None and status is not None:
            self._removed.add(status)
        self._tick()
        return 1

    def _note(self, error: OSError, name: str) -> None:
        if not isinstance(error, FileNotFoundError) and len(self.failures) < _FAILURES_KEPT:
            error.filename = name
            error.filename2 = None
            self.failures.append(error)


@final
class _RemovalInPlace:
    """The removal of a directory that cannot be renamed, from the deepest ones in it up.

    Two descriptors are enough for any depth: the way back up is "..", checked.
    """

    def __init__(
        self,
        top: int,
        remove_file: "Callable[[os.DirEntry[str], int], int]",
        note: Callable[[OSError, str], None],
    ) -> None:
        self._top = top
        self._here = top
        self._mount = mount_of(top)
        self._remove_file = remove_file
        self._note = note
        self._trail = [("", kernel.fstat(top))]  # the directories from the top to here
        self._waiting: list[list[str]] = [[]]  # for each of them, those in it still to enter
        self._removed = 0

    def remove(self, name: str) -> int:
        """Remove the directory `name` of the top; how many entries went."""
        self._waiting[0].append(name)
        try:
            while self._waiting[0] or len(self._trail) > 1:
                if self._waiting[-1]:
                    self._enter(self._waiting[-1].pop())
                else:
                    self._leave()
        except OSError as error:
            self._note(error, name)
        finally:
            self._go_to(self._top)
        return self._removed

    def _enter(self, name: str) -> None:
        """Go into a directory and remove the files in it."""
        try:
            self._go_to(self._opened(name))
        except OSError as error:
            self._note(error, name)
            return
        self._trail.append((name, kernel.fstat(self._here)))
        self._waiting.append([])
        try:
            with kernel.scandir(self._here) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        self._waiting[-1].append(entry.name)
                    else:
                        self._removed += self._remove_file(entry, self._here)
        except OSError as error:
            self._note(error, name)

    def _opened(self, name: str) -> int:
        handle = open_private(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=self._here)
        try:
            if not self._mount or mount_of(handle) != self._mount:
                raise OSError(errno.EBUSY, "it is another mount, or nobody can tell")
        finally:
            close_private(handle, locked=False)
        return _open_any(name, self._here)

    def _leave(self) -> None:
        """Go back up and remove the directory that is empty now."""
        name, _ = self._trail.pop()
        self._waiting.pop()
        above = open_private("..", dir_fd=self._here)
        self._go_to(above)
        if not os.path.samestat(kernel.fstat(above), self._trail[-1][1]):
            raise OSError(errno.EBUSY, "others move it")
        try:
            kernel.rmdir(name, dir_fd=self._here)
            self._removed += 1
        except OSError as error:
            self._note(error, name)

    def _go_to(self, fd: int) -> None:
        left, self._here = self._here, fd
        if left != self._top:
            close_private(left)


def _renamed(name: str, new_name: str, dir_fd: int) -> bool:
    """Rename a directory; False if overlayfs cannot: one that lies in a lower layer.

    Raises:
        OSError: As `os.rename`.
    """
    try:
        kernel.rename(name, new_name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def _open_any(name: str, dir_fd: int) -> int:
    """Open a directory of ours to remove what is in it, even if its maker has closed it to us."""
    try:
        fd = open_private(name, dir_fd=dir_fd)
    except PermissionError:
        _permit(name, dir_fd)
        fd = open_private(name, dir_fd=dir_fd)
    try:
        _open_up(fd)
    except BaseException:
        close_private(fd)
        raise
    return fd


def _permit(name: str, dir_fd: int) -> None:
    """Let ourselves into a directory of ours; a link is not followed."""
    if os.chmod in os.supports_follow_symlinks:
        os.chmod(name, stat.S_IRWXU, dir_fd=dir_fd, follow_symlinks=False)
        return
    handle = open_private(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=dir_fd)
    try:
        os.chmod(f"/proc/self/fd/{handle}", stat.S_IRWXU)
    finally:
        close_private(handle)


def _open_up(fd: int) -> None:
    if kernel.fstat(fd).st_mode & stat.S_IRWXU != stat.S_IRWXU:
        kernel.fchmod(fd, stat.S_IRWXU)


def _fresh_name() -> str:
    return f"dissolved-{os.urandom(16).hex()}"
