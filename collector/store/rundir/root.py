"""Find, make and judge the temp root: the directory that holds all run directories.

Runs in:    every process that creates or sweeps run directories.
Owns:       one descriptor for each open `Root`.
Invariants: I1  a root is judged on its descriptor, never on its name: ours, mode 0700, not a link.
                A link to it is judged so too, ours or root's, and followed once, before.
            I2  nothing that was found is changed by chmod or chown, and no root is ever removed.
Source:     tmux, ssh-agent and git's credential cache judge their directories the same way;
            CVE-2025-71176 is what happens without it.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from collector.errors import RunDirectoryError
from collector.logger import PackageLogger
from collector.store.absolute import absolute_path
from collector.store.rundir import kernel
from collector.store.rundir.locks import close_private, loading, open_private

ROOT_VARIABLE: Final = "COLLECTOR_TMPDIR"
"""Environment variable that names the temp root; an empty value counts as unset."""

PathName = str | os.PathLike[str]

_logger = PackageLogger()
_MAX_LINKS: Final = 40
"""As many as Linux follows in one path: path_resolution(7)."""

_PLACE_VARIABLES: Final = ("TMPDIR", "TEMP", "TMP")
_SYSTEM_PLACES: Final = ("/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 - read, and judged
"""Where `tempfile` looks for a directory that takes a file; what is full or read-only does not."""

_advised: Final[set[tuple[str, int]]] = set()
_MEMORY_TYPES: Final = frozenset({"tmpfs", "ramfs"})
_NETWORK_TYPES: Final = re.compile(
    r"(nfs|smb)\d?|cifs|smbfs|9p|afs|ceph|coda|gfs2|gpfs|lustre|ocfs2|orangefs|virtiofs"
    r"|fuse(\.(?!fuse-overlayfs$).*)?"  # but for the root of a container of podman's
)


class Root(NamedTuple):
    """An open temp root that has been judged and found to be ours.

    Attributes:
        path: Absolute path, for messages and for the paths of outputs.
        fd: Descriptor of the directory; everything below it is done relative to this.
        device: Number of its file system.
        mount: The mount through which it was opened; empty where that cannot be learned.
    """

    path: str
    fd: int
    device: int
    mount: bytes

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode: the same root, whatever its path."""
        return self.device, kernel.fstat(self.fd).st_ino

    def close(self) -> None:
        """Close the descriptor; once."""
        close_private(self.fd)


def open_root(temp_root: PathName | None = None, *, make: bool = True) -> Root:
    """Open the temp root: `temp_root`, else `$COLLECTOR_TMPDIR`, else the default one.

    Args:
        temp_root: Path the user asked for; a relative one is taken from the working directory now.
        make: Make it if it is missing (its parent must exist), and let a default root that is not
            to be trusted be replaced by a private one.

    Raises:
        RunDirectoryError: It cannot be made, opened or trusted.
        ValueError: An empty path.
    """
    chosen = os.environ.get(ROOT_VARIABLE) or None if temp_root is None else temp_root
    if chosen is None:
        return _open_default(make=make)
    path = absolute(chosen)
    try:
        return _open_judged(_follow(path), make=make)
    except RunDirectoryError as error:
        if error.filename == path:
            raise
        message = f"{error.strerror} ({path!a} is a link to it)"
        raise RunDirectoryError(error.errno or errno.EIO, message, path) from None


def open_default_root() -> Root:
    """Open the default root, whatever `$COLLECTOR_TMPDIR` says; it is made if it is missing.

    Raises:
        RunDirectoryError: as `open_root`.
    """
    return _open_default(make=True)


def absolute(temp_root: PathName) -> str:
    """Make the path of a temp root absolute, as seen from the working directory now.

    Raises:
        RunDirectoryError: It is relative, and the working directory is gone.
        ValueError: It is empty, as a variable may be that nobody set.
    """
    try:
        path = os.fsdecode(temp_root)
    except TypeError:
        raise TypeError(f"temp_root must be a path, not {temp_root!r}") from None
    if not path:
        raise ValueError("temp_root must be a path, not an empty one; leave it out for the default")
    try:
        return absolute_path(path)
    except FileNotFoundError as error:
        message = "cannot use the temp root: it is relative, and the working directory is gone"
        raise RunDirectoryError(errno.ENOENT, message, path) from error


