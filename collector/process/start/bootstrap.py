"""How a server, or a process by spawn, begins: by which Python, and with what it is told.

Runs in:    the parent; `main` in the process that was started.
Owns:       nothing.
Invariants: I1  nothing is told over the command line or the environment, whose lengths are limited
                and which others can read, but in a file without a name.
            I2  the process has the parent's `sys.path` before it imports anything: `sys` and
                `marshal` are built in, so that no module of the working directory is run in place
                of one of the standard library.
            I3  if no process can ever be started, that is said before one is tried.
"""

import contextlib
import errno
import functools
import marshal
import mmap
import os
import pickle
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, BinaryIO, Final

from collector import settings
from collector.process.start.child import (
    import_path,
    take_name,
    working_directory,
    working_directory_is_gone,
)
from collector.store.rundir.locks import loading

if TYPE_CHECKING:
    from subprocess import Popen

_OF_EACH_PYTHON: Final = {"hash_randomization", "int_max_str_digits", "utf8_mode"}
"""The flags that are set without an option; those set by one are in `sys._xoptions` too."""

_LINUX_LONGEST: Final = 32 * mmap.PAGESIZE
_LINUX_MOST: Final = 6 * settings.MIB


class NoPythonError(OSError):
    """No process can be started, now or later, until the program changes what this says."""


def check() -> None:
    """See whether a Python can be started at all.

    Raises:
        NoPythonError: It cannot: the message says why and what to do.
    """
    path = executable()
    if not path:
        raise NoPythonError(
            errno.ENOENT,
            f"there is no Python to start processes with: sys.executable is {sys.executable!r}. "
            "Name one with multiprocessing.set_executable, or use mp_context='fork'",
        )
    try:
        os.stat(path)
    except OSError as error:
        raise explained(error) from error
    _check_environment(path)
    if not _is_this_program(path):
        _prove(path)


def executable() -> str:
    """Return what `set_executable` of either library has named, or else `sys.executable`."""
    named = []
    for library in ("multiprocessing", "multiprocess"):
        ask = getattr(sys.modules.get(f"{library}.spawn"), "get_executable", None)
        named += [os.fsdecode(ask() or "")] if ask else []
    chosen = [path for path in named if path and path != sys.executable]
    return chosen[0] if chosen else sys.executable or ""


def command(name: str, told: int) -> list[str]:
    """Return the command line of a process that finds what it is told at this descriptor.

    Args:
        name: What it is called in lists of processes: at the beginning, since they cut long lines.
        told: The number that the descriptor will have in the process.
    """
    start = (
        f"{name!r}; import sys, marshal; told = open({told}, 'rb', closefd=False); "
        "sys.path[:] = marshal.load(told); "
        "from collector.process.start.bootstrap import main; main(told)"
    )
    return [executable(), *_flags(), "-c", start]


def tell(name: str, entry: str, *told: bytes, temp_directory: str | None = None) -> int:
    """Return a descriptor of what a process is told; it is the caller's to close.

    Args:
        name: What it is called in lists of processes.
        entry: The module whose `main` it runs, with a file from which it reads the rest.
        told: The rest.
        temp_directory: What `tempfile` is to use in the process. It would find one by making a file
            there (as soon as `multiprocess` imports `dill`), which would stay for ever if the
            process were killed just then.

    Raises:
        OSError: No descriptor is to be had.
    """
    fd = _nameless()
    with open(fd, "wb", closefd=False) as file:
        marshal.dump(_import_path(), file)
        file.write(pickle.dumps((name, entry, temp_directory)))
        file.writelines(told)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def main(told: BinaryIO) -> None:
    """Begin as what we were told to be."""
    name, entry, temp_directory = pickle.load(told)
    take_name(name)
    if temp_directory:
        import tempfile  # noqa: PLC0415 - a server does not need it

        tempfile.tempdir = temp_directory
    import_module(entry).main(told)


def explained(error: OSError) -> OSError:
    """Return what to raise for an error of the call that was to start a Python."""
    path = executable()
    if error.errno == errno.E2BIG:
        return _too_large(path)
    if error.errno in (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.ELOOP):
        return NoPythonError(
            error.errno,
            f"cannot start {path!r} as the Python of a new process: {os.strerror(error.errno)}. "
            "Name another one with multiprocessing.set_executable, or use mp_context='fork'",
        )
    return error


def _flags() -> list[str]:
    flags: list[str] = []
    if _has_options():
        with loading("subprocess"):
            import subprocess  # noqa: PLC0415 - 3 ms, ahead of the server

        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001
    if working_directory_is_gone():
        flags.append("-P")  # Python 3.13.0 cannot import `socket` there, for looking at sys.path[0]
    return flags


