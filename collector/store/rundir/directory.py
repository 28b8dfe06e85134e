"""Make a run directory, hold it against every sweep, and remove it with the last user.

Runs in:    the process that made the directory, and others of the same run that join it (the sink).
Owns:       three descriptors: the root, the directory with its shared lock, the file lock inside.
States:     as `TABLE` says. What was let go of is removed, or left to whoever still holds it.
Invariants: I1  while one process of the run holds its lease, no sweep removes the directory.
            I2  only the process that made an object removes anything through it: a forked child
                never deletes its parent's files.
            I3  killed at any point, all that is left is one directory that the next sweep removes.
            I4  counting users takes no lock: finalizers may release from anywhere.
Source:     docs/decisions/0003, docs/reference/run-directory.md.
"""

import contextlib
import errno
import os
import stat
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, final

from collector import interpreter
from collector.errors import RunDirectoryError
from collector.logger import PackageLogger
from collector.settings import (
    DIRECTORY_TRIES,
    DISPOSE_PATIENCE_S,
    DISPOSE_PAUSE_S,
    OWN_DIRECTORIES_IDLE,
    RUN_NAME_TRIES,
)
from collector.states import TableEnum, move
from collector.store.absolute import absolute_path
from collector.store.rundir import cleanup, kernel
from collector.store.rundir.claim import (
    RUN_NAME,
    UNLOCKED_NAME,
    made_here,
    new_trash_name,
    sweep,
)
from collector.store.rundir.locks import Lease, close_private, leads_to, loading, open_private
from collector.store.rundir.owner import write_owner
from collector.store.rundir.root import (
    ROOT_VARIABLE,
    PathName,
    Root,
    absolute,
    advise,
    advise_unlocked,
    open_root,
    tighten,
)
from collector.store.rundir.scratch import remove_scratch_in

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = PackageLogger()


class State(TableEnum):
    """Whether this process holds the directory."""

    HELD = "held"
    DISPOSING = "disposing"
    """A finalizer or a signal handler may come in between, and finds that it is being disposed."""
    LET_GO = "let go"


class Event(TableEnum):
    """What changes that."""

    BEGUN = "dispose begins"
    BROKEN_OFF = "an exception breaks it off"
    DONE = "it is done"


TABLE: Final = {
    State.HELD: {Event.BEGUN: State.DISPOSING},
    State.DISPOSING: {Event.BROKEN_OFF: State.HELD, Event.DONE: State.LET_GO},
    State.LET_GO: {},
}

FILE_SUFFIX: Final = ".spill"
"""Of the files of outputs and logs."""

_BASE_NAME_BYTES: Final = 200
"""A file name may have 255 bytes (NAME_MAX); this leaves room for the random part."""


