"""The Unix socket in a run directory on which a Collector is asked, and the way to it.

Both sides go through the directory's own descriptor, so that neither the length of its path nor
what others make of that path meanwhile counts.

Runs in:    the parent, which listens; any process of the same user, which asks.
Owns:       the listening socket and its name, until `close`.
Invariants: I1  who asks connects to a socket of its own user in a run directory of its own, never
                through a link, and both ends see to it that the other is of the same user.
            I2  no name is removed but that of the very socket which was bound here.
Source:     unix(7): SO_PEERCRED; Linux takes the mode of the socket from its descriptor.
"""

import contextlib
import errno
import os
import socket
import stat
import struct
from typing import Final, final

from collector import interpreter, settings
from collector.store.rundir import kernel
from collector.store.rundir.claim import ASK_NAME
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.locks import fork_gate

_MODE: Final = 0o600
_CREDENTIALS: Final = struct.Struct("=iII")
_TIME: Final = struct.Struct("@ll")


@final
class AskSocket:
    """The socket of one Collector.

    Args:
        directory: Where it lies.

    Raises:
        OSError: There can be none here.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._inode = -1
        with fork_gate:
            self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            _ours.add(self.listening)
        self.listening.setblocking(False)
        try:
            os.fchmod(self.listening.fileno(), _MODE)
            self.listening.bind(_name_in(directory.fd, ASK_NAME))
            status = kernel.stat(ASK_NAME, dir_fd=directory.fd, follow_symlinks=False)
            self._inode = status.st_ino
            if stat.S_IMODE(status.st_mode) != _MODE:  # the umask took something away
                os.chmod(_name_in(directory.fd, ASK_NAME), _MODE)
            self.listening.listen(settings.ASKING_BACKLOG)
        except BaseException:
            self.close()
            raise

    def accept(self) -> socket.socket | None:
        """Return the next one who asks; None if nobody does now, or a stranger did.

        Raises:
            OSError: No descriptor is to be had.
        """
        try:
            with fork_gate:
                asking, _ = self.listening.accept()
                _ours.add(asking)
        except (BlockingIOError, ConnectionAbortedError):
            return None
        if user_of(asking) != os.geteuid():
            hang_up(asking)
            return None
        asking.setblocking(False)
        return asking

    def close(self) -> None:
        """Stop listening and remove the name."""
        hang_up(self.listening)
        inode, self._inode = self._inode, -1
        with contextlib.suppress(OSError):  # the directory was let go of, and the name with it
            status = kernel.stat(ASK_NAME, dir_fd=self._directory.fd, follow_symlinks=False)
            if status.st_ino == inode and stat.S_ISSOCK(status.st_mode):
                kernel.unlink(ASK_NAME, dir_fd=self._directory.fd)


def hang_up(connection: socket.socket) -> None:
    """Close a socket that was made here."""
    with fork_gate:
        _ours.discard(connection)
        connection.close()


def user_of(connection: socket.socket) -> int:
    """Return the user at the other end, as the kernel noted when that end connected or listened.

    Raises:
        OSError: This system does not tell.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        raise OSError(errno.EOPNOTSUPP, "nobody tells here whose the other end of a socket is")
    said = connection.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(said)[1])


def reach(directory: str, timeout_s: float) -> socket.socket:
    """Return a connection to the Collector whose run directory this is.

    No single operation on it takes longer than the time given.

    Raises:
        FileNotFoundError: No Collector listens there.
        TimeoutError: It has not taken the connection in time.
        OSError: What lies there is not to be trusted, or cannot be reached.
    """
    above = kernel.open_fd(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _see_that_it_is_ours(above, directory)
        end = kernel.open_fd(ASK_NAME, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    finally:
        os.close(above)
    try:
        _see_that_it_is_ours(end, directory)
        if not stat.S_ISSOCK(kernel.fstat(end).st_mode):
            raise OSError(errno.ENOTSOCK, "what has the name of its socket is none", directory)
        return _connected(end, timeout_s)
    finally:
        os.close(end)


def wait_without_end(connection: socket.socket) -> None:
    """Have what is received next take as long as it takes; `settimeout` cannot take it back."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIME.pack(0, 0))


def _connected(end: int, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Not settimeout: without waiting a full backlog is an error at once.
        limit = _TIME.pack(int(timeout_s), int(timeout_s % 1 * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        try:
            connection.connect(f"/proc/self/fd/{end}")
        except BlockingIOError:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
        if user_of(connection) != os.geteuid():
            raise PermissionError(errno.EPERM, "the other end is another user's")  # noqa: TRY301
    except BaseException:
        connection.close()
        raise
    return connection


def _see_that_it_is_ours(fd: int, path: str) -> None:
    if kernel.fstat(fd).st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it is another user's", path)


def _name_in(directory_fd: int, name: str) -> str:
    return f"/proc/self/fd/{directory_fd}/{name}"


_ours: Final[set[socket.socket]] = set()
"""Those that a forked child must not keep: who asks would never see the end of an answer."""


@interpreter.in_forked_child
def _close_inherited() -> None:
    for one in list(_ours):
        with contextlib.suppress(OSError):  # somebody has closed it behind our back
            os.close(one.detach())
    _ours.clear()
