"""Runs the executor tests of this Python's own test suite with a Collector as the executor.

`python -m tests.support.cpython_suite MODULE METHOD`, for one module of
`test.test_concurrent_futures` and one start method. Nothing of the suite is changed but the type of
executor that its classes make, so each test means what its author meant; which do not apply is
written below, with the reason.

Runs in:    a process of its own: the suite looks after threads and children of the whole process.
"""

import sys
import unittest
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from collector import Collector
from tests.support.inside import why_broken

PACKAGE: Final = "test.test_concurrent_futures"
MODULES: Final = (
    "test_as_completed",
    "test_deadlock",
    "test_init",
    "test_process_pool",
    "test_shutdown",
    "test_wait",
)
"""Those with tests of process pools; `test_future` and `test_thread_pool` have none."""

_COUNTS: Final = "counts `_processes`, which one process fills in `submit`; tests/test_executor*.py"
_IN_SUBMIT: Final = (
    "a job that cannot be pickled raises in `submit` already: design, rules of the flow"
)
_ONE_JOB: Final = (
    "fails that one job with what was raised, where the standard one breaks as a whole"
)
_ALL_CANCELLED: Final = "asks that some have begun before workers are up; ours are all cancelled"
_BY_NAME: Final = "makes a ProcessPoolExecutor by its name, and joins its `_processes` and threads"

NOT_OURS: Final = {
    "test_killed_child": "the others go on: a dead worker fails the job that it ran, and no other",
    "test_saturation": _COUNTS,
    "test_idle_process_reuse_one": _COUNTS,
    "test_idle_process_reuse_multiple": _COUNTS,
    "test_max_tasks_per_child": "counts `_processes`, and holds that fork is refused; ours forks",
    "test_max_tasks_per_child_defaults_to_spawn_context": "asks for `_mp_context`: a forkserver's",
    "test_python_finalization_error": "fails the second of two threads of its own, at one place",
    "test_cancel_futures": _ALL_CANCELLED,
    "test_processes_terminate": "counts and joins `_processes`",
    "test_context_manager_shutdown": _BY_NAME,
    "test_del_shutdown": _BY_NAME,
    "test_shutdown_no_wait": _BY_NAME,
    "test_error_at_task_pickle": _IN_SUBMIT,
    "test_shutdown_deadlock_pickle": _IN_SUBMIT,
    "test_exit_at_task_unpickle": _ONE_JOB,
    "test_error_at_task_unpickle": _ONE_JOB,
    "test_error_during_result_unpickle_in_result_handler": _ONE_JOB,
    "test_exit_during_result_unpickle_in_result_handler": _ONE_JOB,
}


class Standard(Collector):
    """A Collector with the one private attribute that the suite asks of both standard executors."""

    @property
    def _broken(self) -> str:
        return why_broken(self)


Standard.__name__ = Standard.__qualname__ = "Collector"  # scripts of the suite are made with it


def load(name: str) -> ModuleType:
    """Return a module of the suite whose process pools are Collectors."""
    util: Any = import_module(f"{PACKAGE}.util")
    for mixin in (
        util.ProcessPoolForkMixin,
        util.ProcessPoolSpawnMixin,
        util.ProcessPoolForkserverMixin,
    ):
        mixin.executor_type = Standard
    module: Any = import_module(f"{PACKAGE}.{name}")
    if hasattr(module, "assert_python_ok"):  # runs a script that imports the executor by its name
        module.assert_python_ok = _with_ours(module.assert_python_ok)
    loaded: ModuleType = module
    return loaded


def _with_ours(run: Callable[..., Any]) -> Callable[..., Any]:
    def run_with_ours(option: str, source: str, **variables: str) -> Any:
        standard, ours = (
            "from concurrent.futures import Collector",
            "from collector import Collector",
        )
        assert standard in source
        # One script uses `multiprocessing`, and nobody has noticed that it does not import it.
        source = source.replace(standard, f"import multiprocessing; {ours}")
        return run(option, source, **variables)

    return run_with_ours


def tests_of(module: ModuleType, method: str) -> Iterator[unittest.TestCase]:
    """Yield the tests of a module that make a process pool by one start method, if they apply."""
    for case in vars(module).values():
        if not (isinstance(case, type) and issubclass(case, unittest.TestCase)):
            continue
        if case.__module__ != module.__name__:  # or imported by it
            continue
        names = {
            name
            for name in unittest.defaultTestLoader.getTestCaseNames(case)
            if NOT_OURS.keys().isdisjoint({name, *(f"{c.__name__}.{name}" for c in case.__mro__)})
        }
        if getattr(case, "ctx", None) != method:  # some run others, by the method of their name
            names &= {f"test_{method}"}
        yield from (case(name) for name in sorted(names))


def main(name: str, method: str) -> int:
    """Run the tests of a module by one start method; returns the exit status."""
    module: Any = load(name)
    suite = unittest.TestSuite(tests_of(module, method))
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
