"""The executors that the contract is held against: ours, and the standard one as a control.

The behaviour is that of `concurrent.futures` as CPython's own tests describe it. Where ours
promises more, the test says so with `kind.ours`.
"""

import gc
import multiprocessing
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from collector import Collector
from tests.support.jobs import METHODS
from tests.support.leaks import wait_until

if TYPE_CHECKING:
    import threading

PATIENCE: Final = 120
"""Seconds after which something is said to hang."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of executor, with a start method."""

    ours: bool
    method: str

    def __str__(self) -> str:
        return f"{'Collector' if self.ours else 'ProcessPoolExecutor'}-{self.method}"

    def make(self, max_workers: int | None = 2, **options: Any) -> Executor:
        """Make one."""
        if self.ours:
            return Collector(max_workers, self.method, **options)
        context = multiprocessing.get_context(self.method)
        return ProcessPoolExecutor(max_workers, context, **options)

    def ending(self, executor: Executor) -> Callable[[], None]:
        """Return what waits for the end; to be asked for before a shutdown that does not wait.

        Afterwards the standard executor has forgotten what it would have to wait for.
        """
        manager: threading.Thread | None = getattr(executor, "_executor_manager_thread", None)
        return executor.shutdown if manager is None else manager.join

    def expression(self, max_workers: int = 2) -> str:
        """The source that makes one, for a script."""
        if self.ours:
            return f"__import__('collector').Collector({max_workers}, {self.method!r})"
        return (
            f"__import__('concurrent.futures').futures.ProcessPoolExecutor({max_workers}, "
            f"__import__('multiprocessing').get_context({self.method!r}))"
        )


def _in_its_tier(kind: Kind) -> Any:
    """The standard executor takes long: that it keeps the contract, too, is found by a campaign."""
    if not kind.ours:
        return pytest.param(kind, marks=pytest.mark.campaign)
    return kind if kind.method == METHODS[0] else pytest.param(kind, marks=pytest.mark.slow)


KINDS: Final = [_in_its_tier(Kind(ours, method)) for method in METHODS for ours in (True, False)]


def is_gone(reference: weakref.ref[Any]) -> bool:
    """Whether nothing holds it any more; the threads of an executor may need a moment."""

    def gone() -> bool:
        gc.collect()
        return reference() is None

    return wait_until(gone)
