"""Clean up on every exit that can be had: the end of the process, `sys.exit`, SIGTERM, SIGHUP.

Runs in:    any process that uses a run directory without a sink to clean up after it.
Owns:       the handlers of SIGTERM and SIGHUP while something is registered or a `deferred` block
            runs, and the exit hook.
Invariants: I1  a handler of the user's is never replaced: ours goes only over the default one, and
                only in the main thread.
            I2  the exit status stays the signal's: restore the default, then raise it again.
            I3  a second signal leaves at once; what is left then waits for the next sweep.
            I4  a forked child cleans nothing of its parent's.
            I5  no signal of these lands between two steps of a `deferred` block.
Source:     git's sigchain: do my clean-up, pop the handler, raise again. SIGINT is left to Python:
            an `except KeyboardInterrupt` must find the outputs still there.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from collector import interpreter
from collector.logger import PackageLogger

_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)
_logger = PackageLogger()


class _Exit:
    """What is to be cleaned in this process, and how far the main thread may be interrupted."""

    def __init__(self) -> None:
        self.registered: dict[object, Callable[[], None]] = {}
        self.depth = 0
        self.pending: int | None = None
        self.child_end_watched = False


_exit: Final = _Exit()


def on_exit(clean: Callable[[], None]) -> Callable[[], None]:
    """Call `clean` when the process ends, by a signal too as far as that can be had.

    Args:
        clean: Must be safe to call twice, and do nothing in another process than this one.

    Returns:
        A function that takes the registration back; it never raises.
    """
    key = object()
    _exit.registered[key] = clean
    _install()
    _watch_child_end()

    def forget() -> None:
        _exit.registered.pop(key, None)
        if not _exit.registered:
            _restore()

    return forget


def clean_up() -> None:
    """Clean everything that is registered, newest first; one failure does not stop the others."""
    while _exit.registered:
        try:
            _, clean = _exit.registered.popitem()
        except KeyError:
            return  # another thread took the last one
        try:
            clean()
        except Exception:
            # Goes on with the others: the process is about to end, and a sweep finds the rest.
            _logger.exception("clean-up at exit failed")
    _restore()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let SIGTERM and SIGHUP wait until the block has ended, so that it is done whole.

    Where a handler of the user's is installed, it decides instead. Only the main thread is ever
    interrupted by a signal, so other threads pass through.
    """
    if not _in_main_thread():
        yield
        return
    _exit.depth += 1
    try:
        _install()
        yield
    finally:
        _exit.depth = max(0, _exit.depth - 1)
        if not _exit.depth:
            if _exit.pending is not None:
                _leave(_exit.pending)
            if not _exit.registered:
                _restore()


def _handle(number: int, _frame: FrameType | None) -> None:
    if _exit.depth:
        _exit.pending = number
        _restore()  # I3
    else:
        _leave(number)


def _leave(number: int) -> None:
    _restore()  # I3
    try:
        clean_up()
    finally:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _install() -> None:
    # The first process of a container ignores signals left at their default. Raising one again
    # would not end it, so there we leave them alone.
    if not _in_main_thread() or os.getpid() == 1 or _exit.pending is not None:
        return
    for number in _SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _handle)


def _restore() -> None:
    if not _in_main_thread():
        return
    for number in _SIGNALS:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_DFL)


def _watch_child_end() -> None:
    """Clean at the end of a child of multiprocessing too: a forked one leaves by `os._exit`."""
    if _exit.child_end_watched:
        return
    _exit.child_end_watched = True
    for package in ("multiprocessing", "multiprocess"):
        process, util = sys.modules.get(f"{package}.process"), sys.modules.get(f"{package}.util")
        if process is not None and util is not None and process.parent_process() is not None:
            util.Finalize(None, _clean_child, exitpriority=-1)  # after its own children


def _clean_child() -> None:
    # Unlike `atexit`, this comes before other threads are waited for. Theirs is left to a sweep.
    others = [one for one in threading.enumerate() if one is not threading.current_thread()]
    if all(one.daemon for one in others):
        clean_up()


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


def _start_afresh() -> None:
    """Forget in a forked child what belongs to its parent."""
    _exit.registered = {}
    _exit.depth = 0
    _exit.pending = None
    _exit.child_end_watched = False
    _restore()


interpreter.at_exit(clean_up)
interpreter.in_forked_child(_start_afresh)