@final
class RunDirectory:
    """One run directory, held by this process. Thread-safe.

    Attributes:
        path: Absolute path.
        owner_pid: Process that made this object. In any other one (after a fork) nothing is removed
            and nothing new is made through it.
    """

    def __init__(self, root: Root, name: str) -> None:
        self.path = Path(root.path, name)
        self.owner_pid = os.getpid()
        self._root = root
        self._lease = Lease()
        self._made_here = False
        self._trash = new_trash_name()
        self._forget: Callable[[], None] | None = None
        self._users = [None]  # its length counts them: append and pop need no lock (I4)
        self._disposing = threading.RLock()
        self._state = State.HELD

    @property
    def fd(self) -> int:
        """Descriptor of the directory, which carries the shared lock; see `Lease.held_fd`."""
        return self._lease.held_fd

    @classmethod
    def create(cls, temp_root: PathName | None = None) -> Self:
        """Make a run directory and hold it; `dispose` or the last `release` removes it.

        Args:
            temp_root: Where; None for `$COLLECTOR_TMPDIR` or else the default root.

        Raises:
            RunDirectoryError: The root cannot be made or trusted, or is full.
        """
        tries = 0
        while True:
            root = open_root(temp_root)
            advise(root)
            try:
                return cls.create_in(root)
            except RunDirectoryError as error:
                tries += 1
                if error.errno != errno.ENOENT or tries == DIRECTORY_TRIES:
                    raise
                # Others removed or moved the root just now: it is opened, or made, anew.

    @classmethod
    def create_in(cls, root: Root) -> Self:
        """Make a run directory in a root that is the directory's own from now on.

        Raises:
            RunDirectoryError: The root is full.
        """
        for _ in range(RUN_NAME_TRIES):
            directory = cls(root, f"run-{os.urandom(8).hex()}")
            try:
                if directory._establish():
                    return directory
            except BaseException as error:
                directory._abandon()
                root.close()
                if isinstance(error, OSError):
                    raise _cannot_make(error, root.path) from error
                raise
            directory._abandon()  # a sweeper was there first: take a new name
        root.close()
        raise _cannot_make(OSError(errno.EAGAIN, "others remove it at once"), root.path)

    @classmethod
    def join(cls, path: PathName) -> Self:
        """Hold a run directory that another process of the same run has made and still holds.

        Raises:
            RunDirectoryError: It is gone, or somebody is removing it.
        """
        place, name = os.path.split(absolute_path(path))
        if not RUN_NAME.fullmatch(name):
            raise RunDirectoryError(errno.EINVAL, "this is no run directory", path)
        root = open_root(place, make=False)
        directory = cls(root, name)
        try:
            if not directory._lease.take(name, dir_fd=root.fd):
                raise FileNotFoundError(errno.ENOENT, "somebody is removing it")  # noqa: TRY301
        except BaseException as error:
            directory._lease.drop()
            root.close()
            if isinstance(error, OSError):
                message = f"cannot use the run directory: {error.strerror}"
                raise RunDirectoryError(error.errno or errno.EIO, message, path) from error
            raise
        return directory

    def create_file(self, base_name: str) -> tuple[int, str]:
        """Make a new file for an output.

        Args:
            base_name: How its name begins; what cannot stand in a file name is replaced.

        Returns:
            A descriptor open for reading and writing, and the name in this directory.

        Raises:
            OSError: as `os.open`: disk full, permission, too many files.
        """
        self._check_process()
        names = sys.getfilesystemencoding()  # not UTF-8 in every locale
        base = base_name.replace("/", "_").replace("\0", "_").encode(names, "replace")
        kept = base[:_BASE_NAME_BYTES].decode(names, "ignore")
        name = f"{kept}-{os.urandom(8).hex()}{FILE_SUFFIX}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return kernel.open_fd(name, flags, 0o600, dir_fd=self.fd), name

    def open_file(self, name: str) -> int:
        """Open a file of this directory for reading; in a forked child too.

        Raises:
            OSError: as `os.open`; `FileNotFoundError` also if the directory was let go of, or if
                something else has the name: a link, a directory, a FIFO.
        """
        # Without a wait: a FIFO would wait for a writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            if self._is_ours():
                fd = kernel.open_fd(name, flags, dir_fd=self.fd)
            else:
                fd = kernel.open_fd(os.path.join(self.path, name), flags)
        except OSError as error:
            # EBADF: its last user went, perhaps just now in another thread, and its files with it.
            error.filename = path = os.path.join(self.path, name)
            if error.errno not in {errno.EBADF, errno.ELOOP, errno.ENXIO}:
                raise
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
        try:
            if not stat.S_ISREG(kernel.fstat(fd).st_mode):
                path = os.path.join(self.path, name)
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)  # noqa: TRY301
        except BaseException:
            kernel.close(fd)
            raise
        return fd

    def remove_file(self, name: str) -> bool:
        """Remove a file of this directory; never raises.

        Returns:
            False if it was gone or could not be removed; the latter is logged.
        """
        if not self._is_ours() or self.fd < 0:
            return False
        try:
            kernel.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        except OSError as error:
            error.filename = os.fspath(self.path / name)
            self._report([error])
            return False
        return True

    def remove_scratch(self, path: PathName) -> None:
        """Remove a scratch directory with all that is in it; never raises."""
        if self._is_ours() and self.fd >= 0:
            failures = remove_scratch_in(self.fd, os.path.basename(path))
            for failure in failures:
                failure.filename = os.path.join(self.path, failure.filename)
            self._report(failures)

    @property
    def identity(self) -> str:
        """Device and inode, by which other processes know it: its name may lead elsewhere by then.

        Raises:
            OSError: It was let go of.
        """
        status = kernel.fstat(self.fd)
        return f"{status.st_dev}:{status.st_ino}"

    def is_in_place(self) -> bool:
        """Tell whether this process still holds the directory, under its own name, and may use it.

        It does not if others have removed, moved, replaced or closed it, or mounted over it.
        """
        if not self._is_ours() or self.fd < 0:
            return False
        try:
            found = os.lstat(self.path)
            same = os.path.samestat(found, kernel.fstat(self.fd))
        except OSError:
            return False
        return same and found.st_mode & stat.S_IRWXU == stat.S_IRWXU

    def leave(self) -> None:
        """Count one user less of a directory that is not in place; what is in it stays readable.

        There is nothing in an unlinked directory: its locks are dropped even if others use it.
        """
        with contextlib.suppress(OSError):  # it was let go of, or the disk is lost
            if not kernel.fstat(self.fd).st_nlink:
                self.dispose()
        self._open_again()
        self.release()

    @property
    def is_idle(self) -> bool:
        """Whether it has one user only: whoever keeps it for the next file."""
        return len(self._users) == 1

    def retain(self) -> None:
        """Count one more user; each calls `release` once."""
        self._users.append(None)

    def release(self) -> None:
        """Count one user less; the last one disposes of the directory."""
        with contextlib.suppress(IndexError):
            self._users.pop()
        if not self._users:
            self.dispose()

    def dispose(self, patience_s: float = DISPOSE_PATIENCE_S) -> None:
        """Let go of the directory and remove it, unless another process still holds it.

        May be called at any time and again; does nothing in a forked child, and never raises an
        `OSError`. If an exception interrupts it, the next call goes on.

        Args:
            patience_s: How long to wait for another process that is about to let go of it.
        """
        if not self._is_ours() or not self._disposing.acquire(blocking=False):
            return  # another thread is at it
        try:
            failures = self._dispose_once(patience_s)
        finally:
            self._disposing.release()
        self._report(failures)

    def dispose_at_exit(self) -> None:
        """Dispose of the directory when this process ends, unless that was done before."""
        if self._forget is None:
            self._forget = cleanup.on_exit(self.dispose)
        if self._state is State.LET_GO:  # perhaps by another thread, with nothing to forget yet
            self._forget()

    def _establish(self) -> bool:
        """Go through the steps of making; False if a sweeper came in between."""
        name, root_fd = self.path.name, self._root.fd
        self._made_here = True
        made_here.add(name)
        kernel.mkdir(name, stat.S_IRWXU, dir_fd=root_fd)
        try:
            if not self._lease.take(name, dir_fd=root_fd):
                return False
        except (FileNotFoundError, NotADirectoryError):
            return False
        tighten(self.fd)
        if not self._lease.take_file_lock():
            return False
        if not leads_to(name, self.fd, dir_fd=root_fd):
            return False
        if not leads_to(self._root.path, root_fd):  # moved: here would be another path than ours
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if self._lease.refused is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            close_private(open_private(UNLOCKED_NAME, flags, dir_fd=self.fd))
            advise_unlocked(self._root, self._lease.refused)
        write_owner(self.fd)
        return True

    def _dispose_once(self, patience_s: float) -> list[OSError]:
        if self._state is not State.HELD:
            return []  # DISPOSING: a finalizer came in between and released the last user
        with cleanup.deferred():
            try:
                self._state = move(TABLE, self._state, Event.BEGUN)
                made_here.add(self.path.name)  # again, after it was broken off
                self._open_again()
                self._lease.drop()
                failures = self._remove(patience_s)
                self._state = move(TABLE, self._state, Event.DONE)
            finally:
                made_here.discard(self.path.name)
                if self._state is State.DISPOSING:
                    self._state = move(TABLE, self._state, Event.BROKEN_OFF)
            with contextlib.suppress(OSError):  # the program has closed it
                self._root.close()
            if self._forget is not None:
                self._forget()
        return failures

    def _abandon(self) -> None:
        self._lease.drop()
        if not self._made_here:
            return
        try:
            kernel.rmdir(self.path.name, dir_fd=self._root.fd)  # empty: needs no descriptor
        except OSError:
            self._remove()
        finally:
            made_here.discard(self.path.name)

    def _open_again(self) -> None:
        """Put the mode back, which others may have taken away."""
        with contextlib.suppress(OSError):
            if self._made_here:
                tighten(self.fd)

    def _remove(self, patience_s: float = DISPOSE_PATIENCE_S) -> list[OSError]:
        proven = self._made_here and self._lease.refused is not None
        failures = None
        for _ in range(1 + int(patience_s / DISPOSE_PAUSE_S)):
            failures = sweep(self._root, self.path.name, trash=self._trash, proven=proven)
            if failures is not None:
                break
            # Another process holds it: for as long as it needs it, or only to look (`ls`).
            time.sleep(DISPOSE_PAUSE_S)
        return failures or sweep(self._root, self._trash, trash=new_trash_name()) or []

    def _report(self, failures: list[OSError]) -> None:
        for first in failures[:1]:
            message = "cannot remove %a: %s; `collector gc` will try again"
            _logger.warning(message, first.filename, first.strerror)

    def _is_ours(self) -> bool:
        return os.getpid() == self.owner_pid

    def _check_process(self) -> None:
        if not self._is_ours():
            message = f"the run directory belongs to process {self.owner_pid}, from before a fork"
            raise OSError(errno.EBADF, message, os.fspath(self.path))


