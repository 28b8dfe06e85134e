"""Keys that a person presses while a batch runs, and SIGUSR1, which asks for the same.

The terminal gives keys at once and does not show them while they are read ("cbreak" mode); Ctrl-C,
Ctrl-Z and Ctrl-S are the kernel's as ever.

Runs in:    the parent: `open` and `close` in the thread that shows, `suspend` and `resume` also in
            a signal handler; the rest in a thread named "collector-keys".
Owns:       the mode of the terminal that is stdin, the handlers of SIGUSR1 and SIGTSTP, a pipe.
States:     CLOSED -> LISTENING (`open`) <-> SUSPENDED (`suspend`, `resume`) -> CLOSED (`close`)
Invariants: I1  the mode is ours only while LISTENING, and only where stdin is our controlling
                terminal and we are in its foreground.
            I2  a mode that somebody else has set meanwhile is not changed back.
            I3  a handler of the program's own is left alone.
            I4  nothing here stops this process: a terminal whose foreground we have just left is
                not read, and is changed with SIGTTOU blocked.
            I5  a forked child, which has the handlers too, asks for nothing and changes no mode.
"""

import contextlib
import os
import select
import signal
import termios
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final, final

from collector import interpreter
from collector.process.terminal_mode import told

_STDIN: Final = 0
_LOOK_S: Final = 1.0
"""So often is looked whether the terminal is ours (again): after `fg`, or a SIGCONT."""

_LFLAG: Final = 3
_CC: Final = 6


@final
class Keys:
    """Listens for keys and SIGUSR1.

    Args:
        asked: Is called with each key; with "t" at SIGUSR1.
        stopping: Is called at Ctrl-Z; is to call `suspend`.
        going_on: Is called after that; is to call `resume`.
    """

    def __init__(
        self,
        asked: Callable[[str], object],
        stopping: Callable[[], object],
        going_on: Callable[[], object],
    ) -> None:
        self._asked = asked
        self._stopping = stopping
        self._going_on = going_on
        self._lock = threading.RLock()
        self.before: list[Any] | None = None
        """The mode of the terminal, while it has ours."""
        self._reads = self._suspended = self._closed = False
        self._thread: threading.Thread | None = None
        self._wake: tuple[int, int] | None = None
        self._handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
        self._owner_pid = os.getpid()

    def open(self, *, terminal: bool) -> None:
        """Listen.

        Args:
            terminal: Also to keys, where stdin is a terminal of ours.
        """
        self._reads = terminal and os.isatty(_STDIN)
        with contextlib.suppress(OSError):  # no descriptors are to be had: nothing can be asked
            self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._wake is None:
            return
        self._handle(signal.SIGUSR1, lambda *_: self._poke(b"t"))
        if self._reads:
            self._handle(signal.SIGTSTP, lambda *_: self._stop())
        if self._reads or self._handlers:
            _open.add(self)
            self._enter()
            self._begin()

    def close(self) -> None:
        """Listen no more: mode and handlers are as before."""
        self._closed = True
        self._leave()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            self._poke(b"\0")
            thread.join()
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == handler:
                signal.signal(number, signal.SIG_DFL)
        self._handlers.clear()
        wake, self._wake = self._wake, None
        for fd in wake or ():
            os.close(fd)

    def suspend(self) -> None:
        """Leave the mode until `resume`."""
        self._suspended = True
        self._leave()

    def resume(self) -> None:
        """Enter it again."""
        self._suspended = False
        self._enter()

    # -- signals -----------------------------------------------------------------------------------

    def _handle(
        self, number: signal.Signals, handler: Callable[[int, FrameType | None], object]
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(number) is signal.SIG_DFL:  # I3
            self._handlers[number] = handler
            signal.signal(number, handler)

    def _stop(self) -> None:
        """At Ctrl-Z: stop, as without a handler, but with the mode left."""
        handler, ours = self._handlers.get(signal.SIGTSTP), os.getpid() == self._owner_pid
        if ours:
            self._stopping()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # here it goes on after SIGCONT
        if handler is not None and ours and not self._closed:
            signal.signal(signal.SIGTSTP, handler)
            self._going_on()

    def _poke(self, what: bytes) -> None:
        if self._wake is not None and os.getpid() == self._owner_pid:
            with contextlib.suppress(OSError):  # it is full: it has been asked often enough
                os.write(self._wake[1], what)

    # -- the mode ----------------------------------------------------------------------------------

    def _enter(self) -> None:
        with self._lock, contextlib.suppress(OSError, termios.error), _not_stopped():
            if not self._reads or self._suspended or self._closed or not _in_foreground():
                return
            mode = termios.tcgetattr(_STDIN)
            if mode != _ours(mode):
                self.before = mode
                termios.tcsetattr(_STDIN, termios.TCSANOW, _ours(mode))

    def _leave(self) -> None:
        if os.getpid() != self._owner_pid:
            return
        with self._lock, contextlib.suppress(OSError, termios.error), _not_stopped():
            before, self.before = self.before, None
            if before is None or not _in_foreground():
                return
            if termios.tcgetattr(_STDIN) == _ours(before):  # I2
                termios.tcsetattr(_STDIN, termios.TCSANOW, before)

    # -- the thread --------------------------------------------------------------------------------

    def _begin(self) -> None:
        thread = threading.Thread(target=self._run, name="collector-keys", daemon=True)
        with contextlib.suppress(RuntimeError):  # no thread is to be had: nothing can be asked
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU, signal.SIGTTIN})
        while not self._closed:
            for key in self._pressed():
                self._asked(key)
            self._enter()

    def _pressed(self) -> str:
        assert self._wake is not None
        poller = select.poll()
        poller.register(self._wake[0], select.POLLIN)
        if self.before is not None:
            poller.register(_STDIN, select.POLLIN)
        ready = dict(poller.poll(_LOOK_S * 1000 if self._reads else None))
        pressed = _read(self._wake[0]) if self._wake[0] in ready else b""
        state = ready.get(_STDIN, 0)
        if state & ~select.POLLIN:  # the terminal is gone
            self._reads, self.before = False, None
        elif state and _in_foreground():
            pressed += _read(_STDIN)
        return pressed.decode("latin-1")


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 64)
    except OSError:  # another process was faster, or the foreground is no longer ours
        return b""


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(_STDIN) == os.getpgrp()
    except OSError:  # it is not our controlling terminal
        return False


def _ours(mode: list[Any]) -> list[Any]:
    """Return a mode changed as we need it."""
    changed = list(mode)
    changed[_LFLAG] &= ~(termios.ICANON | termios.ECHO)
    changed[_CC] = list(mode[_CC])
    changed[_CC][termios.VMIN], changed[_CC][termios.VTIME] = 1, 0
    return changed


@contextlib.contextmanager
def _not_stopped() -> Iterator[None]:
    """Do something to the terminal without being stopped for it in the background (I4)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def changed_mode() -> str:
    """Return what gives back the mode of the terminal that is stdin; "" if it is not changed."""
    for keys in list(_open):
        before = keys.before
        if before is not None:
            return told(before, _ours(before))
    return ""


_open: Final[weakref.WeakSet[Keys]] = weakref.WeakSet()


@interpreter.at_exit
def _leave_at_exit() -> None:
    for keys in list(_open):
        keys.suspend()