def open_known_roots() -> Iterator[Root]:
    """Open, one after the other, every existing root that is ours, and close it afterwards.

    These are `$COLLECTOR_TMPDIR`, the default root in each directory in which it can have been
    made, and the private ones that replaced it.

    Raises:
        RunDirectoryError: `$COLLECTOR_TMPDIR` names something that cannot be trusted.
    """
    seen: set[tuple[int, int]] = set()
    named = os.environ.get(ROOT_VARIABLE)
    if named and os.path.lexists(named):
        yield from _opened(open_root(make=False), seen)
    for default in _default_paths():
        for path in (default, *_private_paths(default)):
            try:
                root = _open_judged(path, make=False)
            except RunDirectoryError:
                continue  # missing, or not ours: nothing in it is ours to look at
            yield from _opened(root, seen)


def filesystem_type_of(device: int) -> str:
    """Tell the type of a file system by its number; empty where it cannot be learned."""
    numbers = f"{os.major(device)}:{os.minor(device)}"
    with (
        contextlib.suppress(OSError),
        open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table,
    ):
        for line in table:
            mount, _, source = line.partition(" - ")
            if mount.split(" ", 3)[2] == numbers:
                return source.split(" ", 1)[0]
    return ""


def on_network(root: Root) -> bool:
    """Tell whether other machines may use the root, whose locks the kernel here cannot see."""
    return _NETWORK_TYPES.fullmatch(filesystem_type_of(root.device)) is not None


def mount_of(fd: int) -> bytes:
    """Tell the mount through which `fd` was opened; empty where that cannot be learned.

    A directory that was bound to another place lies on the same device, but not in the same mount.
    """
    try:
        table = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(table, 512).partition(b"mnt_id:")[2].partition(b"\n")[0].strip()
    finally:
        os.close(table)


def advise(root: Root) -> None:
    """Log, once per process and file system, what a user should know about where bytes will lie."""
    if ("type", root.device) in _advised:
        return
    _advised.add(("type", root.device))
    kind = filesystem_type_of(root.device)
    if kind in _MEMORY_TYPES:
        _logger.warning(
            "%s is on %s: outputs that spill there still take memory. Give a directory on a disk, "
            "for example temp_root='/var/tmp/...' or %s.",
            root.path,
            kind,
            ROOT_VARIABLE,
        )
    elif _NETWORK_TYPES.fullmatch(kind):
        _logger.warning(
            "%s is on a network file system (%s): what a killed process leaves there is reclaimed "
            "only by `collector gc`.",
            root.path,
            kind,
        )


def advise_unlocked(root: Root, error: OSError) -> None:
    """Log, once per process and file system, that locks are refused and nothing is reclaimed."""
    if ("locks", root.device) in _advised:
        return
    _advised.add(("locks", root.device))
    _logger.warning(
        "locks are refused in %s (%s): automatic reclaim is off, and what a killed process leaves "
        "there must be removed by hand.",
        root.path,
        error.strerror,
    )


def _opened(root: Root, seen: set[tuple[int, int]]) -> Iterator[Root]:
    try:
        if root.identity not in seen:
            seen.add(root.identity)
            yield root
    finally:
        root.close()


def _open_default(*, make: bool) -> Root:
    path = _default_path()
    try:
        return _open_judged(path, make=make)
    except RunDirectoryError as error:
        if not make or error.errno not in {errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.EACCES}:
            raise
        root = _open_private()
        if ("root", root.device) not in _advised:
            _advised.add(("root", root.device))
            _logger.warning("%s; using %s instead.", error, root.path)
        return root


def _open_private() -> Root:
    """Open a private replacement of the default root: one that is there already, or a new one."""
    with loading("tempfile"):
        import tempfile  # noqa: PLC0415 - 5 ms that an explicit root never needs

    for path in _private_paths(_default_path()):
        with contextlib.suppress(RunDirectoryError):
            return _open_judged(path, make=False)
    try:
        path = tempfile.mkdtemp(prefix=f"collector-{os.geteuid()}-")
    except OSError as error:
        raise _refused(error, tempfile.gettempdir()) from error
    return _open_judged(os.path.abspath(path), make=False)


def _default_path() -> str:
    with loading("tempfile"):
        import tempfile  # noqa: PLC0415 - as above

    try:
        directory = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise _refused(error, "", "; name another one by temp_root= or COLLECTOR_TMPDIR") from error
    return _default_path_in(directory)


def _default_path_in(directory: str) -> str:
    return os.path.join(os.path.abspath(directory), f"collector-{os.geteuid()}")


