"""Our place among the handlers that run when a program ends, and in a child that it forks.

The interpreter runs both in an order that follows from when they were registered, and most of our
modules are loaded by the first Collector, while its forkserver starts. What they hand in here runs
as if `import collector` had loaded them all.

Runs in:    every process that imports collector.
Owns:       one exit handler and one fork handler, and the place of the finalizers.
Invariants: I1  an exit handler that a program registers after `import collector` runs before ours:
                it finds the files of outputs there.
            I2  a fork handler that it registers after that runs after ours: what it makes of ours
                in the child is the child's.
            I3  ours run newest first at the end and oldest first in a child, as the interpreter
                does it; one that raises stops no other.
"""

import atexit
import contextlib
import os
import weakref
from collections.abc import Callable
from typing import Final

Act = Callable[[], object]

_at_exit: Final = contextlib.ExitStack()
_in_child: Final[list[Act]] = []


def at_exit(act: Act) -> Act:
    """Have this called when the program ends; as `atexit.register`."""
    return _at_exit.callback(act)


def in_forked_child(act: Act) -> Act:
    """Have this called in each child that is forked; as `os.register_at_fork`."""
    _in_child.append(act)
    return act


def _run_in_child() -> None:
    with contextlib.ExitStack() as acts:
        for act in reversed(_in_child):
            acts.callback(act)


atexit.register(_at_exit.close)
# A file is removed by a finalizer, and all finalizers of a program run where the first was made.
weakref.finalize(at_exit, int).detach()
os.register_at_fork(after_in_child=_run_in_child)
