"""A SIGKILL at a chosen system call: a forked child is killed at its k-th write or rename.

Source:     SQLite's crash tests: every step of a run is tried, and after each the next run must
            find what it needs.
"""

import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any, Final

CALLS: Final = ("write", "link", "rename", "unlink", "mkdir", "ftruncate", "fsync", "open")
"""What changes a disk; an `open` counts if it makes something."""


class Points:
    """Counts the calls of this process that change a disk, and kills it at one of them.

    Args:
        at: At which, from 1; 0 for none.
        half: Let a write take half of its bytes before.
        halt: Is called in its place: it waits until the whole tree is killed.
    """

    def __init__(
        self, at: int, *, half: bool = False, halt: Callable[[], object] | None = None
    ) -> None:
        self.calls: list[str] = []
        self._halt = halt
        self._at = at
        self._half = half
        for name in CALLS:
            setattr(os, name, self._counted(name, getattr(os, name)))
        sys.addaudithook(self._heard)  # renameat2 is called through ctypes

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if name != "open" or arguments[1] & (os.O_CREAT | getattr(os, "O_TMPFILE", 0)):
                self._count(name, call, arguments)
            return call(*arguments, **options)

        return counted

    def _heard(self, event: str, _arguments: tuple[Any, ...]) -> None:
        if event == "os.rename":
            self._count("renameat2", None, ())

    def _count(
        self, name: str, call: Callable[..., Any] | None, arguments: tuple[Any, ...]
    ) -> None:
        self.calls.append(name)
        if len(self.calls) == self._at:
            if self._half and name == "write" and call is not None:
                data = memoryview(arguments[1])
                call(arguments[0], data[: len(data) // 2])
            if self._halt is not None:
                self._halt()
            os.kill(os.getpid(), signal.SIGKILL)


def in_child(
    act: Callable[[], object], at: int = 0, *, half: bool = False
) -> tuple[int, list[str]]:
    """Do something in a forked child, which is killed at that call.

    Returns:
        The signal that ended it, or 0; and, if it was not killed, which calls there were.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # threads of others: the child waits for none
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            tell = os.write
            points = Points(at, half=half)
            act()
            tell(writer, " ".join(points.calls).encode())
            status = 0
        except BaseException as error:  # noqa: BLE001 - it has no other way to tell
            sys.__stderr__ and print(repr(error), file=sys.__stderr__)
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        calls = pipe.read().split()
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0), calls
