"""Judge one entry of a root and remove it if it is a dead run: the one deletion path.

Runs in:    whoever sweeps a root, and the process that disposes its own run directory.
Owns:       the exclusive locks of the entry, from `examine` to `close`.
States:     run-<16 hex> -> trash-<32 hex> -> gone. Killed in between, the next sweep goes on.
Invariants: I1  only what the kernel's locks prove dead is removed; pids, ages, clocks and
                owner.json decide nothing.
            I2  what has another name or another owner, or cannot be opened, is left.
            I3  nothing outside the directory is touched, whatever lies in it.
Source:     docs/decisions/0003; pytest renames before it deletes, Nix proves death by a lock.
"""

import enum
import errno
import os
import re
import stat
from typing import Final

from collector.closable import Closable
from collector.store.rundir import kernel
from collector.store.rundir.contents import Contents, Tick, count_contents, nothing
from collector.store.rundir.elsewhere import ELSEWHERE_NAME, read_elsewhere
from collector.store.rundir.locks import (
    LOCK_NAME,
    close_private,
    leads_to,
    loading,
    open_private,
    seize,
    unlock,
)
from collector.store.rundir.owner import OWNER_NAME, Owner, read_owner
from collector.store.rundir.removal import remove_tree
from collector.store.rundir.root import Root, mount_of

RUN_NAME: Final = re.compile(r"run-[0-9a-f]{16}", re.ASCII)
TRASH_NAME: Final = re.compile(r"trash-[0-9a-f]{32}", re.ASCII)
UNLOCKED_NAME: Final = "unlocked"
"""A file of this name says that the run goes on without locks, so nothing can prove its death."""

ASK_NAME: Final = "ask"
"""The socket on which the Collector is asked that works in the run directory."""

made_here: Final[set[str]] = set()
"""Names of the run directories that this process has made and not disposed of: its own sweep leaves
them, and does not look at them either. Otherwise 1. `dispose` drops the locks, 2. the sweep takes
the run, 3. `dispose` finds nothing left to do, or a lock that only looks, 4. the process ends, and
with it the sweep, in the midst of the removal or before it."""

_OWN_NAMES: Final = (ASK_NAME, ELSEWHERE_NAME, UNLOCKED_NAME, LOCK_NAME, OWNER_NAME)
_LOCK_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class RunState(enum.Enum):
    """What an entry of a root is found to be."""

    STALE = "stale"
    LIVE = "live"
    UNKNOWN = "unknown"
    FOREIGN = "foreign"
    UNREADABLE = "unreadable"
    GONE = "gone"


def new_trash_name() -> str:
    """Make up the name that a run directory gets when it is claimed for removal."""
    return f"trash-{os.urandom(16).hex()}"


def is_run_directory(path: str) -> bool:
    """Tell whether a sweep would take this for a run directory, or for one that is being removed.

    A directory of a user's may have such a name, but hardly such files.
    """
    name = os.path.basename(path)
    return bool(RUN_NAME.fullmatch(name) or TRASH_NAME.fullmatch(name)) and any(
        os.path.lexists(os.path.join(path, own)) for own in (LOCK_NAME, OWNER_NAME)
    )


def sweep(root: Root, name: str, *, trash: str, proven: bool = False) -> list[OSError] | None:
    """Remove one run directory if nobody uses it.

    Args:
        root: Where it lies.
        name: Its name there.
        trash: The name it gets on its way.
        proven: See `RootEntry`.

    Returns:
        What could not be removed; None if somebody uses it.
    """
    with RootEntry(root, name, proven=proven) as entry:
        found = entry.examine()
        if found is RunState.STALE:
            return entry.remove(trash)
        return [] if found is RunState.GONE else None