class _OwnDirectories:
    """The run directories of this process for outputs that belong to no Collector."""

    def __init__(self) -> None:
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget what was made before a fork; a lock that another thread held is never freed."""
        self.lock = threading.RLock()
        self.by_root: dict[str, RunDirectory] = {}

    def let_go_of_removed(self) -> None:
        """Let go of those that somebody removed, or moved; outputs that are left keep them."""
        for key, directory in list(self.by_root.items()):
            if not directory.is_in_place():
                del self.by_root[key]
                directory.leave()

    def let_go_of_idle(self) -> None:
        """Let go of those without a file, but for the few that were asked for last.

        A program may name a new root each time. What another thread has just asked for is about to
        have a file, and is not among the first.
        """
        idle = [key for key, directory in self.by_root.items() if directory.is_idle]
        for key in idle[:-OWN_DIRECTORIES_IDLE]:
            self.by_root.pop(key).release()


_own: Final = _OwnDirectories()
interpreter.in_forked_child(_own.start_afresh)
interpreter.in_forked_child(made_here.clear)


def process_run_directory(temp_root: PathName | None = None) -> RunDirectory:
    """Return the run directory of this process for one root, making it at first need.

    It is made anew in a forked child, and when somebody has removed it. It is removed when the
    process ends, as far as any code can run then (`collector.store.rundir.cleanup`); without a file
    before that, when others are asked for.

    Raises:
        RunDirectoryError: as `RunDirectory.create`.
    """
    key = absolute(temp_root) if temp_root is not None else os.environ.get(ROOT_VARIABLE, "")
    with _own.lock, cleanup.deferred():
        found = _own.by_root.get(key)
        if found is not None and found.is_in_place():
            _own.by_root[key] = _own.by_root.pop(key)  # the last one that was asked for
            return found
        _own.let_go_of_removed()
        _own.let_go_of_idle()
        directory = RunDirectory.create(temp_root)
        directory.dispose_at_exit()
        _own.by_root[key] = directory
        with loading("collector.store.rundir.reclaim"):
            from collector.store.rundir.reclaim import start_sweep  # noqa: PLC0415 - no sink needs it
        start_sweep(directory.path.parent)
        return directory


def _cannot_make(error: OSError, path: str) -> RunDirectoryError:
    number = error.errno or errno.EIO
    return RunDirectoryError(number, f"cannot make a run directory: {error.strerror}", path)
