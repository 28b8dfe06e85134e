"""The one door to `multiprocess`: processes by spawn and by fork, which never run `__main__` again.

Runs in:    the parent; the first lines also in each child.
Owns:       nothing.
Source:     dropping `init_main_from_*` from the preparation data is what loky does; the resource
            tracker is not started because nothing of ours needs it
            (docs/decisions/0004-start-methods.md).
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import multiprocess
from multiprocess import popen_fork, popen_spawn_posix, reduction, spawn, util
from multiprocess.context import set_spawning_popen

from collector.process.engine import Child, Role, open_pidfd


@contextlib.contextmanager
def _tied(popen: Any) -> Iterator[tuple[int, int, int, int]]:
    """Make the pipes that tell one process of the other's end; none is left if it cannot start."""
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
                    os.close(sentinel)
                    os.close(parent_w)
                    code = process_obj._bootstrap(parent_sentinel=child_r)  # noqa: SLF001 - as there
                finally:
                    os._exit(code)


class _SpawnPopen(popen_spawn_posix.Popen):  # type: ignore[misc]
    """As the base class, but without the main module, and without a resource tracker."""

    def _launch(self, process_obj: Any) -> None:
        preparation = spawn.get_preparation_data(process_obj.name)
        for key in ("init_main_from_name", "init_main_from_path"):
            preparation.pop(key, None)
        message = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(preparation, message)
            reduction.dump(process_obj, message)
        finally:
            set_spawning_popen(None)
        with _tied(self) as (_, child_w, child_r, parent_w):
            command = _with_our_temp_directory(
                spawn.get_command_line(tracker_fd=None, pipe_handle=child_r)
            )
            descriptors = [*process_obj.descriptors, child_r, child_w]
            self.pid = util.spawnv_passfds(spawn.get_executable(), command, descriptors)
        # A child that is dead already is noticed by its death, not here.
        with contextlib.suppress(BrokenPipeError), open(parent_w, "wb", closefd=False) as pipe:
            pipe.write(message.getbuffer())


def _with_our_temp_directory(command: list[str]) -> list[str]:
    """Tell a child the temp directory that we have found, before it imports anything.

    It would look for one itself, since `dill` does so when `multiprocess` imports it: by making a
    file there, which stays for ever if the child is killed just then.
    """
    code = command.index("-c") + 1
    told = f"import tempfile; tempfile.tempdir = {tempfile.gettempdir()!r}"
    return [*command[:code], f"{told}; {command[code]}", *command[code + 1 :]]


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
        """Nothing is needed."""

    def start(
        self, role: Role, descriptors: Sequence[int], arguments: bytes, not_for_it: Sequence[int]
    ) -> Child:
        """See `Launcher.start`."""
        make: Callable[..., Any] = _SpawnProcess if self.method == "spawn" else _ForkProcess
        closing = tuple(not_for_it) if self.method == "fork" else ()
        process = make(target=_run, args=(role, descriptors, arguments, closing), daemon=False)
        process.descriptors = descriptors
        process.name = f"collector-{role.__module__.rpartition('.')[2]}"
        process.start()
        forget(process)
        pidfd = open_pidfd(process.pid)

        def exitcode() -> int | None:
            process.join()
            code: int | None = process.exitcode
            with contextlib.suppress(ValueError):  # somebody else has collected it: code unknown
                process.close()
            return code

        return Child(process.pid, os.dup(process.sentinel) if pidfd is None else pidfd, exitcode)

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
    for fd in not_for_it:
        os.close(fd)
    role(descriptors, arguments)
