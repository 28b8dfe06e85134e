"""A real disk with the manners of others: a small file system of FUSE, in a process of its own.

It is for what local disks never do: it refuses links with any error, knows no renameat2, ends names
early, gives a file another inode number when it is renamed. It speaks the kernel's own protocol,
`linux/fuse.h`, and keeps its files in memory.
"""

import contextlib
import ctypes
import errno
import itertools
import os
import signal
import stat
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

import pytest

_HEADER: Final = struct.Struct("<IIQQIIIHH")
_ATTRIBUTES: Final = struct.Struct("<QQQQQQIIIIIIIIII")
_READ_BYTES: Final = 1 << 20
_NO_REPLY: Final = frozenset({2, 36, 42})  # FORGET, INTERRUPT, BATCH_FORGET
_NOREPLACE: Final = 1


@final
@dataclass(frozen=True, kw_only=True)
class Manners:
    """What the disk does otherwise than a local one.

    Attributes:
        link: The errno with which links are refused; 0 if they are not.
        rename2: Whether it knows renameat2(2) with RENAME_NOREPLACE.
        renumbers: Whether a file has another inode number after a rename.
        name_bytes: The longest name.
        fsync: The errno with which fsync(2) is refused; 0 if it is not.
        flush: The errno with which close(2) tells that what was written is lost; 0 if it is not.
        cached_s: How long the kernel keeps what it knows of a name.
    """

    link: int = 0
    rename2: bool = False
    renumbers: bool = False
    name_bytes: int = 255
    fsync: int = 0
    flush: int = 0
    cached_s: int = 0


@final
class FuseDisk:
    """A mounted one.

    Attributes:
        path: Where.
    """

    def __init__(self, path: Path, log: Path) -> None:
        self.path = path
        self._log = log

    def refused(self) -> list[str]:
        """Tell what was refused so far, by manner and in order."""
        return self._log.read_text().split()


@contextlib.contextmanager
def fuse_disk(manners: Manners) -> Iterator[FuseDisk]:
    """Mount one for as long as the block takes; needs root and /dev/fuse."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("mounting a file system of FUSE needs root and /dev/fuse")
    place = Path(tempfile.mkdtemp(prefix="fuse-"))
    disk, log = place / "disk", place / "log"
    disk.mkdir()
    log.touch()
    channel = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        _mount(disk, channel)
        server = _start(channel, log, manners)
        os.close(channel)
        channel = -1
        try:
            yield FuseDisk(disk, log)
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)
            assert os.waitpid(server, 0)[1] == 0
    finally:
        if channel >= 0:
            os.close(channel)
        log.unlink()
        disk.rmdir()
        place.rmdir()


def _start(channel: int, log: Path, manners: Manners) -> int:
    """Serve in a forked child that holds nothing but the channel and the log; its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout's would have it go on
        told = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.closerange(3, min(channel, told))
        os.closerange(min(channel, told) + 1, max(channel, told))
        os.closerange(max(channel, told) + 1, 1 << 20)
        _Server(manners, told).serve(channel)
        status = 0
    finally:
        os._exit(status)


def _mount(disk: Path, channel: int) -> None:
    options = f"fd={channel},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"test", os.fsencode(disk), b"fuse.test", 0, options) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), disk)


@dataclass(eq=False)
class _Node:
    mode: int
    uid: int
    gid: int
    data: bytearray = field(default_factory=bytearray)
    children: dict[bytes, int] = field(default_factory=dict)


