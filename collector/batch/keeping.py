"""Write into one shard of a batch directory: lines, packs and files.

Runs in:    the process that holds the shard's lock, one thread at a time; `later` in any thread.
Owns:       the lock; descriptors of the journal and of the pack that grows.
Invariants: I1  lines that count together are one write(2), or all of them are taken back: what is
                in the journal is whole, unless the process was killed in the middle of the call.
            I2  a pack that lacks bytes which a line promises is never written to again: others'
                bytes would stand in their place.
            I3  what cannot be written leaves nothing: no file, no part of a pack, no line.
            I4  with `durable`, bytes are on the disk before their line is written.
            I5  behind what could not be taken back nothing is written: a line would be torn by it.
"""

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from collector import settings
from collector.batch.directory import SHARD_PREFIX, BatchDirectory, open_plain, refused
from collector.batch.lines import Filed, Packed
from collector.batch.shard import FILES_NAME, JOURNAL_NAME, PLACE, Shard, pack_name
from collector.errors import BatchError, CollectorError, spill_error
from collector.logger import PackageLogger
from collector.settings import KIB
from collector.store.output.output import Output, publish
from collector.store.output.publish import NO_SYNC
from collector.store.output.spill_file import write_all
from collector.store.rundir.locks import (
    close_private,
    loading,
    open_private,
    share,
    unlock,
    unsupported,
)
from collector.store.rundir.owner import Owner, read_owner

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_NAME: Final = "lock"
WRITER_NAME: Final = "writer.json"

_logger = PackageLogger()
_LATER_BYTES: Final = 64 * KIB
_APPEND: Final = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK


@final
class ShardLock:
    """The right to write into a shard.

    Args:
        directory: In which it lies.
        name: Of the shard, which is made if it is missing.

    Raises:
        BatchError: Another process has it, or the directory cannot be written to.
    """

    def __init__(self, directory: BatchDirectory, name: str) -> None:
        self._lock: BaseFileLock | None = None
        self.path = os.path.join(directory.path, f"{SHARD_PREFIX}{name}")
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{SHARD_PREFIX}{name}", stat.S_IRWXU, dir_fd=directory.fd)
            status = os.stat(f"{SHARD_PREFIX}{name}", dir_fd=directory.fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "it is no directory, or a link to one")
            self._take(directory)
        except OSError as error:
            raise refused(error, self.path) from error

    def drop(self) -> None:
        """Let others write; any number of times."""
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(OSError):
                lock.release()

    def _take(self, directory: BatchDirectory) -> None:
        with loading("filelock"):
            from filelock import FileLock, Timeout

        lock = FileLock(
            os.path.join(self.path, LOCK_NAME),
            mode=0o600,
            thread_local=False,
            fallback_to_soft=False,
            preserve_lock_file=True,
        )
        try:
            try:
                lock.acquire(blocking=False)
            except Timeout:
                name = os.path.join(os.path.basename(self.path), LOCK_NAME)
                if _is_locked(open_plain(directory.fd, name)):
                    raise
                lock.acquire(settings.LOOK_PATIENCE_S, settings.LOOK_PAUSE_S)  # `is_held` has it
        except Timeout:
            raise BatchError(errno.EWOULDBLOCK, _held(self.path), directory.path) from None
        except OSError as error:
            if not unsupported(error):
                raise
            _logger.warning(
                "locks are refused in %s (%s): see to it that no two processes write into one "
                "shard of this batch at once.",
                directory.path,
                error.strerror,
            )
            return
        self._lock = lock


def is_held(shard: Shard) -> bool:
    """Whether a process has the right to write into a shard."""
    try:
        with shard.directory_fd() as directory_fd:
            fd = open_plain(directory_fd, LOCK_NAME)
    except OSError:
        return False
    return _is_locked(fd)


def _is_locked(fd: int) -> bool:
    """Whether a process holds the lock of this file to write; closes it."""
    try:
        if not share(fd):
            return True
        unlock(fd)
    except OSError:  # locks are refused here: nobody can hold one
        return False
    finally:
        os.close(fd)
    return False


def _held(path: str) -> str:
    """Say who holds a shard, as far as its advice for people tells, and what to do."""
    owner = Owner()
    with contextlib.suppress(OSError):
        fd = open_private(path)
        try:
            owner = read_owner(fd, WRITER_NAME)
        finally:
            close_private(fd, locked=False)
    who = "another process"
    if owner.pid is not None:
        who = f"process {owner.pid} on {owner.host} ({owner.command})"
    message = f"{who} writes into it: wait for its end, or end it"
    if (owner.pid, owner.host) == (os.getpid(), os.uname().nodename):
        message = (
            "this process writes into it: call close() on what the other collect has returned, or "
            "read that to its end"
        )
    return message


