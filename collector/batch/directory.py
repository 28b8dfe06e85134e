"""A batch directory: whether it is one, what is run in it, and which shards it has.

Runs in:    any process that reads or writes a batch.
Owns:       one descriptor of the directory.
Invariants: I1  nothing is made in a directory that holds something else than a batch, and nothing
                of it is removed.
            I2  `batch.json` is whole or not there; it never changes.
            I3  what is read is a plain file, and no link is followed to it.
"""

import errno
import json
import os
import re
import stat
import weakref
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Self, final

from collector.batch.keys import FORMAT
from collector.batch.lines import LATEST_S
from collector.closable import Closable
from collector.errors import BatchError, CollectorError
from collector.settings import READ_BLOCK_BYTES, VERSION
from collector.store.absolute import absolute_path, working_directory
from collector.store.output.publish import Publication
from collector.store.rundir.locks import (
    DIRECTORY_FLAGS,
    close_at_home,
    close_private,
    open_private,
)

FACTS_NAME: Final = "batch.json"
SHARD_PREFIX: Final = "shard-"
SHARD_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SHARD: Final = re.compile(rf"{SHARD_PREFIX}({SHARD_NAME.pattern})")
_PART_NAME: Final = re.compile(r"\.collector-[0-9a-f]+\.part")
_FACTS_LIMIT_BYTES: Final = 16 * 1024 * 1024
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class What(NamedTuple):
    """What a batch runs.

    Attributes:
        kind: "function" or "command".
        name: `module:qualname`, or the command's template.
        source: Hash of the function's source, if it could be had.
        options: Those that change results.
    """

    kind: str
    name: str
    source: str | None = None
    options: Mapping[str, Any] = {}


class BatchFacts(NamedTuple):
    """What `batch.json` says."""

    what: What
    time: float
    version: str


@final
class BatchDirectory(Closable):
    """An open batch directory. A context manager.

    Attributes:
        path: Absolute.
        fd: Descriptor of the directory.
        base: Where relative names of saved files begin.
    """

    def __init__(self, path: str, fd: int, base: str) -> None:
        self.path = path
        self.fd = fd
        self.base = base
        self._close = weakref.finalize(self, close_at_home, os.getpid(), fd)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, make: bool = False, base: str = "") -> Self:
        """Open a directory, which need not be a batch directory yet.

        Args:
            path: A relative one is taken from the working directory now.
            make: Make it, with its parents, if it is missing.
            base: As the attribute; "" for the working directory of now.

        Raises:
            BatchError: It is missing, or no directory, or cannot be opened.
            ValueError: An empty path.
        """
        named = os.fsdecode(path)
        if not named:
            raise ValueError("a batch directory must be a path, not an empty one")
        try:
            absolute = absolute_path(named)
            if make:
                _make(absolute)
            # The name that the user gave may be a link of the user's; what is below may not.
            fd = open_private(absolute, DIRECTORY_FLAGS & ~os.O_NOFOLLOW)
            return cls(absolute, fd, base or working_directory())
        except OSError as error:
            raise refused(error, named) from error

    def again(self) -> Self:
        """Open it once more, for whoever outlives its user.

        Raises:
            BatchError: It cannot be opened.
        """
        try:
            fd = open_private(os.curdir, DIRECTORY_FLAGS, dir_fd=self.fd)
        except OSError as error:
            raise refused(error, self.path) from error
        return type(self)(self.path, fd, self.base)

    def facts(self) -> BatchFacts | None:
        """Read `batch.json`; None if the directory is empty.

        Raises:
            BatchError: It is missing from a directory that is not empty, or cannot be read, or is
                of a newer version.
        """
        try:
            data = read_file(self.fd, FACTS_NAME, _FACTS_LIMIT_BYTES)
        except FileNotFoundError:
            self._refuse_unless_empty()
            return None
        except OSError as error:
            message = f"its {FACTS_NAME} cannot be read: {error.strerror}"
            raise BatchError(error.errno or errno.EIO, message, self.path) from error
        return self._facts(data)

    def begin(self, what: What, time: float) -> BatchFacts:
        """Make an empty directory a batch directory; one that another process has just made, too.

        Raises:
            BatchError: It cannot be written to.
        """
        fields = {
            "format": FORMAT,
            "kind": what.kind,
            "runs": what.name,
            "source": what.source,
            "options": dict(what.options),
            "time": time,
            "version": VERSION,
        }
        data = json.dumps(fields, indent=1).encode() + b"\n"
        try:
            with Publication(os.path.join(self.path, FACTS_NAME), mode=0o600) as new:
                new.write(data)
                new.publish(overwrite=False)
        except FileExistsError:
            pass
        except OSError as error:
            raise refused(error, self.path) from error
        found = self.facts()
        if found is None:
            message = f"others remove its {FACTS_NAME}"
            raise BatchError(errno.EBUSY, message, self.path)
        return found

    def shards(self) -> list[str]:
        """Return the names of its shards, in the order in which they are read.

        Raises:
            BatchError: It cannot be read.
        """
        try:
            names = os.listdir(self.fd)
        except OSError as error:
            raise refused(error, self.path) from error
        return sorted(found[1] for found in map(_SHARD.fullmatch, names) if found)

    def is_ours_alone(self) -> bool:
        """Tell whether nobody else may have written here: only then are values unpickled."""
        status = os.fstat(self.fd)
        return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    def close(self) -> None:
        """Close the descriptor, as the last reference does; any number of times."""
        self.fd = -1
        self._close()

    def _refuse_unless_empty(self) -> None:
        try:
            names = os.listdir(self.fd)
        except OSError as error:
            raise refused(error, self.path) from error
        others = [name for name in names if not _PART_NAME.fullmatch(name)]
        if not others:
            return
        if any(_SHARD.fullmatch(name) for name in others):
            message = (
                f"its {FACTS_NAME} is missing, which says what the batch runs: put it back from a "
                "copy, or take another directory"
            )
        else:
            message = "this is no batch directory, and it is not empty: take another one"
        raise BatchError(errno.EINVAL, message, self.path)

    def _facts(self, data: bytes) -> BatchFacts:
        try:
            fields = json.loads(data)
            version = fields["format"]
            if type(version) is int and version > FORMAT:
                message = (
                    f"the batch is of format {version}, and this version of collector ({VERSION}) "
                    f"knows formats up to {FORMAT}: use the version that made it "
                    f"({fields.get('version')}), or a newer one"
                )
                raise BatchError(errno.ENOTSUP, message, self.path)
            if type(version) is not int or version < 1:
                raise ValueError("its format is none")  # noqa: TRY301
            return _facts_of(fields)
        except CollectorError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            message = (
                f"its {FACTS_NAME} cannot be read ({type(error).__name__}: {error}): put it back "
                "from a copy, or take another directory"
            )
            raise BatchError(errno.EINVAL, message, self.path) from error