@final
class _Server:
    """The file system: nodes by number; the names of a directory lead to numbers."""

    def __init__(self, manners: Manners, log: int) -> None:
        self._manners = manners
        self._log = log
        self._numbers = itertools.count(2)
        self._nodes = {1: _Node(stat.S_IFDIR | 0o777, 0, 0)}
        self._calls: dict[int, Callable[[_Call], bytes]] = {
            1: self._lookup,
            3: self._getattr,
            4: self._setattr,
            8: self._mknod,
            9: self._mkdir,
            10: self._unlink,
            11: self._unlink,
            12: lambda call: self._rename(call, 8),
            13: self._link,
            14: lambda _: bytes(16),
            15: self._read,
            16: self._write,
            17: lambda _: struct.pack("<QQQQQIIII24x", 0, 1, 1, 0, 0, 4096, 255, 4096, 0),
            18: lambda _: b"",
            20: self._fsync,
            25: self._flush,
            26: lambda _: struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 0, 0, 1 << 17, 1, 0, 0, 0),
            27: lambda _: bytes(16),
            28: self._readdir,
            29: lambda _: b"",
            45: self._rename2,
        }

    def serve(self, channel: int) -> None:
        """Answer until the disk is unmounted."""
        while True:
            try:
                request = os.read(channel, _READ_BYTES)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                raise
            _, opcode, unique, node, uid, gid, *_ = _HEADER.unpack_from(request)
            call = _Call(node, uid, gid, request[_HEADER.size :])
            number, answer = self._answer(opcode, call)
            if opcode not in _NO_REPLY:
                with contextlib.suppress(FileNotFoundError):  # the caller was killed
                    os.write(
                        channel, struct.pack("<IiQ", 16 + len(answer), -number, unique) + answer
                    )

    def _answer(self, opcode: int, call: "_Call") -> tuple[int, bytes]:
        try:
            return 0, self._calls[opcode](call)
        except KeyError:
            return errno.ENOSYS, b""
        except OSError as error:
            return error.errno or errno.EIO, b""

    def _refuse(self, what: str, number: int) -> None:
        os.write(self._log, f"{what}\n".encode())
        raise OSError(number, what)

    def _names(self, call: "_Call") -> dict[bytes, int]:
        return self._nodes[call.node].children

    def _entry(self, number: int) -> bytes:
        valid = self._manners.cached_s
        return struct.pack("<QQQQII", number, 0, valid, valid, 0, 0) + self._attributes(number)

    def _attributes(self, number: int) -> bytes:
        node = self._nodes[number]
        who = (node.mode, 1, node.uid, node.gid)
        return _ATTRIBUTES.pack(number, len(node.data), 0, 0, 0, 0, 0, 0, 0, *who, 0, 4096, 0)

    def _lookup(self, call: "_Call") -> bytes:
        (name,) = call.names(0)
        self._check(name)
        if name not in self._names(call):
            raise FileNotFoundError(errno.ENOENT, "")
        return self._entry(self._names(call)[name])

    def _check(self, name: bytes) -> None:
        if len(name) > self._manners.name_bytes:
            self._refuse("name", errno.ENAMETOOLONG)

    def _getattr(self, call: "_Call") -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attributes(call.node)

    def _setattr(self, call: "_Call") -> bytes:
        valid, size = struct.unpack_from("<I12xQ", call.body)
        mode, uid, gid = struct.unpack_from("<I4xII", call.body, 68)
        node = self._nodes[call.node]
        if valid & 1:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        if valid & 2:
            node.uid = uid
        if valid & 4:
            node.gid = gid
        if valid & 8:
            node.data[size:] = bytes(max(0, size - len(node.data)))
        return self._getattr(call)

    def _make(self, call: "_Call", name: bytes, mode: int) -> bytes:
        self._check(name)
        if name in self._names(call):
            raise FileExistsError(errno.EEXIST, "")
        number = next(self._numbers)
        self._nodes[number] = _Node(mode, call.uid, call.gid)
        self._names(call)[name] = number
        return self._entry(number)

    def _mknod(self, call: "_Call") -> bytes:
        (name,) = call.names(16)
        return self._make(call, name, call.word())

    def _mkdir(self, call: "_Call") -> bytes:
        (name,) = call.names(8)
        return self._make(call, name, stat.S_IFDIR | call.word())

    def _unlink(self, call: "_Call") -> bytes:
        (name,) = call.names(0)
        del self._names(call)[name]
        return b""

    def _link(self, call: "_Call") -> bytes:
        if self._manners.link:
            self._refuse("link", self._manners.link)
        (old,) = struct.unpack_from("<Q", call.body)
        (name,) = call.names(8)
        self._check(name)
        self._names(call)[name] = old
        return self._entry(old)

    def _rename2(self, call: "_Call") -> bytes:
        (flags,) = struct.unpack_from("<I", call.body, 8)
        if not self._manners.rename2 or flags != _NOREPLACE:
            self._refuse("rename2", errno.EINVAL)
        return self._rename(call, 16, free=True)

    def _rename(self, call: "_Call", start: int, *, free: bool = False) -> bytes:
        (to,) = struct.unpack_from("<Q", call.body)
        old, new = call.names(start)
        self._check(new)
        target = self._nodes[to].children
        if free and new in target:
            raise FileExistsError(errno.EEXIST, "")
        number = self._names(call).pop(old)
        if self._manners.renumbers:
            os.write(self._log, b"renumbered\n")
            fresh = next(self._numbers)
            self._nodes[fresh] = self._nodes[number]
            number = fresh
        target[new] = number
        return b""

    def _read(self, call: "_Call") -> bytes:
        start, size = struct.unpack_from("<QI", call.body, 8)
        return bytes(self._nodes[call.node].data[start : start + size])

    def _write(self, call: "_Call") -> bytes:
        start, size = struct.unpack_from("<QI", call.body, 8)
        data = self._nodes[call.node].data
        data.extend(bytes(max(0, start - len(data))))
        data[start : start + size] = call.body[40 : 40 + size]
        return struct.pack("<II", size, 0)

    def _fsync(self, call: "_Call") -> bytes:
        if self._manners.fsync:
            self._refuse("fsync", self._manners.fsync)
        return b""

    def _flush(self, call: "_Call") -> bytes:
        if self._manners.flush and self._nodes[call.node].data:
            self._refuse("flush", self._manners.flush)
        return b""

    def _readdir(self, call: "_Call") -> bytes:
        (start,) = struct.unpack_from("<Q", call.body, 8)
        listing = b""
        for offset, (name, number) in enumerate(self._names(call).items(), 1):
            if offset > start and len(listing) < 3000:
                kind = self._nodes[number].mode >> 12
                entry = struct.pack("<QQII", number, offset, len(name), kind) + name
                listing += entry + bytes(-len(entry) % 8)
        return listing


@final
@dataclass(frozen=True)
class _Call:
    node: int
    uid: int
    gid: int
    body: bytes

    def names(self, start: int) -> list[bytes]:
        """The names that follow what is `start` bytes long."""
        return self.body[start:].split(b"\0")[:-1]

    def word(self) -> int:
        """The first number."""
        return int.from_bytes(self.body[:4], "little")
