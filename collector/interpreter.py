"""Our place among the handlers that run when a program ends, and in a child that it forks.

The interpreter runs both in an order that follows from when they were registered, and most of our
modules are loaded by the first Collector, while its forkserver starts. What they hand in here runs
as if `from collector import Collector` had loaded them all.

Runs in:    every process that uses collector.
Owns:       one exit handler and one fork handler, and the place of the finalizers.
Invariants: I1  an exit handler that a program registers after this is loaded runs before ours: it
                finds the files of outputs there. That of `logging` and all finalizers run after
                ours: jobs that we wait for can log, and find what those remove.
            I2  a fork handler that it registers after that runs after ours: what it makes of ours
                in the child is the child's.
            I3  ours run newest first at the end and oldest first in a child, as the interpreter
                does it; one that raises stops no other.
"""

import atexit
import logging  # noqa: F401 - its exit handler runs after ours
import os
import weakref
from collections.abc import Callable
from typing import Final

Act = Callable[[], object]

_at_exit: Final[list[Act]] = []
_in_child: Final[list[Act]] = []
_placed_in: Final[set[int]] = set()


def at_exit(act: Act) -> Act:
    """Have this called when the program ends; as `atexit.register`."""
    _take_place()
    _at_exit.append(act)
    return act


def in_forked_child(act: Act) -> Act:
    """Have this called in each child that is forked; as `os.register_at_fork`."""
    _in_child.append(act)
    return act


def explain_refusal(error: RuntimeError) -> None:
    """Say what to do, if the interpreter has refused a thread or a handler since the program ends.

    Raises:
        RuntimeError: That is so; from the interpreter's own.
    """
    if "shutdown" in str(error):  # in what each of them says; "can't start new thread" is a limit
        raise RuntimeError(
            "cannot start a Collector when the program is ending: make it and submit its first job "
            "before, or join the thread that does"
        ) from error


def _take_place() -> None:
    """Register with the interpreter, which forgets that in children of multiprocessing (3.13)."""
    if os.getpid() in _placed_in:
        return
    _placed_in.add(os.getpid())
    # weakref.finalize registers its exit handler when the first finalizer is made: make one now,
    # so that it is ordered relative to ours.
    weakref.finalize(_take_place, int).detach()
    atexit.unregister(_run_at_exit)
    atexit.register(_run_at_exit)


def _run_at_exit() -> None:
    _run(_at_exit)


def _run_in_child() -> None:
    _run(_in_child[::-1])


def _run(acts: list[Act]) -> None:
    """Call them, the last one first, also after one that raises, or a Ctrl-C between two."""
    try:
        while acts:
            acts.pop()()
    finally:
        if acts:
            _run(acts)


_take_place()
os.register_at_fork(after_in_child=_run_in_child)
