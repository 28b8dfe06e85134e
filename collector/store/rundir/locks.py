"""Hold the kernel's locks that prove that a run directory is in use.

Runs in:    every process that creates, joins, sweeps or disposes a run directory.
Owns:       the descriptors that carry a lock, until they are closed here.
Invariants: I1  a descriptor opened here lives in this process only: exec closes it, and so does a
                fork through Python, in the child. Otherwise a child would keep a dead run alive.
            I2  a lock is dropped by LOCK_UN before its descriptor is closed, so that a copy of the
                descriptor (a fork in C, or one between fork and exec) cannot hold it any longer.
            I3  a shared lock is never made exclusive: Linux drops the lock in between.
Source:     flock(2), open(2); systemd-tmpfiles(8) respects only a lock on the directory itself.
"""

import contextlib
import errno
import fcntl
import gc
import importlib
import logging
import os
import stat
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, final

from collector import interpreter
from collector.store.rundir import kernel

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

LOCK_NAME: Final = "lock"
"""Name of the file lock inside a run directory."""

_NEW_LOCK_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

_CONTENDED: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES})
_UNSUPPORTED: Final = frozenset(
    {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF, errno.EINVAL}
)

_held: Final[dict[int, tuple[int, int]]] = {}
"""The descriptors opened here, and which file each leads to: its device and inode."""

fork_gate: Final = threading.RLock()
"""Held while a descriptor is opened or closed, and by a fork: a child finds each descriptor of ours
either registered or absent. Reentrant, since a finalizer or a signal handler may take it again in
the same thread. A thread that holds it does nothing that can block."""

_load_gate: Final = threading.RLock()
_loaded: Final[set[str]] = set()
_OF_AN_IMPORT: Final = "<frozen importlib._bootstrap>"
_SELDOM: Final = 1_000_000


@contextlib.contextmanager
def loading(module: str) -> Iterator[None]:
    """Import a module within this block, which has loaded it beforehand where it can.

    A fork in another thread waits until the block is left. Otherwise the child could never import
    a module that another thread was importing at the fork: it would wait for the import lock of a
    thread that it does not have.

    No signal handler meets it half loaded: those run in the main thread, for which another one
    loads it. While holding the gate a thread may block on an import lock of the main thread.
    """
    if module in _loaded:
        yield
        return
    if not _is_whole(module) and _may_wait():
        _load_in_a_thread(module)
    with _load_gate, _gates_before_theirs(), _cycles_left_alone():
        yield
    _loaded.add(module)


def _is_whole(module: str) -> bool:
    """Whether it is loaded, and nobody is at it just now."""
    found = sys.modules.get(module)
    spec = getattr(found, "__spec__", None)
    return found is not None and not getattr(spec, "_initializing", False)


def _may_wait() -> bool:
    """Whether this is the main thread, and has nothing that an import in another one waits for."""
    if threading.get_ident() != threading.main_thread().ident:
        return False
    held: list[Any] = [_load_gate, getattr(logging, "_lock", _load_gate)]
    if any(lock._is_owned() for lock in held):  # noqa: SLF001 - by what this handler interrupts
        return False
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - there is no public way
    while frame is not None and frame.f_code.co_filename != _OF_AN_IMPORT:
        frame = frame.f_back
    return frame is None


def _load_in_a_thread(module: str) -> None:
    """Load it in a thread of its own; here and now, if no thread is to be had, that is left."""
    failures: list[BaseException] = []

    def load() -> None:
        try:
            with loading(module):
                importlib.import_module(module)
        except BaseException as error:  # noqa: BLE001 - raised by whoever has asked
            failures.append(error)

    thread = threading.Thread(target=load, name="collector-load")
    try:
        thread.start()
    except RuntimeError:  # the program ends, or has as many as it may have
        return
    thread.join()
    if failures:
        raise failures.pop()  # its traceback holds this frame


