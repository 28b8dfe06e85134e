"""Jobs of batches that are kept, and notes of which were run."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from collector import RetryLater, current_job

LARGE: Final = 100_000


class BoomError(Exception):
    """What a job raises."""


@contextlib.contextmanager
def noted(directory: Path) -> Iterator[str]:
    """Give a file in which jobs note that they run."""
    note = directory / "note"
    note.touch()
    yield os.fspath(note)
    note.unlink()


def _note(item: tuple[str, str]) -> int:
    """Note that an input runs; returns how many were noted."""
    note, text = item
    with open(note, "a") as file:
        file.write(f"{text}\n")
    return len(Path(note).read_text().split())


def who_ran(item: tuple[str, str]) -> None:
    _note(item)
    current_job().write(item[1])


def fails_first(item: tuple[str, str]) -> None:
    count = _note(item)
    current_job().write(str(count) * LARGE)
    if count == 1:
        raise ValueError("the first time")


def double(number: int) -> int:
    return 2 * number


def double_later(item: tuple[int, str]) -> int:
    """Double a number; all but the first wait for a file."""
    number, go_on = item
    while number and not os.path.exists(go_on):
        time.sleep(0.01)
    return 2 * number


def ignore(item: Any) -> None:
    del item


def talks(text: str) -> str:
    print(f"printed {text}")
    current_job().write(f"written {text}")
    return f"said {text}"


def fails_if_bad(text: str) -> None:
    current_job().write(text)
    if text == "bad":
        raise BoomError(f"{text} is bad")


def counts_its_calls(path: str) -> None:
    """Write one more letter into a file beside it."""
    with open(f"{path}.calls", "a", encoding="ascii") as file:
        file.write("x")


def takes_its_name(path: str) -> None:
    """Write a file where its own output is to be, unless told otherwise."""
    current_job().write(path)
    if not os.path.exists(f"{path}.go"):
        with open(f"{path}.txt", "w", encoding="ascii") as file:
            file.write("mine")


def crash(text: str) -> None:
    current_job().write(f"before {text}")
    current_job().flush()
    os.kill(os.getpid(), signal.SIGKILL)


def many_bytes(size: int) -> None:
    current_job().write(bytes(size))


class _Once:
    """Can be pickled in the worker, and not again in the parent."""

    def __reduce__(self) -> Any:
        return _broken_once, ()


class _Broken:
    def __reduce__(self) -> Any:
        raise ValueError("not again")


def _broken_once() -> Any:
    return _Broken()


def unpicklable(text: str) -> Any:
    del text
    return _Once()


def pausing(number: int) -> int:
    """Write, and take a while: long enough that its progress is told."""
    for _ in range(2):
        current_job().write("so far")
        current_job().flush()
        threading.Event().wait(0.15)
    return number


def rests_first(item: tuple[str, str]) -> None:
    """Ask to be run in an hour, once a file is there; the others wait until somebody ends them."""
    go_on, text = item
    while text == "rests":
        if os.path.exists(go_on):
            raise RetryLater(3600, resource="gate")
        time.sleep(0.01)
    forever(text)


def forever(text: str) -> None:
    """Write the input; wait until somebody ends it, unless it is quick."""
    current_job().write(text)
    current_job().flush()
    while text != "quick":
        signal.pause()


class _Exiting:
    """Ends whoever pickles it in that process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> Any:
        if os.getpid() == self.pid:
            raise SystemExit("while it is pickled")
        return _Exiting, (self.pid,)


def exits_as_value(item: tuple[int, str]) -> Any:
    return _Exiting(item[0]) if item[1] == "bad" else item[1]


class ExitingError(Exception):
    """Ends whoever asks for its text in that process."""

    def __str__(self) -> str:
        if os.getpid() == self.args[0]:
            raise SystemExit("while its text is asked for")
        return "text"


def exits_as_text(pid: int) -> None:
    raise ExitingError(pid)
