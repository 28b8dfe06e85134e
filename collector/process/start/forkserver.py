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
                and leaves; those that clean up, the sink and the pump, are spared.
            I3  the server's own death harms no process; the next start makes a new server.
            I4  a child waits until the parent has its pid; otherwise, if the server died in
                between, the parent would start a second one with the same descriptors.
"""

import atexit
import contextlib
import errno
import gc
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import traceback
import weakref
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import BinaryIO, Final, NoReturn

from collector import interpreter, settings
from collector.process.process_group import end_process
from collector.process.start import bootstrap
from collector.process.start.child import NAMES, settle, stand_apart, surroundings, take_name
from collector.process.start.launcher import Child, Role, name_of, open_pidfd

_REQUEST: Final = struct.Struct("<QI")
"""How many bytes a request has, and how many descriptors come with it."""

_REPLY: Final = struct.Struct("<cqq")
_AT_ONCE: Final = 250
"""So many descriptors come with one byte: Linux takes 253."""


class ForkServer:
    """The parent's end: a `Launcher` whose children are forked by the server."""

    method = "forkserver"

    def __init__(self, preload: Sequence[str], spare: Collection[str]) -> None:
        """Start no server yet.

        Args:
            preload: Modules of roles, which the server imports before it forks.
            spare: The modules whose roles outlive the parent.
        """
        self._preload = tuple(preload)
        self._spare = frozenset(spare)
        self._server: Child | None = None
        self._link: socket.socket | None = None
        self._heard = b""
        self._codes: dict[int, int] = {}
        self._lock = threading.Lock()
        _servers.add(self)

    def prepare(self) -> None:
        """See `Launcher.prepare`; the server loads its modules while the caller goes on."""
        bootstrap.check()
        with self._lock, contextlib.suppress(OSError):  # the first start says what is wrong
            self._start_server()

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
        if death_fd is None:  # it has been collected already: as dead as can be
            death_fd, end = os.pipe()
            os.close(end)
        return Child(pid, death_fd, lambda: self._exitcode(pid, link))

    def close(self) -> None:
        """End the server; its children live on (I3)."""
        with self._lock:
            self._drop()

    def _ask(self, role: Role, descriptors: Sequence[int], arguments: bytes) -> int:
        link = self._link or self._start_server()
        spared = role.__module__ in self._spare
        body = pickle.dumps((role, arguments, surroundings(), spared))
        request = _REQUEST.pack(len(body), len(descriptors)) + body
        sent = socket.send_fds(link, [request], descriptors[:_AT_ONCE])
        link.sendall(request[sent:])
        for begin in range(_AT_ONCE, len(descriptors), _AT_ONCE):
            socket.send_fds(link, [b"d"], descriptors[begin : begin + _AT_ONCE])
        pid = self._receive(b"p")
        if pid < 0:
            raise OSError(-pid, f"cannot start a process: {os.strerror(-pid)}")
        self._codes.pop(pid, None)
        return pid

    def _start_server(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as undo, theirs:
            undo.callback(ours.close)
            told = bootstrap.tell(
                NAMES[0], __name__, pickle.dumps((theirs.fileno(), self._preload))
            )
            try:
                pid = _begin(told, theirs.fileno())
            finally:
                os.close(told)
            undo.callback(_end, pid)
            death_fd = open_pidfd(pid)
            if death_fd is None:
                raise OSError(errno.ENOSYS, "a forkserver needs pidfds: use mp_context='spawn'")
            undo.pop_all()
        self._server = Child(pid, death_fd, lambda: _collect(pid))
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
                link.settimeout(settings.SERVER_TURN_S)
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
            self._server.kill()
            self._server.reap()
            self._server.close()
            self._server = None

    def abandon(self) -> list[int]:
        """See `Launcher.abandon`; only the first call has any."""
        link, self._link = self._link, None
        server, self._server = self._server, None
        fds = [] if link is None else [link.detach()]
        return fds if server is None else [*fds, server.death_fd]


_servers: Final[weakref.WeakSet[ForkServer]] = weakref.WeakSet()


@interpreter.in_forked_child
def _abandon_all() -> None:
    """In a forked child of the parent, which would keep the servers alive when the parent dies."""
    for server in list(_servers):
        for fd in server.abandon():
            with contextlib.suppress(OSError):
                os.close(fd)


def _begin(told: int, link: int) -> int:
    command = bootstrap.command(NAMES[0], told=0)
    try:
        return os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, told, 0),
                (os.POSIX_SPAWN_DUP2, link, link),  # on itself: not to be closed by exec
            ],
            setpgroup=0,
            setsigmask=[signal.SIGINT],
        )
    except OSError as error:
        raise bootstrap.explained(error) from error


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _collect(pid)