@contextlib.contextmanager
def _cycles_left_alone() -> Iterator[None]:
    """Look for garbage seldom meanwhile: modules that load leave hardly any, and that takes 5 %.

    What another thread chooses meanwhile, to look or not, is left as it is.
    """
    before = gc.get_threshold()
    if not 0 < before[0] < _SELDOM:  # the program has chosen
        yield
        return
    gc.set_threshold(_SELDOM)
    try:
        yield
    finally:
        if gc.get_threshold()[0] == _SELDOM:
            gc.set_threshold(*before)


@contextlib.contextmanager
def _gates_before_theirs() -> Iterator[None]:
    """Make a fork take our gates before it runs the fork hook of a module that is being imported.

    Without this: 1. the import of filelock registers its hook, which locks out all other threads
    for the time of a fork; 2. another thread forks: hooks run newest first, so filelock's runs and
    then ours, which waits for the import; 3. the import needs what filelock's hook has locked.
    """
    register = os.register_at_fork

    def register_both(**hooks_of_theirs: Any) -> None:
        hooks = _HooksBehindGates(**hooks_of_theirs)
        register(
            before=hooks.before,
            after_in_parent=hooks.after_in_parent,
            after_in_child=hooks.after_in_child,
        )

    os.register_at_fork = register_both
    try:
        yield
    finally:
        os.register_at_fork = register


@final
class _HooksBehindGates:
    """The fork hooks of a module that is being imported, run while our gates are closed.

    A fork that waits for the import at a gate has chosen the hooks that it runs before by then, but
    not yet those that it runs afterwards: there is nothing that these could undo.
    """

    def __init__(
        self,
        before: "Callable[[], object] | None" = None,
        after_in_parent: "Callable[[], object] | None" = None,
        after_in_child: "Callable[[], object] | None" = None,
    ) -> None:
        self._before = before
        self._after_in_parent = after_in_parent
        self._after_in_child = after_in_child
        self._begun_by = 0

    def before(self) -> None:
        _close_gates()
        self._begun_by = threading.get_ident()
        if self._before is not None:
            self._before()

    def after_in_parent(self) -> None:
        undone = self._before is not None and not self._is_begun()
        self._after(None if undone else self._after_in_parent)

    def after_in_child(self) -> None:
        self._after(self._after_in_child)  # it cleans up what the parent goes on with

    def _is_begun(self) -> bool:
        return self._begun_by == threading.get_ident()

    def _after(self, hook: "Callable[[], object] | None") -> None:
        try:
            if hook is not None:
                hook()
        finally:
            if self._is_begun():
                self._begun_by = 0
                _open_gates()


@final
class Lease:
    """The hold of one process on one run directory; made without holding anything.

    Attributes:
        fd: Descriptor of the directory with its shared lock, or -1.
        refused: The error with which locks were refused here, if nothing at all could be locked.
    """

    def __init__(self) -> None:
        self.fd = -1
        self.refused: OSError | None = None
        self._lock_fd = -1

    @property
    def held_fd(self) -> int:
        """The descriptor; -1 when it was let go of, or the program has closed it."""
        return self.fd if is_ours(self.fd) else -1

    def take(self, name: str, *, dir_fd: int) -> bool:
        """Open the directory `name` of `dir_fd` and lock it; False if it is lost to a sweeper.

        Raises:
            OSError: as `os.open`.
        """
        self.fd = open_private(name, dir_fd=dir_fd)
        try:
            if not share(self.fd):
                return False
        except OSError as error:
            if not unsupported(error):
                raise
            self.refused = error
        return leads_to(name, self.fd, dir_fd=dir_fd)

    def take_file_lock(self) -> bool:
        """Take the file lock in the directory; False if it is lost.

        Not through FileLock.acquire, which goes by the path and makes missing parents: 1. somebody
        removes the root, 2. it is made anew, in the mode of any directory, 3. nobody trusts it.

        Raises:
            OSError: as `os.open`.
        """
        with loading("filelock"):
            from filelock import lock_descriptor

        try:
            self._lock_fd = open_private(LOCK_NAME, _NEW_LOCK_FLAGS, dir_fd=self.fd)
            with contextlib.suppress(OSError):  # the umask may have taken it away
                kernel.fchmod(self._lock_fd, stat.S_IRUSR | stat.S_IWUSR)
            if not lock_descriptor(self._lock_fd, blocking=False):
                return False
        except FileNotFoundError:
            return False
        except OSError as error:
            if not unsupported(error):
                raise
            return True
        self.refused = None  # it alone proves life where no directory can be locked
        return True

    def drop(self) -> None:
        """Let go of everything; any number of times."""
        with fork_gate:
            if self._lock_fd >= 0:
                unlock(self._lock_fd)  # first: interrupted after this, it is only a descriptor
                fd, self._lock_fd = self._lock_fd, -1
                close_private(fd)
            if self.fd >= 0:
                unlock(self.fd)
                fd, self.fd = self.fd, -1
                close_private(fd)