def _default_paths() -> list[str]:
    """List the paths of all default roots that there may be.

    1. dead runs fill a disk, 2. `tempfile` passes over a disk that is full, 3. whoever looks only
    where a run would be made now never finds what fills it.
    """
    paths = []
    with contextlib.suppress(RunDirectoryError):  # all of them are full
        paths.append(_default_path())
    named = [os.environ[name] for name in _PLACE_VARIABLES if os.environ.get(name)]
    with contextlib.suppress(FileNotFoundError):  # relative ones, and there is no working directory
        paths += map(_default_path_in, named or _SYSTEM_PLACES)
    return list(dict.fromkeys(paths))


def _private_paths(default: str) -> list[str]:
    """List the paths of all private replacements of a default root, whoever they belong to."""
    directory, name = os.path.split(default)
    try:
        return sorted(
            os.path.join(directory, entry)
            for entry in os.listdir(directory)
            if entry.startswith(f"{name}-")
        )
    except OSError:
        return []  # a temp directory that cannot be listed: a new private root is made there


def _open_judged(path: str, *, make: bool) -> Root:
    try:
        made = make and _make(path)
        fd = open_private(path)
    except OSError as error:
        orphan = make and error.errno == errno.ENOENT
        hint = "; first make the directory it is to lie in" if orphan else ""
        raise _refused(error, path, hint) from error
    try:
        if made:
            tighten(fd)
        return Root(path, fd, _trusted_device(fd, path), mount_of(fd))
    except BaseException:
        close_private(fd)
        raise


def tighten(fd: int) -> None:
    """Give a directory that we have just made mode 0700: a setgid parent or the umask changed it.

    Raises:
        OSError: as `os.fchmod`.
    """
    if stat.S_IMODE(kernel.fstat(fd).st_mode) != stat.S_IRWXU:
        kernel.fchmod(fd, stat.S_IRWXU)


def _follow(path: str) -> str:
    """Tell where the root lies if `path` is a symbolic link to it, or a link to such a link.

    From then on it goes by that path: whoever changes the link later moves nothing of ours.

    Raises:
        RunDirectoryError: A link is somebody else's, or leads round in a circle.
    """
    where = path
    for _ in range(_MAX_LINKS):
        try:
            fd = open_private(where, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return where  # missing, or closed to us: whoever opens it says so
        try:
            status = kernel.fstat(fd)
            if not stat.S_ISLNK(status.st_mode):
                return where
            if status.st_uid not in {os.geteuid(), 0}:
                reason = f"it is a symbolic link of user {status.st_uid}, not of you"
                raise RunDirectoryError(errno.EPERM, f"cannot trust the temp root: {reason}", path)
            # The link that was judged, and not what has its name by now.
            where = _joined(os.path.dirname(where), kernel.readlink("", dir_fd=fd))
        finally:
            close_private(fd, locked=False)
    raise _refused(OSError(errno.ELOOP, os.strerror(errno.ELOOP)), path)


def _joined(directory: str, link: str) -> str:
    """Tell where a link in a directory leads, with no other link on the way there."""
    above, name = os.path.split(os.path.join(directory, link.rstrip("/") or "/"))
    if name in {"", os.curdir, os.pardir}:
        return os.path.realpath(os.path.join(above, name))
    return os.path.join(os.path.realpath(above), name)


def _make(path: str) -> bool:
    try:
        kernel.mkdir(path, stat.S_IRWXU)
    except FileExistsError:
        return False
    return True


def _trusted_device(fd: int, path: str) -> int:
    """Judge a directory as temp root and return the number of its file system."""
    status = kernel.fstat(fd)
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        reason = f"it belongs to user {status.st_uid}, not to you ({os.geteuid()})"
    elif mode & (stat.S_IRWXG | stat.S_IRWXO):
        reason = f"its mode {mode:04o} lets others in; name a directory inside it, which is made"
    else:
        return status.st_dev
    raise RunDirectoryError(errno.EPERM, f"cannot trust the temp root: {reason}", path)


def _refused(error: OSError, path: str, hint: str = "") -> RunDirectoryError:
    number = error.errno or errno.EIO
    what = "is not a directory (or it is a symbolic link)" if number in _NOT_DIRECTORY else None
    why = what or error.strerror
    return RunDirectoryError(number, f"cannot use the temp root: {why}{hint}", path)


_NOT_DIRECTORY: Final = frozenset({errno.ENOTDIR, errno.ELOOP})
