"""The one door to `multiprocess`: processes by spawn and by fork, which never run `__main__` again.

Runs in:    the parent; the first lines also in each child.
Owns:       nothing.
Source:     dropping `init_main_from_*` from the preparation data is what loky does; the resource
            tracker is not started because nothing of ours needs it
            (docs/decisions/0004-start-methods.md). The private names that
            are used: docs/decisions/0023-private-parts-of-multiprocess.md.
"""

import atexit
import contextlib
import io
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Final, NoReturn

from collector import settings
from collector.process.start import bootstrap
from collector.process.start.child import settle, surroundings, take_name
from collector.process.start.launcher import Child, Role, name_of, open_pidfd
from collector.process.start.temp_directory import found_temp_directory, needing_none

with needing_none():  # which dill wants to know while it is imported
    import multiprocess
    from multiprocess import popen_fork, popen_spawn_posix, reduction, spawn, util
    from multiprocess.context import set_spawning_popen

_HAS_EXIT_FUNCTIONS: Final = sys.version_info >= (3, 13)
"""Whether a child by fork runs exit functions of its own; before, `_bootstrap` does what those of
the library do (gh-83856)."""


@contextlib.contextmanager
def _tied(popen: Any) -> Iterator[tuple[int, int, int, int]]:
    """Make the pipes that tell parent and child of each other's death; close them on an error."""
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        sentinel, child_w = os.pipe()
        ours.callback(os.close, sentinel)
        theirs.callback(os.close, child_w)
        child_r, parent_w = os.pipe()
        ours.callback(os.close, parent_w)
        theirs.callback(os.close, child_r)
        yield sentinel, child_w, child_r, parent_w
        ours.pop_all()
        popen.sentinel = sentinel
        popen.finalizer = util.Finalize(popen, util.close_fds, (sentinel, parent_w))


class _ForkPopen(popen_fork.Popen):  # type: ignore[misc]
    """As the base class, which leaves its pipes open when it cannot fork."""

    def _launch(self, process_obj: Any) -> None:
        with _tied(self) as (sentinel, _, child_r, parent_w):
            self.pid = os.fork()
            if not self.pid:
                code = 1
                try:
                    if _HAS_EXIT_FUNCTIONS:
                        atexit._clear()  # noqa: SLF001 - as there, like the rest
                        atexit.register(util._exit_function)  # noqa: SLF001
                    os.close(sentinel)
                    os.close(parent_w)
                    code = process_obj._bootstrap(parent_sentinel=child_r)  # noqa: SLF001
                    if _HAS_EXIT_FUNCTIONS:
                        atexit._run_exitfuncs()  # noqa: SLF001
                finally:
                    os._exit(code)


class _SpawnPopen(popen_spawn_posix.Popen):  # type: ignore[misc]
    """As the base class, but without the main module, and without a resource tracker."""

    def _launch(self, process_obj: Any) -> None:
        bootstrap.check()  # a failure of exec would not be told
        message = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(_preparation(process_obj.name), message)
            reduction.dump(process_obj, message)
        finally:
            set_spawning_popen(None)
        with _tied(self) as (_, child_w, child_r, _), contextlib.ExitStack() as undo:
            told = bootstrap.tell(
                process_obj.name,
                __name__,
                pickle.dumps((child_r, surroundings())),
                message.getvalue(),
                temp_directory=found_temp_directory(),
            )
            undo.callback(os.close, told)
            command = bootstrap.command(process_obj.name, told)
            descriptors = [*process_obj.descriptors, told, child_r, child_w]
            self.pid = util.spawnv_passfds(os.fsencode(command[0]), command, descriptors)


def _preparation(name: str) -> dict[str, Any]:
    """Return what `spawn.get_preparation_data` does, but for what `surroundings` tell.

    So it is without `__main__`, too.
    """
    level = {} if util._logger is None else {"log_level": util._logger.getEffectiveLevel()}  # noqa: SLF001
    return level | {
        "log_to_stderr": util._log_to_stderr,  # noqa: SLF001
        "authkey": multiprocess.current_process().authkey,
        "name": name,
        "orig_dir": multiprocess.process.ORIGINAL_DIR,
        "start_method": multiprocess.get_start_method(),
    }


def main(told: BinaryIO) -> NoReturn:
    """Run in a process by spawn what the parent has told."""
    parent_sentinel, where = pickle.load(told)
    fd = os.dup(told.fileno())
    os.lseek(fd, told.tell(), os.SEEK_SET)  # what was read ahead is not `told` yet
    os.close(told.fileno())
    settle(where)
    sys.exit(spawn._main(fd, parent_sentinel))  # noqa: SLF001 - as `spawn.spawn_main`


class _SpawnProcess(multiprocess.get_context("spawn").Process):  # type: ignore[misc]
    """A process started by spawn that inherits the descriptors it names, under the same numbers."""

    descriptors: Sequence[int] = ()

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - the hook's name in multiprocess
        return _SpawnPopen(process_obj)


class _ForkProcess(multiprocess.get_context("fork").Process):  # type: ignore[misc]
    """A process started by fork."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - the hook's name in multiprocess
        return _ForkPopen(process_obj)


class DirectLauncher:
    """Starts children of this process, by spawn or by fork.

    Guarantees: a child runs nothing of `__main__`, has the working directory, `sys.path`,
        `sys.argv` and environment of this process, and is no daemon (it may have children).
    """

    def __init__(self, method: str) -> None:
        self.method = method

    def prepare(self) -> None:
        """See `Launcher.prepare`; a fork needs nothing."""
        if self.method == "spawn":
            bootstrap.check()

    def start(
        self, role: Role, descriptors: Sequence[int], arguments: bytes, not_for_it: Sequence[int]
    ) -> Child:
        """See `Launcher.start`."""
        make: Callable[..., Any] = _SpawnProcess if self.method == "spawn" else _ForkProcess
        closing = tuple(not_for_it) if self.method == "fork" else ()
        process = make(target=_run, args=(role, descriptors, arguments, closing), daemon=False)
        process.descriptors = descriptors
        process.name = name_of(role)
        process.start()
        forget(process)
        pidfd = open_pidfd(process.pid)

        def exitcode() -> int | None:
            process.join(settings.EXIT_CODE_WAIT_S)  # one that waits for a disk may outlive a kill
            code: int | None = process.exitcode
            with contextlib.suppress(ValueError):  # somebody else has collected it: code unknown
                process.close()
            return code

        death_fd = os.dup(process.sentinel) if pidfd is None else pidfd
        return Child(process.pid, death_fd, exitcode, has_pidfd=pidfd is not None)

    def close(self) -> None:
        """Nothing is held."""

    def abandon(self) -> list[int]:
        """Nothing is held."""
        return []


def forget(process: Any) -> None:
    """Take a process of ours from the list that `multiprocess` joins at exit."""
    multiprocess.process._children.discard(process)  # noqa: SLF001 - there is no public way


def _run(
    role: Role, descriptors: Sequence[int], arguments: bytes, not_for_it: Sequence[int]
) -> None:
    take_name(name_of(role))
    for fd in not_for_it:
        with contextlib.suppress(OSError):  # somebody's handler of forks has closed it: so be it
            os.close(fd)
    role(descriptors, arguments)
