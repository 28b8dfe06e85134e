"""The run directory that a Collector works in, made anew when others have taken it away.

Runs in:    the parent, in any thread.
Owns:       the run directory in use, and earlier ones as long as a job may have a file there.
Invariants: I1  only the parent makes run directories; the sink and the workers ask for the one that
                there is now.
            I2  no new file is made in a directory that is not in place any more.
            I3  a failure is not remembered: whoever needs a directory next tries again.
"""

import errno
import os
import threading
from typing import TYPE_CHECKING, Final, final

from collector.errors import RunDirectoryError
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.root import ROOT_VARIABLE, PathName

if TYPE_CHECKING:
    from collections.abc import Callable


@final
class CurrentDirectory:
    """The run directory of one Collector. Thread-safe.

    Args:
        temp_root: Where it is made; None for `$COLLECTOR_TMPDIR` or else the default root. It is
            found once: a later one is made in the root in which the first one was.

    Raises:
        RunDirectoryError: as `RunDirectory.create`.
    """

    def __init__(self, temp_root: PathName | None = None) -> None:
        self.at_move: Callable[[RunDirectory], object] = _nothing
        """Called with the earlier directory when there is a new one, in any thread."""
        self.in_temp_root = temp_root is not None
        """Whether its user has named the root, which other processes then need not know."""
        self.entry = ""
        """Path of the entry in the default root that names it; empty if there is none."""
        self._latest = RunDirectory.create(temp_root)
        chosen = temp_root is not None or os.environ.get(ROOT_VARIABLE)
        self.root: Final = self._latest.path.parent if chosen else None
        """The root, if somebody has chosen it; None for the default one."""
        self._earlier: tuple[RunDirectory, ...] = ()
        self._lock = threading.RLock()
        self._over = False

    @property
    def latest(self) -> RunDirectory:
        """The one made last; others may have removed it since."""
        return self._latest

    def current(self) -> RunDirectory:
        """Return the one to make files in; a new one if others have taken the last one away.

        Raises:
            RunDirectoryError: They have, and no new one can be made; the next call tries again.
        """
        with self._lock:
            latest = self._latest
            if self._over or latest.owner_pid != os.getpid() or latest.is_in_place():
                return latest
            try:
                self._latest = self._make()
            except RunDirectoryError as error:
                message = (
                    f"others removed or replaced the run directory {latest.path} while it was in "
                    f"use, and no new one can be made: {error.strerror}"
                )
                number = error.errno or errno.EIO
                raise RunDirectoryError(number, message, error.filename or "") from error
            self._earlier = (*self._earlier, latest)
            latest.retain()  # until `drop`
            latest.leave()
        self.at_move(latest)
        return self._latest

    def _make(self) -> RunDirectory:
        root = self.root
        if root is not None and root.is_symlink():
            # One that led to the root was followed at the start; this one was put there since.
            message = "the temp root has become a symbolic link"
            raise RunDirectoryError(errno.ELOOP, message, root)
        return RunDirectory.create(root)

    def holding(self, name: str) -> RunDirectory:
        """Return the directory in which the file `name` lies; of a lost file the likeliest one."""
        earlier = self._earlier
        for directory in (self._latest, *reversed(earlier)) if earlier else ():
            try:
                os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
            except OSError:
                continue
            return directory
        return earlier[-1] if earlier else self._latest

    def every(self) -> tuple[RunDirectory, ...]:
        """Return the one in use and the earlier ones."""
        return (self._latest, *self._earlier)

    def drop(self, earlier: RunDirectory) -> None:
        """Let go of an earlier one: no job that runs can have a file there."""
        with self._lock:
            if self._over or earlier not in self._earlier:
                return
            self._earlier = tuple(one for one in self._earlier if one is not earlier)
        earlier.release()

    def release(self) -> None:
        """Let go of all of them, once: no job will need a file. Outputs hold theirs longer."""
        with self._lock:
            self._over = True
        for directory in self.every():
            directory.release()

    def dispose(self) -> None:
        """Remove all of them now, after `release`."""
        for directory in self.every():
            directory.dispose()

    def dispose_at_exit(self) -> None:
        """Remove when this process ends those that outputs hold until then."""
        for directory in self.every():
            directory.dispose_at_exit()


def _nothing(_earlier: RunDirectory) -> None:
    """Do nothing: nobody wants to know of a new directory."""