class RootEntry(Closable):
    """One entry of a root, and the locks on it.

    Args:
        root: The root.
        name: Name of the entry.
        proven: The caller made this run without locks and says that it is over.
        local_only: Leave what another machine has made: its locks are not seen here.
    """

    def __init__(
        self, root: Root, name: str, *, proven: bool = False, local_only: bool = False
    ) -> None:
        self._root = root
        self._name = name
        self._proven = proven
        self._local_only = local_only
        self._fd = -1
        self._lock_fd = -1

    @property
    def path(self) -> str:
        """Absolute path of the entry."""
        return os.path.join(self._root.path, self._name)

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of what `examine` has opened."""
        status = kernel.fstat(self._fd)
        return status.st_dev, status.st_ino

    def examine(self) -> RunState:
        """Find out what the entry is; of a stale run, the locks are held from now on."""
        if not (RUN_NAME.fullmatch(self._name) or TRASH_NAME.fullmatch(self._name)):
            return RunState.UNKNOWN
        try:
            found = self._open() or self._lock()
        except OSError:  # a disk that fails tells nothing: left, as what cannot be opened
            return RunState.UNREADABLE
        if found is RunState.LIVE and TRASH_NAME.fullmatch(self._name):
            return RunState.GONE  # another sweeper is removing it
        return found

    def owner(self) -> Owner:
        """Tell what is known about who made the run."""
        return read_owner(self._fd)

    def elsewhere(self) -> str:
        """Return the path of the run that this one only names; empty if it is one itself."""
        return read_elsewhere(self._fd)

    def age_s(self, owner: Owner, now: float) -> float:
        """Tell how long ago the run was made, as far as clocks can be believed; never negative."""
        made = kernel.fstat(self._fd).st_mtime if owner.started is None else owner.started
        return max(0.0, now - made)

    def contents(self, tick: Tick = nothing) -> Contents:
        """Count the files of outputs and jobs in the run."""
        return count_contents(self._fd, spared=frozenset(_OWN_NAMES), tick=tick)

    def remove(
        self, trash: str, *, removed: Contents | None = None, tick: Tick = nothing
    ) -> list[OSError]:
        """Remove a run that `examine` has just found stale; what could not be removed.

        The files of outputs and jobs that were removed are added to `removed`.
        """
        here = self._root.fd
        try:
            kernel.rename(self._name, trash, src_dir_fd=here, dst_dir_fd=here)
        except FileNotFoundError:
            return []
        except OSError as error:
            if error.errno != errno.EXDEV:
                error.filename, error.filename2 = self.path, None
                return [error]
            trash = self._name  # overlayfs renames no directory of a lower layer; it is no mount
        self._close_lock_file()  # its new name and the lock of the directory are enough from here
        failures = remove_tree(
            trash, self._fd, dir_fd=here, last=_OWN_NAMES, removed=removed, tick=tick
        )
        for failure in failures:
            failure.filename = os.path.join(self._root.path, trash, failure.filename)
        return failures

    def unlock(self) -> None:
        """Let go of the locks, but stay able to look at the entry."""
        if self._fd >= 0:
            unlock(self._fd)
        self._close_lock_file()

    def close(self) -> None:
        """Let go of everything."""
        self.unlock()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            close_private(fd)

    def _close_lock_file(self) -> None:
        if self._lock_fd >= 0:
            unlock(self._lock_fd)  # first: interrupted after this, it is only a descriptor
            fd, self._lock_fd = self._lock_fd, -1
            close_private(fd)

    def _open(self) -> RunState | None:
        try:
            self._fd = open_private(self._name, dir_fd=self._root.fd)
        except FileNotFoundError:
            return RunState.GONE
        except OSError:
            return self._judge_closed()
        status = kernel.fstat(self._fd)
        if status.st_uid != os.geteuid() or status.st_dev != self._root.device:
            return RunState.FOREIGN
        if mount_of(self._fd) != self._root.mount:
            return RunState.FOREIGN
        return None

    def _judge_closed(self) -> RunState:
        try:
            status = kernel.stat(self._name, dir_fd=self._root.fd, follow_symlinks=False)
        except FileNotFoundError:
            return RunState.GONE
        except OSError:
            return RunState.UNREADABLE
        return RunState.UNREADABLE if status.st_uid == os.geteuid() else RunState.FOREIGN

    def _lock(self) -> RunState:
        proven = self._proven
        try:
            if not seize(self._fd):
                return RunState.LIVE
            proven = True
        except OSError:
            pass  # no lock is to be had on a directory here: only the lock file can tell
        lock_file = self._seize_lock_file()
        if lock_file is False:
            return RunState.LIVE
        if not (proven or lock_file) or self._must_be_left():
            return RunState.UNKNOWN
        return RunState.STALE if self._is_in_place() else RunState.GONE

    def _seize_lock_file(self) -> bool | None:
        """Take the lock of the file lock; None if there is none that could be taken by anybody."""
        try:
            # Not through FileLock.acquire, which makes missing parents and opens a FIFO.
            self._lock_fd = open_private(LOCK_NAME, _LOCK_FLAGS, dir_fd=self._fd)
            if not stat.S_ISREG(kernel.fstat(self._lock_fd).st_mode):
                return None
            with loading("filelock"):
                from filelock import lock_descriptor

            return lock_descriptor(self._lock_fd, blocking=False)
        except OSError as error:
            return False if error.errno in _CANNOT_TELL else None

    def _must_be_left(self) -> bool:
        """Tell whether the locks seen here prove nothing about this run."""
        if self._proven:
            return False
        if self._local_only and self.owner().host != os.uname().nodename:
            return True
        try:
            kernel.stat(UNLOCKED_NAME, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _is_in_place(self) -> bool:
        return leads_to(self._name, self._fd, dir_fd=self._root.fd)


_CANNOT_TELL: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