def _has_options() -> bool:
    """Whether this Python may have been started with an option; False is certain."""
    names = set(type(sys.flags).__match_args__) - _OF_EACH_PYTHON
    given = any(getattr(sys.flags, name) for name in names)
    return bool(given or sys.warnoptions or sys._xoptions)  # noqa: SLF001 - as `subprocess` does


def _import_path() -> list[str]:
    """Return our `sys.path` for a process that has none yet, in which `marshal` takes it."""
    entries = import_path()  # Python skips what is no text
    path = [str.__str__(entry) for entry in entries if isinstance(entry, str)]
    return [entry or working_directory() for entry in path]


def _nameless() -> int:
    try:
        return os.memfd_create("collector-told")
    except (AttributeError, OSError):  # neither every system nor every sandbox has them
        with loading("tempfile"):
            import tempfile  # noqa: PLC0415 - 5 ms, for few

        with tempfile.TemporaryFile(buffering=0) as file:
            return os.dup(file.fileno())


def _is_this_program(path: str) -> bool:
    try:
        return os.path.samefile(path, "/proc/self/exe")
    except OSError:  # it is gone or another one, or there is no such place
        return not os.path.exists("/proc/self/exe") and "python" in os.path.basename(path).lower()


@functools.cache
def _prove(path: str) -> None:
    """Start a program that is not the one that runs here, once, and see whether it is this Python.

    Raises:
        NoPythonError: It is not.
    """
    with loading("subprocess"):
        import subprocess  # noqa: PLC0415 - as above

    ours = f"{sys.implementation.cache_tag}\n".encode()
    question = "import sys; print(sys.implementation.cache_tag)"
    try:
        program = subprocess.Popen(  # noqa: S603 - what the user has named
            [path, *_flags(), "-c", question],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            process_group=0,
        )
    except OSError as error:
        raise explained(error) from error
    with program:
        try:
            said = _said(program, len(ours) + 1)
        finally:
            with contextlib.suppress(ProcessLookupError):  # the program ignores its children
                os.killpg(program.pid, signal.SIGKILL)  # not waited for: the number is its own
    if said != ours:
        version = "{}.{}".format(*sys.version_info)
        raise NoPythonError(
            errno.ENOEXEC,
            f"{path!r} is to start new processes and is no Python {version}, which runs this "
            "program. Name its executable with multiprocessing.set_executable, or use "
            "mp_context='fork'",
        )


def _said(program: "Popen[bytes]", most_bytes: int) -> bytes:
    """Return what a program prints, until it ends, has printed so much, or takes too long."""
    import select  # noqa: PLC0415 - for few

    said = b""
    assert program.stdout is not None
    poller = select.poll()
    poller.register(program.stdout, select.POLLIN)
    while len(said) < most_bytes and poller.poll(settings.PROOF_S * 1000):
        piece = program.stdout.read(most_bytes - len(said))
        if not piece:
            break
        said += piece
    return said


def _check_environment(path: str) -> None:
    """See whether a program can be started with the environment as it is.

    Raises:
        NoPythonError: It cannot.
    """
    longest_bytes, most_bytes = _limits()
    sizes = [len(name) + len(value) + 2 for name, value in os.environb.items()]
    # The kernel counts the pointers too, and the command line.
    if max(sizes, default=0) > longest_bytes or (
        sum(sizes) + 8 * len(sizes) + len(path) + settings.COMMAND_LINE_BYTES > most_bytes
    ):
        raise _too_large(path)


def _limits() -> tuple[int, int]:
    """Return how many bytes one variable, and all of them, may have."""
    try:
        most_bytes = os.sysconf("SC_ARG_MAX")
    except (ValueError, OSError):
        most_bytes = -1
    if sys.platform != "linux":
        return (most_bytes, most_bytes) if most_bytes > 0 else (sys.maxsize, sys.maxsize)
    return _LINUX_LONGEST, min(most_bytes, _LINUX_MOST) if most_bytes > 0 else _LINUX_MOST


def _too_large(path: str) -> NoPythonError:
    sizes = {name: len(name) + len(value) + 2 for name, value in os.environb.items()}
    name = max(sizes, key=sizes.__getitem__, default=b"")
    longest_bytes, most_bytes = _limits()
    limit = (
        f"one of more than {longest_bytes}"
        if sizes.get(name, 0) > longest_bytes
        else f"an environment of more than {most_bytes} (it has {sum(sizes.values())})"
    )
    return NoPythonError(
        errno.E2BIG,
        f"cannot start {path!r}: the environment variable {os.fsdecode(name)} has "
        f"{sizes.get(name, 0)} bytes, and the system starts no program with {limit}. Take it "
        "out of os.environ and hand it to the jobs as an argument, or use mp_context='fork'",
    )
