"""The modules of a worker that stand for the parent's, and the parts of the script that fill them.

Runs in:    the worker. To the parent, which asks too, nothing has come.
Owns:       of each module that travels and that the worker has: what came from the parent.
Invariants: I1  a worker has one module for each of the parent's that travels, and it is the one in
                `sys.modules`: all that is loaded here sees the same names.
            I2  a part is loaded after a job that needs it has begun: if loading it ends the worker,
                that job fails and no other.
"""

import contextlib
import io
import pickle
import sys
from array import array
from collections.abc import Collection, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from collector.process.pickling import places
from collector.process.pickling.places import Key
from collector.process.pickling.values import Values

if TYPE_CHECKING:
    from collector.wire.messages import LoadPart

_came: Final[dict[Key, object]] = {}
_coming: Final[set[Key]] = set()
"""What is just being loaded, and not made yet."""


class _Main(ModuleType):
    """Stands for the script. It has no `__file__`, which `multiprocessing` would run once more."""

    @property
    def __file__(self) -> str:  # type: ignore[mutable-override, override]
        raise AttributeError("__file__")  # functions of the script find it among their globals


def end_imports() -> None:
    """Let go, in a forked process, of the imports that threads of its parent were in.

    Nobody goes on with them here: whoever needs such a module gets it as it is, and does not wait.
    """
    for module in list(sys.modules.values()):
        with contextlib.suppress(Exception):  # some put there what is no module
            if module.__spec__._initializing:  # type: ignore[union-attr]  # noqa: SLF001 - no other way
                module.__spec__._initializing = False  # type: ignore[union-attr]  # noqa: SLF001


def stand_for_the_script() -> None:
    """Let `__main__` be a module for the script, in a worker that is no copy of the parent."""
    main = sys.modules["__main__"] = _Main("__main__")
    vars(main)["__builtins__"] = sys.modules["builtins"]


def came_from_the_parent(key: Key, value: object) -> bool:
    """Tell whether this very object is what the parent has sent under this name."""
    return _came.get(key, _came) is value


def name_that_came(value: object) -> Key | None:
    """Return what the parent calls this object."""
    return next((key for key, came in _came.items() if came is value), None)


def is_made(value: type) -> None:
    """Bind the name of a class that is coming: what makes the objects that it holds may use it."""
    key = value.__module__, value.__qualname__
    if key in _coming:  # the first of that name: what it holds may be of one that was before
        _coming.discard(key)
        vars(sys.modules[key[0]])[key[1]] = value


def modules() -> set[str]:
    """Return the modules of which something came."""
    return {"__main__", *(module for module, _ in _came)}


class Arrivals:
    """The parts that came here, until they are loaded, and what of them could not be."""

    def __init__(self) -> None:
        self._waiting: list[LoadPart] = []
        self._failed: dict[Key, tuple[LoadPart, int]] = {}

    def take(self, parts: "Iterable[LoadPart]") -> None:
        """Have these loaded soon."""
        self._waiting.extend(parts)

    def load(self, names: bytes | None = None) -> None:
        """Load what waits. What cannot be loaded fails only the jobs that need it.

        Args:
            names: The numbers of those that are needed; None for all.

        Raises:
            BaseException: What loading one of these names raises: the user's code.
        """
        while self._waiting:
            part = self._waiting[0]
            self._bind(part, set(array("Q", part.wanted)))
            del self._waiting[0]
        if self._failed:
            needed = None if names is None else array("Q", names)
            for part, at in list(self._failed.values()):
                if needed is None or places.number_of(part.number, at) in needed:
                    self._bind(part, {at}, again=True)

    def _bind(self, part: "LoadPart", wanted: Collection[int], *, again: bool = False) -> None:
        """Bind names to what a part holds for them.

        A part holds the attributes that its modules must have, then each name and its value; the
        values are pickled with one memo. So everything before the last wanted name is unpickled as
        well, also names of which the worker keeps another version: later values may share objects
        with them.
        """
        file = io.BytesIO(part.blob)
        with contextlib.closing(Values(file)) as values:
            for name, attributes in values.load().items():
                _stand_in(name, attributes)
            names: list[tuple[Key, int]] = []
            for start in array("Q", part.starts)[: max(wanted) + 1]:
                file.seek(start)
                names.append((pickle.load(file), file.tell()))
            _coming.update(names[at][0] for at in wanted)
            for at, (key, begin) in enumerate(names):
                file.seek(begin)
                try:
                    value = values.load()
                except (
                    BaseException
                ):  # fails the jobs that need it, not the one that loads it first
                    if again and at in wanted:
                        raise
                    if at in wanted:
                        self._failed[key] = part, at
                    continue
                finally:
                    _coming.discard(key)
                if at in wanted:
                    self._failed.pop(key, None)
                    vars(sys.modules[key[0]])[key[1]] = _came[key] = value


def _stand_in(name: str, attributes: dict[str, Any]) -> None:
    module = sys.modules.get(name)
    if module is None:
        module = sys.modules[name] = ModuleType(name)
        vars(module)["__builtins__"] = sys.modules["builtins"]
        above, _, last = name.rpartition(".")
        if above in sys.modules:
            setattr(sys.modules[above], last, module)
    for key, value in attributes.items():
        if vars(module).get(key) is None:
            vars(module)[key] = value
