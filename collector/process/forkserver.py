"""A forkserver on a socket pair: one small process that forks a Collector's sink and workers.

It serves one parent over one connected pair of sockets: no name in the file system, no listening
socket, nothing left after any death. The server of `multiprocess` needs a temporary directory, a
resource tracker and one shared instance (docs/decisions/0004-start-methods.md has the
measurements).

Runs in:    `main` in the server; `ForkServer` in the parent.
Owns:       the server: its end of the pair and, until they are reaped, its children.
Invariants: I1  the server has one thread and imports no code of the user's, so that forking it is
                safe.
            I2  when the parent is gone the server kills every worker it started, with its group,
                and leaves; the sink, which cleans up, is spared.
            I3  the server's own death harms no process; the next start makes a new server.
"""

import contextlib
import gc
import os
import pickle
import select
import signal
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Final

from collector import settings
from collector.process.context import (
    DirectLauncher,
    Forked,
    fork,
    settle,
    stand_apart,
    surroundings,
)
from collector.process.engine import Child, Role, open_pidfd

_REQUEST: Final = struct.Struct("<Q")
_REPLY: Final = struct.Struct("<cqq")
_MOST_DESCRIPTORS: Final = 16


class ForkServer:
    """The parent's end: a `Launcher` whose children are forked by the server."""

    method = "forkserver"

    def __init__(self, preload: Sequence[Role], spare: Role) -> None:
        """Start the server when it is first needed.

        Args:
            preload: Roles whose modules the server imports before it forks.
            spare: The role that outlives the parent (the sink).
        """
        self._preload = tuple(preload)
        self._spare = spare
        self._server: Child | None = None
        self._link: socket.socket | None = None
        self._heard = b""
        self._codes: dict[int, int] = {}
        self._lock = threading.Lock()

    def start(
        self, role: Role, descriptors: Sequence[int], arguments: bytes, not_for_it: Sequence[int]
    ) -> Child:
        """See `Launcher.start`; a child has nothing of the caller's but what it is sent."""
        del not_for_it
        with self._lock:
            try:
                pid = self._ask(role, descriptors, arguments)
            except (ConnectionError, EOFError):  # the server has died: the next start makes one
                self._drop()
                pid = self._ask(role, descriptors, arguments)
            death_fd = open_pidfd(pid)
            link = self._link
        if death_fd is None:
            raise OSError("the forkserver needs pidfds; use mp_context='spawn'")
        return Child(pid, death_fd, lambda: self._exitcode(pid, link))

    def close(self) -> None:
        """Let the server go; it leaves its children alone."""
        with self._lock:
            if self._link is not None:
                with contextlib.suppress(OSError):
                    self._link.sendall(_REQUEST.pack(0))
            self._drop()

    def _ask(self, role: Role, descriptors: Sequence[int], arguments: bytes) -> int:
        link = self._link or self._start_server()
        spared = role is self._spare
        body = pickle.dumps((role, arguments, surroundings(), spared))
        socket.send_fds(link, [_REQUEST.pack(len(body))], descriptors)
        link.sendall(body)
        pid = self._receive(b"p")
        if pid < 0:
            raise OSError(-pid, f"cannot start a process: {os.strerror(-pid)}")
        self._codes.pop(pid, None)
        return pid

    def _start_server(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = pickle.dumps(self._preload)
            self._server = DirectLauncher("spawn").start(main, [theirs.fileno()], arguments, ())
        self._link = ours
        return ours

    def _receive(self, kind: bytes, pid: int = 0) -> int:
        """Read replies until the wanted one; remember exit codes that come in between."""
        link = self._link
        if link is None:
            raise EOFError("there is no forkserver")
        while True:
            while len(self._heard) < _REPLY.size:
                piece = link.recv(_REPLY.size - len(self._heard))
                if not piece:
                    raise EOFError("the forkserver is gone")
                self._heard += piece
            said, subject, value = _REPLY.unpack(self._heard)
            self._heard = b""
            if said == b"x":
                self._codes[subject] = value
            if said == kind and (kind == b"p" or subject == pid):
                return int(subject if said == b"p" else value)

    def _exitcode(self, pid: int, link: socket.socket | None) -> int | None:
        """Return the exit code of a dead child; None if the server that started it is dead too."""
        with self._lock:
            if pid not in self._codes and link is self._link and link is not None:
                link.settimeout(settings.EXIT_CODE_WAIT_S)
                with contextlib.suppress(OSError, EOFError):
                    self._receive(b"x", pid)
                link.settimeout(None)
            return self._codes.pop(pid, None)

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
            self._heard = b""
            self._codes.clear()
        if self._server is not None:
            self._server.dead(timeout_s=5)
            self._server.kill()
            self._server.reap()
            self._server.close()
            self._server = None

    def abandon(self) -> list[int]:
        """See `Launcher.abandon`."""
        fds = [] if self._link is None else [self._link.detach()]
        return fds if self._server is None else [*fds, self._server.death_fd]


def main(descriptors: Sequence[int], arguments: bytes) -> None:
    """Serve one parent until it closes its end."""
    stand_apart()
    link = socket.socket(fileno=descriptors[0])
    os.set_inheritable(link.fileno(), False)
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_w, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    pickle.loads(arguments)  # the roles: loading them imports their modules
    gc.freeze()
    with link:
        _Server(link, wake_r, wake_w).serve()


class _Server:
    def __init__(self, link: socket.socket, wake_r: int, wake_w: int) -> None:
        self._link = link
        self._wake_r = wake_r
        self._own = (link.fileno(), wake_r, wake_w)
        self._children: dict[int, tuple[Forked, bool]] = {}

    def serve(self) -> None:
        poller = select.poll()
        poller.register(self._link, select.POLLIN)
        poller.register(self._wake_r, select.POLLIN)
        going = True
        while going:
            ready = [fd for fd, _ in poller.poll()]
            if self._wake_r in ready:
                os.read(self._wake_r, 4096)
                self._report_dead()
            if self._link.fileno() in ready:
                going = self._answer()

    def _answer(self) -> bool:
        """Serve one request; False once the parent is gone, or lets the server go."""
        received: list[int] = []
        try:
            data, received, _, _ = socket.recv_fds(self._link, _REQUEST.size, _MOST_DESCRIPTORS)
        except OSError:
            data = b""
        if not data:
            self._kill_workers()
            return False
        (length,) = _REQUEST.unpack(data)
        if not length:
            return False
        role, told, where, spared = pickle.loads(_read(self._link, length))
        try:
            child = fork(_become, (self._own, role, received, told, where))
        except OSError as error:
            reply = _REPLY.pack(b"p", -(error.errno or 1), 0)
        else:
            self._children[child.pid] = (child, spared)
            reply = _REPLY.pack(b"p", child.pid, 0)
        for fd in received:
            os.close(fd)
        self._link.sendall(reply)
        return True

    def _report_dead(self) -> None:
        for pid, (child, _) in list(self._children.items()):
            code = child.exitcode
            if code is not None:
                del self._children[pid]
                child.close()
                with contextlib.suppress(OSError):  # the parent is gone: the next read says so
                    self._link.sendall(_REPLY.pack(b"x", pid, code))

    def _kill_workers(self) -> None:
        for pid, (_, spared) in self._children.items():
            for kill in () if spared else (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(pid, signal.SIGKILL)


def _read(link: socket.socket, length: int) -> bytes:
    body = bytearray()
    while len(body) < length:
        piece = link.recv(length - len(body))
        if not piece:
            raise EOFError("the parent is gone")
        body += piece
    return bytes(body)


def _become(
    servers: Sequence[int], role: Role, descriptors: Sequence[int], arguments: bytes, where: bytes
) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for fd in servers:
        os.close(fd)
    settle(where)
    role(descriptors, arguments)