def open_private(path: str, flags: int = DIRECTORY_FLAGS, *, dir_fd: int | None = None) -> int:
    """Open a file or directory by a descriptor that no child process inherits.

    Raises:
        OSError: as `os.open`.
    """
    with fork_gate:
        fd = kernel.open_fd(path, flags | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
        try:
            _held[fd] = _file_at(fd)
        except BaseException:
            kernel.close(fd)
            raise
        return fd


def close_private(fd: int, *, locked: bool = True) -> None:
    """Close a descriptor of ours; before that drop whatever lock it carries, unless none can."""
    with fork_gate:
        if locked:
            unlock(fd)
        ours = is_ours(fd)
        _held.pop(fd, None)
        if ours:
            kernel.close(fd)


def close_at_home(pid: int, fd: int) -> None:
    """Close a descriptor that a process has opened, there.

    In a child that it forked all of them were closed, and the number may be another file's.
    """
    if os.getpid() == pid:
        close_private(fd, locked=False)


def share(fd: int) -> bool:
    """Take the shared lock of a user of the directory, without waiting.

    Returns:
        False if a sweeper holds the directory.

    Raises:
        OSError: the file system or a sandbox refuses locks; see `unsupported`.
    """
    return _lock(fd, fcntl.LOCK_SH)


def seize(fd: int) -> bool:
    """Take the exclusive lock of a sweeper, without waiting.

    Returns:
        False if somebody uses the directory.

    Raises:
        OSError: the file system or a sandbox refuses locks; see `unsupported`.
    """
    return _lock(fd, fcntl.LOCK_EX)


def unlock(fd: int) -> None:
    """Drop the lock that `fd` carries, if any; never raises."""
    if not is_ours(fd):
        return
    try:
        kernel.flock(fd, fcntl.LOCK_UN)
    except OSError:
        # There is no lock to drop where none could be taken. The close that follows does the rest.
        return


def unsupported(error: OSError) -> bool:
    """Tell whether `error` says that locks are not to be had here, rather than held by another."""
    return error.errno in _UNSUPPORTED


def leads_to(name: str, fd: int, *, dir_fd: int | None = None) -> bool:
    """Tell whether `name`, in the directory `dir_fd` if given, is still what is behind `fd`."""
    try:
        found = kernel.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, kernel.fstat(fd))


def _file_at(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def is_ours(fd: int) -> bool:
    """Tell whether a descriptor was opened here, and the program has not closed it since.

    Then its number may be one of the program's by now, whose file, mode and locks are left alone.
    """
    if fd not in _held:
        return False
    try:
        return _file_at(fd) == _held.get(fd)  # gone, if another thread has closed it meanwhile
    except OSError as error:
        return error.errno != errno.EBADF  # a disk that is lost tells nothing of it


def _lock(fd: int, operation: int) -> bool:
    try:
        kernel.flock(fd, operation | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _CONTENDED:
            return False
        raise
    return True


def _close_inherited() -> None:
    """Close in a forked child what belongs to the parent, without a LOCK_UN: it is the parent's."""
    for fd in tuple(_held):
        if is_ours(fd):  # else it was closed behind our back
            os.close(fd)
    _held.clear()
    _open_gates()


def _close_gates() -> None:
    _load_gate.acquire()
    fork_gate.acquire()


def _open_gates() -> None:
    fork_gate.release()
    _load_gate.release()


os.register_at_fork(before=_close_gates, after_in_parent=_open_gates)
interpreter.in_forked_child(_close_inherited)