def _collect(pid: int) -> int | None:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:  # the program collects, or ignores, every child
        return None


def main(told: BinaryIO) -> None:
    """Serve the parent until it closes its end."""
    stand_apart()
    number, preload = pickle.load(told)
    link = socket.socket(fileno=number)
    link.set_inheritable(False)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_w, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    with link, contextlib.suppress(EOFError, OSError):  # the parent is gone before it began
        gc.disable()  # modules that load leave hardly any garbage: 4 % of all instructions
        for module in preload:
            import_module(module)
        gc.freeze()
        gc.enable()
        _Server(link, wake_r, wake_w).serve()


class _Server:
    def __init__(self, link: socket.socket, wake_r: int, wake_w: int) -> None:
        self._link = link
        self._wake_r = wake_r
        self._own = (link.fileno(), wake_r, wake_w)
        self._children: dict[int, bool] = {}

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
        """Serve one request; False once the parent is gone."""
        received: list[int] = []
        try:
            data, received, _, _ = socket.recv_fds(self._link, _REQUEST.size, _AT_ONCE)
        except OSError:
            data = b""
        if not data:
            self._kill_workers()
            return False
        length, count = _REQUEST.unpack(data)
        role, told, where, spared = pickle.loads(_read(self._link, length))
        for _ in range(_AT_ONCE, count, _AT_ONCE):
            received += socket.recv_fds(self._link, 1, _AT_ONCE)[1]
        told_r = told_w = -1
        try:
            told_r, told_w = _pipe_if_all_came(received, count)
            pid = os.fork()
        except OSError as error:
            reply = _REPLY.pack(b"p", -(error.errno or 1), 0)
        else:
            if not pid:
                os.close(told_w)
                _become((*self._own, told_r), role, received, told, where)
            self._children[pid] = spared
            reply = _REPLY.pack(b"p", pid, 0)
        for fd in received:
            os.close(fd)
        self._link.sendall(reply)
        self._let_go(told_r, told_w)
        return True

    @staticmethod
    def _let_go(told_r: int, told_w: int) -> None:
        """Let the child begin, now that the parent has been told of it (I4)."""
        if told_w >= 0:
            os.close(told_r)
            with contextlib.suppress(BrokenPipeError):  # it is dead already
                os.write(told_w, b"!")
            os.close(told_w)

    def _report_dead(self) -> None:
        for pid in list(self._children):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                del self._children[pid]
                code = os.waitstatus_to_exitcode(status)
                with contextlib.suppress(OSError):  # the parent is gone: the next read says so
                    self._link.sendall(_REPLY.pack(b"x", pid, code))

    def _kill_workers(self) -> None:
        for pid, spared in self._children.items():
            if not spared:
                end_process(pid)


def _pipe_if_all_came(received: Sequence[int], count: int) -> tuple[int, int]:
    """Return a new pipe, unless the kernel had to drop descriptors that were sent.

    Raises:
        OSError: It had to; or no pipe is to be had.
    """
    if len(received) < count:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return os.pipe()


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
) -> NoReturn:
    """Run a role in a child, and end it as a script ends: with its threads and exit functions."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if not os.read(servers[-1], 1):  # I4
            os._exit(status)
        for fd in servers:
            os.close(fd)
        take_name(name_of(role))
        settle(where)
        role(descriptors, arguments)
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocess does
        atexit._run_exitfuncs()  # noqa: SLF001 - as above
        status = 0
    except BaseException:  # noqa: BLE001 - nothing is left above a child but its exit status
        traceback.print_exc()
    finally:
        for printed in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                printed.flush()
        os._exit(status)
