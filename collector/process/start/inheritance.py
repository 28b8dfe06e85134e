"""What `multiprocessing` and `multiprocess` let a process have only while it is started.

Locks, semaphores, events, conditions, barriers, queues, shared values and arrays, connections and
sockets may be among the arguments of an initializer, as with `ProcessPoolExecutor`. A forked worker
has the objects themselves. Otherwise they are pickled once, as for a process that is being started,
and each worker gets copies of the descriptors, also one that replaces another.

Runs in:    `Inheritance` in the parent, `receive` in a worker.
Owns:       in the parent, until no further worker is started, a copy of each descriptor and a
            reference to each object: a semaphore is gone with the object that made it, so that it
            is neither gone too early, nor left to the resource tracker as if nobody cared.
Source:     `popen_forkserver.Popen` of both libraries: `duplicate_for_child` and `DupFd`.
"""

import os
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final, final

from collector.process.pickling.script import Parts, Script
from collector.process.start.lineage import LIBRARIES

_ELSEWHERE: Final = ("builtins", "functools")
"""Modules of types that `ForkingPickler` pickles in a way of its own, which ours does not need."""


@final
class Inheritance:
    """A call that each worker makes before its first job, and what comes along with it.

    Args:
        call: A function and its arguments; None for nothing to be called.
        method: How workers are started.
        script: Keeps what they are sent of the script.

    Raises:
        RuntimeError: One of the arguments is of a context of another start method.
        OSError: No descriptor is to be had.
        Exception: The call cannot be pickled (whatever pickling it raises).
    """

    def __init__(self, call: tuple[Any, ...] | None, method: str, script: Script) -> None:
        self.call = b""
        self.parts: Parts = ()
        self.descriptors: list[int] = []
        self._kept: object = call
        self._by_fork: Final[list[object]] = []
        if call is not None:
            try:
                self._pack(call, method, script)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Let go of what came along: no further worker is started."""
        self._kept = None
        self._by_fork.clear()
        while self.descriptors:
            os.close(self.descriptors.pop())

    def _pack(self, call: tuple[Any, ...], method: str, script: Script) -> None:
        contexts: list[Any] = [sys.modules.get(f"{library}.context") for library in LIBRARIES]
        if not any(contexts):
            self.call, self.parts, _ = script.pack(call)
            return
        if method == "fork":
            _inherited_by_fork[id(self)] = self
        for context in filter(None, contexts):
            context.set_spawning_popen(self)
        try:
            self.call, self.parts, _ = script.pack(call, dict(self._reducers(method)))
        finally:
            for context in filter(None, contexts):
                context.set_spawning_popen(None)

    def _reducers(self, method: str) -> Iterator[tuple[type, Callable[[Any], Any]]]:
        for library in LIBRARIES:
            reduction: Any = sys.modules.get(f"{library}.reduction")
            if reduction is None:
                continue
            known = reduction.ForkingPickler._extra_reducers  # noqa: SLF001
            for kind, reduce in known.items():
                if kind.__module__ not in _ELSEWHERE:
                    yield kind, reduce
            semaphores = list(_classes(library, "synchronize", "SemLock"))
            if method == "fork":
                pieces = [
                    *semaphores,
                    *_classes(library, "connection", "_ConnectionBase"),
                    *_classes(library, "heap", "Arena"),
                    *_classes("socket", "", "socket"),
                ]
                yield from ((kind, self._by_reference) for kind in pieces)
            else:
                refuse = _refusing(library, method)
                yield from ((kind, refuse) for kind in semaphores)

    def _by_reference(self, thing: object) -> tuple[Any, ...]:
        self._by_fork.append(thing)
        return _of_the_parent, (id(self), len(self._by_fork) - 1)

    def thing(self, index: int) -> object:
        """Return, in a process by fork, what was not pickled."""
        return self._by_fork[index]

    def duplicate_for_child(self, fd: int) -> int:
        """Take a descriptor along; as `Popen.duplicate_for_child`."""
        self.descriptors.append(os.dup(fd))
        return len(self.descriptors) - 1

    DupFd: "type[_Descriptor]"
    """What stands for a descriptor that was taken along; as `Popen.DupFd`."""


@final
class _Descriptor:
    def __init__(self, index: int) -> None:
        self._index = index

    def detach(self) -> int:
        """Return the descriptor, in the worker; it is the caller's from now on."""
        return _received[self._index]


Inheritance.DupFd = _Descriptor

_inherited_by_fork: Final[weakref.WeakValueDictionary[int, Inheritance]] = (
    weakref.WeakValueDictionary()
)
_received: Final[list[int]] = []


def receive(descriptors: list[int]) -> None:
    """Hand over, in a worker, what came along, before the call is unpickled."""
    _received[:] = descriptors


def _of_the_parent(number: int, index: int) -> object:
    return _inherited_by_fork[number].thing(index)


def _classes(library: str, module: str, name: str) -> Iterator[type]:
    """Return a class, if it is loaded, and all that are derived from it."""
    base = getattr(sys.modules.get(f"{library}.{module}".rstrip(".")), name, None)
    todo = [] if base is None else [base]
    while todo:
        kind = todo.pop()
        yield kind
        todo += kind.__subclasses__()


def _refusing(library: str, method: str) -> Callable[[Any], Any]:
    """Return a reducer of semaphores, which refuses those that only a fork can hand on."""

    def reduce(lock: Any) -> Any:
        if lock._semlock.name is None:  # noqa: SLF001 - `SemLock._is_fork_ctx` is not in all versions
            raise RuntimeError(
                f"initargs hold a {type(lock).__name__}, or something that is made with one, of "
                f"the context 'fork', and workers are started by {method}: make it with "
                f"{library}.get_context({method!r}), or use mp_context='fork'"
            )
        return lock.__reduce_ex__(5)

    return reduce