@final
class Keeper:
    """Writes lines, packs and files of a shard whose lock is held.

    Args:
        shard: The same, as it is read.
        end: Where the last whole line of its journal ends.
        next_pack: The number of the pack to begin with, as I2 has it.
        durable: Have bytes on the disk before their line.

    Attributes:
        end: Where its last whole line ends by now.
        leaves: Whether something stays that was to be removed.
        has_refused_sync: Whether the disk has refused to sync. What was written before may be lost
            then, though it says yes when it is asked again (wiki.postgresql.org/wiki/Fsync_Errors).

    Raises:
        BatchError: The journal cannot be written to, or the directories of its files are links.
    """

    def __init__(self, shard: Shard, end: int, next_pack: int, *, durable: bool) -> None:
        self.leaves = False
        self.has_refused_sync = False
        self._shard = shard
        self._durable = durable
        self._pack, self._pack_fd, self._pack_end = next_pack, -1, 0
        self._unsynced: set[int] = set()
        self._directories: set[str] = set()
        self._fd = -1
        self._uncut: range | None = None
        self._later = bytearray()
        self._later_lock = threading.Lock()
        _refuse_links(os.path.join(shard.path, FILES_NAME))
        try:
            self._fd = self._open(JOURNAL_NAME)
            self.end = end
            if os.fstat(self._fd).st_size > end:
                os.ftruncate(self._fd, end)
        except OSError as error:
            self.close()
            raise refused(error, os.path.join(shard.path, JOURNAL_NAME)) from error

    def append(self, data: bytes, *, sync: bool = False) -> int:
        """Append whole lines to the journal; returns where they begin.

        Args:
            data: The lines.
            sync: Have them on the disk, too.

        Raises:
            SpillError: They cannot be written; none of them is there then.
        """
        try:
            self._cut_now()
            begin = _append(self._fd, data, self._cannot_cut, self._sync if sync else bool)
        except OSError as error:
            raise spill_error(error, os.path.join(self._shard.path, JOURNAL_NAME)) from error
        self.end = begin + len(data)
        return begin

    def later(self, data: bytes) -> bool:
        """Have whole lines written by the next `append_later`; returns whether that is due."""
        with self._later_lock:
            self._later += data
            return len(self._later) > _LATER_BYTES

    def append_later(self) -> None:
        """Append the lines that wait.

        Raises:
            SpillError: They cannot be written, and wait on.
        """
        with self._later_lock:
            data, self._later = self._later, bytearray()
        if not data:
            return
        try:
            self.append(bytes(data))
        except BaseException:
            with self._later_lock:
                self._later[:0] = data
            raise

    @property
    def is_uncut(self) -> bool:
        """Whether the journal may still have lines that were to be taken back."""
        return self._uncut is not None

    def _cannot_cut(self, begin: int) -> None:
        self._uncut = range(begin, os.lseek(self._fd, 0, os.SEEK_CUR))

    def _cut_now(self) -> None:
        """Take off what could not be taken back; what others have appended behind it stays."""
        uncut = self._uncut
        if uncut is not None:
            if os.lseek(self._fd, 0, os.SEEK_END) == uncut.stop:
                os.ftruncate(self._fd, uncut.start)
            self._uncut = None

    def pack(self, data: bytes) -> Packed:
        """Append bytes to a pack.

        Raises:
            SpillError: They cannot be written; none of them is there then.
        """
        try:
            self._open_pack(len(data))
            begin = _append(self._pack_fd, data)
        except OSError as error:
            path = os.path.join(self._shard.path, pack_name(self._pack))
            raise spill_error(error, path) from error
        self._pack_end = begin + len(data)
        if self._durable:
            self._unsynced.add(self._pack_fd)
        return Packed(self._pack, begin, len(data))

    def cut(self, place: Packed) -> None:
        """Take off again what was packed last; never raises."""
        if place.pack == self._pack and place.at + place.size == self._pack_end:
            with contextlib.suppress(OSError):
                os.ftruncate(self._pack_fd, place.at)
                self._pack_end = place.at

    def file(self, output: Output, key: str, attempt: int, kind: str) -> Filed:
        """Move an output into a file of its own.

        Raises:
            SpillError: It cannot be.
        """
        name = f"{key[:2]}/{key}.{attempt}.{kind}"
        try:
            try:
                self._publish(output, name)
            except (FileExistsError, IsADirectoryError):
                # No file, or it would have been replaced: something foreign is in the way.
                name = f"{key[:2]}/{key}.{attempt}-{os.urandom(4).hex()}.{kind}"
                self._publish(output, name)
        except CollectorError:
            raise
        except OSError as error:
            raise spill_error(error, os.path.join(self._shard.path, FILES_NAME, name)) from error
        return Filed(name, output.size)

    def _publish(self, output: Output, name: str) -> None:
        path = os.path.join(self._shard.path, FILES_NAME, name)
        self._refuse_moved()
        self._make_place(os.path.dirname(path))
        publish(output, path, overwrite=True, mode=0o600)
        if self._durable:
            try:
                self.sync_later(path)
            except BaseException:
                self.remove(name)
                raise

    def _refuse_moved(self) -> None:
        """Write no file where none is looked for: lines and packs go with the directory."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if os.path.samestat(os.stat(self._shard.path), os.fstat(self._shard.fd)):
                return
        message = "others have moved this directory while it was written; let it end first"
        raise FileNotFoundError(errno.ENOENT, message, self._shard.path)

    def _make_place(self, place: str) -> None:
        for directory in (os.path.dirname(place), place):
            if directory not in self._directories:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(directory, stat.S_IRWXU)
                self._directories.add(directory)

    def remove(self, name: str) -> None:
        """Remove a file of the shard; never raises: what stays goes when it is opened next."""
        if not removed(os.path.join(FILES_NAME, name), self._shard):
            self.leaves = True

    def sync_later(self, path: str) -> None:
        """Have a file, and its directory, on the disk at the next `sync`.

        Raises:
            SpillError: They cannot be opened.
        """
        try:
            for flags, name in ((os.O_RDONLY, path), (os.O_DIRECTORY, os.path.dirname(path))):
                self._unsynced.add(open_private(name, flags | os.O_NOFOLLOW))
        except OSError as error:
            raise spill_error(error, path) from error

    @property
    def unsynced(self) -> int:
        """How many descriptors wait for the next `sync`."""
        return len(self._unsynced)

    def sync(self) -> None:
        """Have the bytes that were stored on the disk (I4); the journal is still to be written.

        Raises:
            SpillError: The disk refuses them.
        """
        fds, self._unsynced = self._unsynced, set()
        failure: OSError | None = None
        for fd in fds:
            try:
                self._sync(fd)
            except OSError as error:
                failure = error
            if fd != self._pack_fd:
                close_private(fd, locked=False)
        if failure is not None:
            raise spill_error(failure, self._shard.path) from failure

    def _sync(self, fd: int) -> None:
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in NO_SYNC:
                self.has_refused_sync = True
                raise

    def close(self) -> None:
        """Let go of all descriptors; any number of times."""
        for fd in {self._fd, self._pack_fd, *self._unsynced}:
            if fd >= 0:
                close_private(fd, locked=False)
        self._fd = self._pack_fd = -1
        self._unsynced.clear()

    def _open_pack(self, size: int) -> None:
        if self._pack_fd >= 0 and self._pack_end + size <= settings.PACK_BYTES:
            return
        while True:
            if self._pack_fd >= 0:
                if self._durable:
                    self._sync(self._pack_fd)
                self._unsynced.discard(self._pack_fd)
                close_private(self._pack_fd, locked=False)
                self._pack_fd = -1
                self._pack += 1
            try:
                self._pack_fd = self._open(pack_name(self._pack))
            except (FileExistsError, IsADirectoryError):
                self._pack += 1  # something foreign has the name
                continue
            self._pack_end = os.fstat(self._pack_fd).st_size
            if not self._pack_end or self._pack_end + size <= settings.PACK_BYTES:
                return

    def _open(self, name: str) -> int:
        """Open a file for appending.

        Raises:
            FileExistsError: The name is that of a link or of no plain file.
            OSError: As `os.open`.
        """
        try:
            fd = open_private(name, _APPEND, dir_fd=self._shard.fd)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO}:
                raise FileExistsError(errno.EEXIST, "it is no plain file", name) from error
            raise
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FileExistsError(errno.EEXIST, "it is no plain file", name)  # noqa: TRY301
        except BaseException:
            close_private(fd, locked=False)
            raise
        return fd


def removed(name: str, shard: Shard) -> bool:
    """Remove a file of a shard; False if it stays. Never raises."""
    try:
        os.unlink(name, dir_fd=shard.fd)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _refuse_links(files: str) -> None:
    """Make sure that files lie in their shard: what a link leads elsewhere is never read again.

    Raises:
        BatchError: A directory for them is a link, or no directory.
    """
    places = [files]
    with contextlib.suppress(OSError), os.scandir(files) as entries:
        places += [entry.path for entry in entries if PLACE.fullmatch(entry.name)]
    for place in places:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.lstat(place).st_mode):
                message = "it is no directory, or a link to one"
                raise refused(NotADirectoryError(errno.ENOTDIR, message), place)


def _append(
    fd: int,
    data: bytes,
    cannot_cut: Callable[[int], object] = bool,
    sync: Callable[[int], object] = bool,
) -> int:
    """Append all or nothing; returns where it begins.

    Args:
        fd: Of the file.
        data: Is appended.
        cannot_cut: Is told where the file is to be cut, if it takes neither all nor a cut.
        sync: Has it on the disk, too.
    """
    begin = os.lseek(fd, 0, os.SEEK_END)
    try:
        write_all(fd, data)
        sync(fd)
        # Where locks are refused somebody else may have appended in between: the file knows.
        return os.lseek(fd, 0, os.SEEK_CUR) - len(data)
    except BaseException:
        try:
            os.ftruncate(fd, begin)
        except OSError:
            cannot_cut(begin)
        raise
