"""The first lines of every child, and what it takes over from the parent.

Runs in:    `take_name`, `stand_apart` and `settle` in each child, `hold_standard_descriptors` in
            the parent and in a worker, the others in the parent.
Owns:       nothing.
"""

import contextlib
import os
import pickle
import signal
import sys
from typing import Final

METHODS: Final = ("forkserver", "spawn", "fork")

NAMES: Final = ("collector-server", "collector-sink", "collector-worker")
"""What our processes are called in lists of processes; none is longer than the first."""

_ON_THE_PATH: Final = ("collector", "multiprocess", "dill", "cloudpickle", "filelock")

_ARG_START: Final = 45
"""Where the line of `/proc/self/stat` has the address of the command line, behind the name; its end
is next: fields 48 and 49 of proc(5)."""


def method_of(mp_context: object) -> str:
    """Return the start method that a context of multiprocess(ing), or a name, asks for.

    In a frozen program the default is fork: what other methods start is the program itself.

    Raises:
        ValueError: No start method of that name, or none that a frozen program can have.
        TypeError: Neither a name nor a context.
    """
    frozen = bool(getattr(sys, "frozen", False))
    if mp_context is None:
        return "fork" if frozen else METHODS[0]
    if isinstance(mp_context, str):
        name = mp_context
    else:
        ask = getattr(mp_context, "get_start_method", None)
        if ask is None:
            raise TypeError(
                f"mp_context must be a context of multiprocess or multiprocessing, or one of "
                f"{', '.join(METHODS)}, not {type(mp_context).__name__}"
            )
        name = ask()
    if name not in METHODS:
        raise ValueError(f"mp_context must be one of {', '.join(METHODS)}, not {name!r}")
    if frozen and name != "fork":
        raise ValueError(
            f"mp_context must be 'fork' in a frozen program (sys.frozen), not {name!r}: there is "
            "no Python that other start methods could start, only the program itself. Leave "
            "mp_context out"
        )
    return name


def take_name(name: str) -> None:
    """Have lists of processes show this name: `ps`, `top`, `pgrep`; where there is `/proc`.

    It is the name of the process, of which the kernel keeps 15 bytes, and stands in its command
    line; in a process that a server has forked that is the server's, where ours takes its place.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/self/comm", "wb", buffering=0) as file:
            file.write(os.fsencode(name))
        with open("/proc/self/stat", "rb") as file:
            start, end = map(int, file.read().rpartition(b")")[2].split()[_ARG_START:][:2])
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            line = memory.read(end - start)
            where = line.find(f"\0-c\0'{NAMES[0]}';".encode())
            if where >= 0:
                memory.seek(start + where + len("\0-c\0"))
                memory.write(f"'{name}';".ljust(len(NAMES[0]) + 3).encode())


def stand_apart() -> None:
    """Lead a process group of its own and leave SIGINT to the parent: first lines of every child.

    A Ctrl-C goes to the group of the terminal, thus to the parent alone. Whoever sends SIGINT to a
    child by its pid interrupts nothing; programs that a job starts find the default action, since a
    handler does not survive exec.
    """
    with contextlib.suppress(PermissionError):  # it leads a session, hence a group, already
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, _left_to_the_parent)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a parent may ignore it: children would be lost
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _left_to_the_parent(_number: int, _frame: object) -> None:
    pass


def hold_standard_descriptors() -> None:
    """Where stdin, stdout or stderr is closed, let it lead nowhere, for good.

    The number would go to a descriptor of ours, and what a job prints into that.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            fd = os.open(os.devnull, os.O_RDWR)  # the lowest free number, thus this one
            os.set_inheritable(fd, True)


def surroundings() -> bytes:
    """Return what a child of a forkserver must be told about this process."""
    path, argv = map(_plain, import_path()), map(_plain, sys.argv)
    return pickle.dumps((working_directory(), list(path), list(argv), dict(os.environ)))


def import_path() -> list[object]:
    """Return our `sys.path`, and where lies what a child loads, should that have left it since.

    As it has where it was found by a relative path, and the program has changed its directory.
    """
    path: list[object] = [*sys.path]
    known = [working_directory() if entry == "" else entry for entry in path]
    for name in _ON_THE_PATH:
        for place in map(os.path.dirname, getattr(sys.modules.get(name), "__path__", ())):
            if place not in known:
                known.append(place)
                path.append(place)
    return path


def _plain(entry: object) -> object:
    """Return a text as a str and no subclass, such as an enum of the script, which has no child."""
    return str.__str__(entry) if isinstance(entry, str) else entry


def working_directory() -> str:
    """Return a name of this process's working directory that others can use, also if it is gone."""
    return f"/proc/{os.getpid()}/cwd" if working_directory_is_gone() else os.getcwd()


def working_directory_is_gone() -> bool:
    """Whether somebody has removed it."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def settle(told: bytes) -> None:
    """Take over, in a child, what `surroundings` told."""
    directory, path, argv, environment = pickle.loads(told)
    with contextlib.suppress(OSError):  # removed meanwhile: the child stays where it is
        os.chdir(directory)
    sys.path[:] = [directory if entry == "" else entry for entry in path]
    sys.argv[:] = argv
    if environment != dict(os.environ):
        os.environ.clear()
        os.environ.update(environment)