def _facts_of(fields: Any) -> BatchFacts:
    kind, name, source = fields["kind"], fields["runs"], fields["source"]
    options, time, version = fields["options"], fields["time"], fields["version"]
    if not (
        isinstance(kind, str)
        and isinstance(name, str)
        and (source is None or isinstance(source, str))
        and isinstance(options, dict)
        and isinstance(time, int | float)
        and 0 <= time <= LATEST_S
        and isinstance(version, str)
    ):
        raise ValueError("a field is of a wrong kind")
    return BatchFacts(What(kind, name, source, options), float(time), version)


def refused(error: OSError, path: str | os.PathLike[str]) -> BatchError:
    """Say that a directory cannot be used, and why."""
    if isinstance(error, BatchError):
        return error
    message = f"cannot use the batch directory: {error.strerror or error}"
    return BatchError(error.errno or errno.EIO, message, path)


def read_file(directory_fd: int, name: str, limit_bytes: int) -> bytes:
    """Read a small plain file of a directory.

    Raises:
        OSError: It cannot be read, is a link or no plain file, or is larger.
    """
    fd = open_plain(directory_fd, name)
    try:
        data = b""
        while len(data) <= limit_bytes and (block := os.read(fd, READ_BLOCK_BYTES)):
            data += block
    finally:
        close_private(fd, locked=False)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"it has more than {limit_bytes} bytes", name)
    return data


def open_plain(directory_fd: int, name: str) -> int:
    """Open a plain file of a directory for reading; to be closed by `close_private`.

    Raises:
        OSError: As `os.open`, or it is a link or no plain file.
    """
    fd = open_private(name, _READ, dir_fd=directory_fd)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no plain file", name)  # noqa: TRY301
    except BaseException:
        close_private(fd, locked=False)
        raise
    return fd


def _make(path: str) -> None:
    parent = os.path.dirname(path)
    os.makedirs(parent, exist_ok=True)
    try:
        os.mkdir(path, stat.S_IRWXU)
    except FileExistsError:
        return
