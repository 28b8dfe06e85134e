"""What `multiprocessing` and `multiprocess` know of a worker: its name, its parent, their keys.

For both a worker is a child of the program, as those of their own pools are: it has a name, a
parent whose death it can ask for, and the key with which managers know their own; it is no daemon,
since jobs may start processes. A library is not loaded for that: one that a job loads later is told
then (`multiprocess` takes 60 ms, for `dill`).

Runs in:    `ancestors`, `keys` and `trackers` in the parent, `Lineage` in a worker.
Owns:       nothing; the trackers' descriptors are the library's in the worker.
Source:     `BaseProcess._bootstrap` of both libraries, and `spawn.spawn_main` for the trackers.
"""

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

if TYPE_CHECKING:
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec

LIBRARIES: Final = ("multiprocessing", "multiprocess")


@final
class Ancestor(NamedTuple):
    """The parent, as one of the libraries knows it."""

    library: str
    name: str
    identity: tuple[int, ...]
    inherited: dict[str, Any]
    """What descendants of a process have from it: the key, and where it has its files."""


def ancestors() -> list[Ancestor]:
    """Return this process as each library knows it that is loaded here."""
    return [_ancestor(library) for library in LIBRARIES]


def _ancestor(library: str) -> Ancestor:
    current: Any = _current_process(library)
    if current is None:
        return Ancestor(library, "MainProcess", (), {})
    config = {k: v for k, v in current._config.items() if k not in ("daemon", "authkey")}  # noqa: SLF001
    return Ancestor(
        library=library,
        name=current.name,
        identity=current._identity,  # noqa: SLF001 - as `BaseProcess.__init__`
        inherited=config | {"authkey": bytes(current.authkey)},
    )


def keys() -> tuple[bytes, bytes]:
    """Return the keys of this process, one a library; empty where that is not loaded.

    It is called for each job, so it reads the modules directly and copies nothing.
    """
    found = sys.modules.get
    theirs: Any = found("multiprocessing.process")
    others: Any = found("multiprocess.process")
    try:
        return (
            theirs._current_process._config["authkey"] if theirs is not None else b"",  # noqa: SLF001
            others._current_process._config["authkey"] if others is not None else b"",  # noqa: SLF001
        )
    except AttributeError:  # another thread is loading it just now, so nobody has used its key
        return b"", b""


def _current_process(library: str) -> object:
    # Not there: another thread is loading it just now, so nobody has used it.
    return getattr(sys.modules.get(f"{library}.process"), "_current_process", None)


def trackers() -> list[tuple[str, int]]:
    """Return the libraries whose resource tracker runs, each with a descriptor that leads there.

    The descriptors are the caller's to close.
    """
    found = []
    for library in LIBRARIES:
        tracker: Any = getattr(
            sys.modules.get(f"{library}.resource_tracker"), "_resource_tracker", None
        )
        fd = getattr(tracker, "_fd", None)
        with contextlib.suppress(OSError):  # it is just being replaced, or no room is left
            found += [] if fd is None else [(library, os.dup(fd))]
    return found


@final
class Lineage:
    """Makes this process a child in the eyes of both libraries.

    Args:
        name: Its name.
        number: Which child of the parent's it is.
        parent_pid: The parent, who need not be who started it.
        sentinel: A descriptor that becomes readable when the parent dies; it stays the caller's.
        ancestors: The parent, as the libraries know it.
    """

    def __init__(
        self,
        name: str,
        number: int,
        parent_pid: int,
        sentinel: int,
        ancestors: Sequence[Ancestor],
    ) -> None:
        self._name = name
        self._number = number
        self._parent_pid = parent_pid
        self._sentinel = sentinel
        self._inherited = {ancestor.library: ancestor.inherited for ancestor in ancestors}
        self._forked = False
        for ancestor in ancestors:
            _when_loaded(f"{ancestor.library}.process", self._adopting(ancestor))

    def share_trackers(self, descriptors: Sequence[tuple[str, int]]) -> None:
        """Use the parent's resource trackers: one of our own would remove what is the parent's."""
        for library, fd in descriptors:
            _when_loaded(f"{library}.resource_tracker", _sharing(fd))

    def begin_by_fork(self) -> None:
        """Let go of what was the parent's, as `multiprocess` has done for itself already."""
        self._forked = True
        process: Any = sys.modules["multiprocessing.process"]
        process.BaseProcess._after_fork()  # noqa: SLF001 - as `BaseProcess._bootstrap`

    def leave(self) -> None:
        """End what jobs began with `multiprocessing`, where the end of the process does not."""
        if self._forked:
            util: Any = sys.modules["multiprocessing.util"]
            util._exit_function()  # noqa: SLF001 - as `BaseProcess._bootstrap`

    def learn(self, told: Sequence[bytes]) -> None:
        """Take over the keys that the parent has now."""
        for library, key in zip(LIBRARIES, told, strict=True):
            if key:
                self._inherited[library]["authkey"] = key
                current: Any = _current_process(library)
                if current is not None:
                    current.authkey = key

    def _adopting(self, ancestor: Ancestor) -> Callable[[Any], None]:
        def adopt(process: Any) -> None:
            config = dict(process._current_process._config) | ancestor.inherited  # noqa: SLF001
            child = process.BaseProcess(name=self._name)
            child._config = {k: v for k, v in config.items() if k != "daemon"}  # noqa: SLF001
            child.authkey = bytes(config["authkey"])
            child._identity = (*ancestor.identity, self._number)  # noqa: SLF001
            child._parent_pid = self._parent_pid  # noqa: SLF001
            child._parent_name = ancestor.name  # noqa: SLF001
            process._current_process = child  # noqa: SLF001
            process._parent_process = process._ParentProcess(  # noqa: SLF001
                ancestor.name, self._parent_pid, self._sentinel
            )
            process._process_counter = itertools.count(1)  # noqa: SLF001
            process._children = set()  # noqa: SLF001

        return adopt


def _sharing(fd: int) -> Callable[[Any], None]:
    def share(tracker: Any) -> None:
        tracker._resource_tracker._fd = fd  # noqa: SLF001 - as `spawn.spawn_main`

    return share


def _when_loaded(module: str, act: Callable[[Any], None]) -> None:
    """Have this called with a module: now, or as soon as something has loaded it."""
    if module in sys.modules:
        act(sys.modules[module])
        return
    if _late not in sys.meta_path:
        finders: list[Any] = sys.meta_path
        finders.insert(0, _late)
    _late.acts[module] = act


@final
class _Late:
    """Finds what others find, and has something done once it is loaded."""

    def __init__(self) -> None:
        self.acts: dict[str, Callable[[Any], None]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> "ModuleSpec | None":
        if fullname not in self.acts:
            return None
        for finder in sys.meta_path:
            find: Any = getattr(finder, "find_spec", None)
            spec = None if finder is self or find is None else find(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Then(spec.loader, self.acts)
                return spec  # type: ignore[no-any-return]
        return None


@final
class _Then:
    """Loads with another loader, whose module it then is, and has something done with that."""

    def __init__(self, loader: "Loader", acts: dict[str, Callable[[Any], None]]) -> None:
        self._loader = loader
        self._acts = acts

    def create_module(self, spec: "ModuleSpec") -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        act = self._acts.pop(module.__name__, None)
        if act is not None:
            act(module)


_late: Final = _Late()
