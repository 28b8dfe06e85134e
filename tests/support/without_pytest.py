"""What stands for `pytest` in a process that is not pytest's own, until something of it is used.

A worker finds a job of a test module by name, and so imports that module; nearly all of that was
the import of pytest (0.3 s of processor time), of which a job uses nothing but what decorates the
tests beside it.

Runs in:    workers, sinks and programs that tests start; never the process of pytest.
Invariants: I1  what a process uses of pytest, but for decorators and annotations, is the real one.
"""

import importlib
import sys
from types import ModuleType
from typing import Any, Final, final


def stand_in() -> None:
    """Stand for `pytest` in this process, unless it is there already."""
    sys.modules.setdefault("pytest", _StandIn("pytest"))


class _StandIn(ModuleType):
    """Has every name that `pytest` has, and loads it for none of them."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _decorator if name in {"fixture", "mark", "param"} else _Later(name)


class _Decorator:
    """Any mark, fixture or parameter: it leaves what it decorates as it is."""

    def __getattr__(self, name: str) -> "_Decorator":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *decorated: Any, **options: object) -> Any:
        alone = len(decorated) == 1 and not options
        return decorated[0] if alone and callable(decorated[0]) else self


_decorator: Final = _Decorator()


@final
class _Later:
    """A name of pytest: in an annotation it is nothing, and otherwise what it is there."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, _kind: object) -> "_Later":
        return self

    def __or__(self, _other: object) -> "_Later":
        return self

    __ror__ = __or__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)

    def __call__(self, *values: Any, **options: Any) -> Any:
        return self._real()(*values, **options)

    def _real(self) -> Any:
        if isinstance(sys.modules.get("pytest"), _StandIn):
            del sys.modules["pytest"]
        return getattr(importlib.import_module("pytest"), self._name)
