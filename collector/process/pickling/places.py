"""Where functions and classes live, and which modules another process can import.

A module *travels* if this process has it and a worker could not import it: the script, a plug-in
that was loaded by its path, a test module that pytest has loaded by its own means; and one that is
still being imported, while it is.

Runs in:    the parent and the worker.
Owns:       what was found out about the modules of this process.
"""

import contextlib
import os
import sys
from importlib.machinery import ModuleSpec
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any, Final

Key = tuple[str, str]
"""A module, and a name of its top level."""


def number_of(part: int, at: int) -> int:
    """Return the number of the name that has this place in the part of that number."""
    return part << 32 | at


_METHODS: Final = (MethodType, BuiltinMethodType)
_TAKEN_ALONG: Final = ("multiprocessing.context", "multiprocess.context")
"""`from multiprocessing import Pool` keeps the start method that the script has set."""

_path: Final[list[object]] = []
_known: Final[dict[str, tuple[object, bool]]] = {}
"""By name: the module that was looked at, and whether it can be imported with that path."""


def importable(name: str) -> bool:
    """Tell whether another process with our `sys.path` gets this very module by importing it."""
    if sys.path != _path:
        _known.clear()
        _path[:] = sys.path
    known = _known.get(name)
    module = sys.modules.get(name)
    if known is None or known[0] is not module:
        if _is_being_imported(name):
            return False
        known = _known[name] = module, name != "__main__" and _is_found(name, module)
    return known[1]


def _is_being_imported(name: str) -> bool:
    """Whether the module, or a package that it is in, has begun to run and not ended.

    What uses a Collector just then would be run again by each worker that imports it, and so on.
    """
    while name:
        if getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False):
            return True
        name = name.rpartition(".")[0]
    return False


def _is_found(name: str, module: Any) -> bool:
    above, _, _ = name.rpartition(".")
    path = None
    if above:
        if not importable(above):
            return False
        path = getattr(sys.modules.get(above), "__path__", None)
        if path is None:
            return True  # no package: it makes this module itself, as `os` does `os.path`
    for finder in list(sys.meta_path):
        try:
            spec = finder.find_spec(name, path)
        except Exception:  # noqa: BLE001 - a finder of somebody else's: the worker will see
            return True
        if spec is not None:
            return _is_that(spec, module)
    return bool(above) and getattr(module, "__file__", None) is None  # its package makes it


def _is_that(spec: ModuleSpec, module: Any) -> bool:
    """Whether what is found by a module's name is that module."""
    file = getattr(module, "__file__", None)
    own = getattr(getattr(module, "__spec__", None), "origin", None)
    inside = list(getattr(module, "__path__", None) or ())
    if file is None and own is None and inside:  # a package of directories without `__init__.py`
        found = spec.submodule_search_locations or ()
        return any(_is_same(place, ours) for place in found for ours in inside)
    return not spec.has_location or any(_is_same(spec.origin, place) for place in {file, own})


def _is_same(origin: str | None, place: str | None) -> bool:
    if origin is None or place is None or origin == place:
        return True
    with contextlib.suppress(OSError):
        return os.path.samefile(origin, place)
    return False


def place(obj: Any) -> Key | None:
    """Return the module and the qualified name under which this very object is found."""
    module = getattr(obj, "__module__", None)
    name = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
    if type(module) is not str or type(name) is not str:
        return None
    found: Any = sys.modules.get(module)
    if "." not in name:
        found = getattr(found, name, None)
    else:
        for part in name.split("."):
            found = getattr(found, part, None)
    return (module, name) if found is obj else None


def import_of(method: Any, name: str = "") -> Key | None:
    """Return the importable module that has this very bound method, and its name there.

    `random.choice`, and much like it, is a method of an object that has no name: whoever imports it
    means that object, and no copy, which would draw the same numbers in each worker.

    Args:
        method: Anything.
        name: What it may be called there, beside its own name.
    """
    if type(method) not in _METHODS or isinstance(method.__self__, type | ModuleType):
        return None
    above = type(method.__self__).__module__
    if above in _TAKEN_ALONG or not importable(above):
        return None
    names = name, getattr(method, "__name__", name)
    for module in (above, *sys.modules):
        for one in names:
            if names_of(module).get(one) is method and importable(module):
                return module, one
    return None


def home(fn: FunctionType) -> str | None:
    """Return the travelling module whose names are a function's globals; None if there is none."""
    name = fn.__globals__.get("__name__")
    if not isinstance(name, str) or importable(name):
        return None
    module = sys.modules.get(name)
    return name if getattr(module, "__dict__", None) is fn.__globals__ else None


def travelling(module: ModuleType) -> str | None:
    """Return the name of a module that travels, None of one that can be imported."""
    name = getattr(module, "__name__", None)
    if not isinstance(name, str) or sys.modules.get(name) is not module or importable(name):
        return None
    return name


def names_of(module: str) -> dict[str, Any]:
    """Return the names of a module; none if it is not there any more."""
    return getattr(sys.modules.get(module), "__dict__", {})
