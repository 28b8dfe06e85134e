"""Stand between a module of ours and `os`, and let single system calls fail or fall short."""

import errno
import os
import types
from collections.abc import Callable
from typing import Any

import pytest


class FaultyOs:
    """What a module sees as `os` meanwhile; everything but the faults goes through.

    Attributes:
        calls: How often each function with a fault was called.
        fired: How often a fault came true.
    """

    def __init__(self, patch: pytest.MonkeyPatch, *modules: types.ModuleType) -> None:
        self._faults: dict[str, Callable[[int], Any]] = {}
        self.calls: dict[str, int] = {}
        self.fired = 0
        for module in modules:
            patch.setattr(module, "os", self)

    def fail(
        self,
        name: str,
        *,
        at: int = 1,
        times: int = 1,
        error: int = errno.ENOSPC,
        done: bool = False,
    ) -> None:
        """Let the `at`-th call of `os.<name>` and `times - 1` after it fail.

        Args:
            name: Function of `os`.
            at: Counted from now on; 1 is the next one.
            times: How many fail.
            error: The errno.
            done: Do the work first, and fail only then (as `close` does).
        """
        self.calls[name] = 0

        def verdict(call: int) -> tuple[int, bool] | None:
            return (error, done) if at <= call < at + times else None

        self._faults[name] = verdict

    def shorten(self, name: str = "write", *, keep: Callable[[int], int]) -> None:
        """Let `os.<name>` take only `keep(length)` bytes of each buffer."""
        self.calls[name] = 0
        self._faults[name] = lambda _call: keep

    def heal(self) -> None:
        """Let everything work again."""
        self._faults.clear()

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self._faults:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            verdict = self._faults[name](self.calls[name])
            if verdict is None:
                return real(*args, **kwargs)
            self.fired += 1
            if callable(verdict):
                return real(args[0], memoryview(args[1])[: verdict(len(args[1]))])
            error, done = verdict
            if done:
                real(*args, **kwargs)
            raise OSError(error, os.strerror(error))

        return call
