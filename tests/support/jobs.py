"""Jobs and their reference results: module-level, so that every start method can import them.

What a job writes is a function of its arguments alone, so that a test makes the same bytes itself.
Each worker of nearly every test loads this module: what only some jobs need, those load (11 ms).
"""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from collector import current_job

if TYPE_CHECKING:
    from concurrent.futures import Executor

METHODS: Final = ("forkserver", "spawn", "fork")
KIB: Final = 1024
MIB: Final = 1024 * KIB


def sha256(pieces: Iterable[bytes]) -> str:
    """The digest of all pieces one after the other."""
    import hashlib

    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


# -- outputs of a known content --------------------------------------------------------------------


def numbered(size: int, chunk_size: int = MIB) -> Generator[bytes, None, int]:
    """Yield `size` bytes in chunks of `chunk_size`; each word of 8 bytes is its chunk's number."""
    for number, start in enumerate(range(0, size, chunk_size)):
        length = min(chunk_size, size - start)
        word = (number + 1).to_bytes(8, "little")
        yield (word * (length // 8 + 1))[:length]
    return size


def random_chunks(
    seed: int, count: int, largest: int, pause_s: float = 0.0
) -> Generator[bytes, None, str]:
    """Yield `count` chunks of 0 to `largest` bytes, with pauses; return the digest of it all."""
    import hashlib
    import random

    chance, pauses = random.Random(seed), random.Random(-seed)
    digest = hashlib.sha256()
    for _ in range(count):
        chunk = chance.randbytes(chance.choice((0, 1, 100, chance.randint(0, largest))))
        digest.update(chunk)
        yield chunk
        if pauses.random() < 0.2:
            time.sleep(pauses.random() * pause_s)
    return digest.hexdigest()


def write_pieces(pieces: Iterable[Any]) -> int:
    """Write each piece with `current_job().write`; return the sum of what it returned."""
    return sum(current_job().write(piece) for piece in pieces)


def single_bytes(count: int) -> Generator[bytes, None, None]:
    """Yield 0, 1, ... 255, 0, ... one byte at a time."""
    chunks = [bytes((value,)) for value in range(256)]
    whole, rest = divmod(count, 256)
    for _ in range(whole):
        yield from chunks
    yield from chunks[:rest]


def one_chunk(size: int) -> int:
    """Write one chunk."""
    return current_job().write(next(numbered(size, size)))


def changed_after_write(size: int, rounds: int) -> str:
    """Write the same bytearray again and again, and spoil it right after each write."""
    import hashlib

    digest = hashlib.sha256()
    buffer = bytearray(size)
    for number in range(rounds):
        buffer[:] = bytes((number % 256,)) * size
        digest.update(buffer)
        current_job().write(buffer)
        buffer[:] = b"\xff" * size
    return digest.hexdigest()


# -- plain values ----------------------------------------------------------------------------------


def square(number: int) -> int:
    """Return the square."""
    return number * number


def echo(value: Any) -> Any:
    """Return the argument."""
    return value


def nothing() -> None:
    """Do nothing."""


def pid() -> int:
    """Return the worker's process id."""
    return os.getpid()


def lines(count: int) -> Iterator[str]:
    """Yield lines of text."""
    for number in range(count):
        yield f"line {number}\n"


# -- waiting for each other ------------------------------------------------------------------------


def wait_for(path: str | os.PathLike[str]) -> None:
    """Wait until the file is there; its maker decides when.

    Or until its directory is not: pytest removes that as soon as its test has passed, which may be
    between two looks, and nobody can make the file any more.
    """
    while not os.path.exists(path) and os.path.isdir(os.path.dirname(os.path.abspath(path))):
        time.sleep(0.002)


def begun_then_wait(begun: str, until: str, value: Any = None) -> Any:
    """Make the file `begun`, wait for the file `until`, return the value."""
    Path(begun).touch()
    wait_for(until)
    return value


@contextlib.contextmanager
def kept_busy(collector: "Executor", workers: int, directory: Path) -> Iterator[list[Any]]:
    """Run a job on each of so many workers that ends with this block; yield when all run."""
    from concurrent.futures import wait

    until = directory / "no-longer-busy"
    begun = [directory / f"busy-{number}" for number in range(workers)]
    jobs = [collector.submit(begun_then_wait, os.fspath(mark), os.fspath(until)) for mark in begun]
    try:
        for mark in begun:
            wait_for(mark)
        yield jobs
    finally:
        until.touch()
        wait(jobs, 60)  # the directory may be removed right after this


def pid_then_wait(begun: str, until: str) -> None:
    """Leave the process id in the file `begun`, then wait for the file `until`."""
    partial = f"{begun}.part"
    Path(partial).write_text(str(os.getpid()))
    os.rename(partial, begun)
    wait_for(until)


# -- ends of every kind ----------------------------------------------------------------------------


def kill_self(number: int = signal.SIGKILL) -> NoReturn:
    """End this worker by a signal."""
    os.kill(os.getpid(), number)
    raise AssertionError("the signal did not end this process")


def write_in_halves(size: int, begun: str, until: str) -> int:
    """Write half of `size` bytes, wait until told to go on, write the other half."""
    for number, chunk in enumerate(numbered(size)):
        if number == size // MIB // 2:
            current_job().flush()
            Path(begun).touch()
            wait_for(until)
        current_job().write(chunk)
    return size


def write_then_die(size: int) -> None:
    """Write `size` bytes, hand them over, and end the worker by SIGKILL."""
    for chunk in numbered(size):
        current_job().write(chunk)
    current_job().flush()
    kill_self()


def fail(error: BaseException) -> None:
    """Raise it."""
    raise error


def raise_value_error() -> None:
    """Fail, as ever."""
    raise ValueError("as it was told")


def write_then_fail(size: int, error: BaseException) -> None:
    """Write `size` bytes, then raise."""
    for chunk in numbered(size):
        current_job().write(chunk)
    raise error


def exit_now(status: int) -> None:
    """Leave without any clean-up, as a crash in C would."""
    os._exit(status)


def die_within_write(size: int, frames: int, *, published: bool) -> None:
    """Write one chunk of `size` bytes and die by SIGKILL at the so-many-th write to the queue.

    Args:
        size: Bytes of the chunk.
        frames: Writes to the queue's pipe that are made, the last one included.
        published: Whether the last one is made before the worker dies.
    """
    write = os.write
    made = 0

    def dying(fd: int, data: Any) -> int:
        nonlocal made
        made += 1
        if made == frames and not published:
            kill_self()
        written = write(fd, data)
        if made == frames:
            kill_self()
        return written

    os.write = dying
    one_chunk(size)
    raise AssertionError("the chunk was written in fewer frames")


def die_during_write(size: int, frames: int) -> int:
    """Write one chunk; another thread ends the worker at some moment after so many frames."""
    write = os.write
    made = 0
    enough = threading.Event()

    def counting(fd: int, data: Any) -> int:
        nonlocal made
        written = write(fd, data)
        made += 1
        if made == frames:
            enough.set()
        return written

    def kill_late() -> None:
        enough.wait()
        kill_self()

    threading.Thread(target=kill_late).start()
    os.write = counting
    written = one_chunk(size)
    threading.Event().wait()  # it was not quick enough: die here, with all that was written
    return written


class Refuses:
    """An object whose pickling, or unpickling, does what it was told."""

    def __init__(self, *, at_pickle: Any = None, at_unpickle: Any = None) -> None:
        self.at_pickle = at_pickle
        self.at_unpickle = at_unpickle

    def __reduce__(self) -> tuple[Any, ...]:
        if self.at_pickle is not None:
            act(*self.at_pickle)
        return act, tuple(self.at_unpickle or ("nothing",))


class RefusesAsError(Exception):
    """As `Refuses`, and an exception."""

    def __init__(self, *, at_pickle: Any = None, at_unpickle: Any = None) -> None:
        super().__init__("a text of its own")
        self.refuses = Refuses(at_pickle=at_pickle, at_unpickle=at_unpickle)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.refuses.__reduce__()


class HoldsALockError(Exception):
    """An exception that cannot be pickled, for it holds something that cannot be."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class NeedsAKeywordError(Exception):
    """An exception that can be pickled and not unpickled, as many in the wild."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class HasNoTextError(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("there is no text")


What = Literal["nothing", "raise", "exit", "_exit", "kill", "segfault", "abort"]


def act(what: What, argument: int = 0) -> None:
    """Do what a `Refuses` was told: raise, leave, crash, or nothing."""
    match what:
        case "nothing":
            pass
        case "raise":
            raise ZeroDivisionError("raised while pickling or unpickling")
        case "exit":
            sys.exit(argument)
        case "_exit":
            os._exit(argument)
        case "kill":
            kill_self()
        case "segfault":
            import ctypes

            faulthandler.disable()
            ctypes.string_at(0)
        case "abort":
            faulthandler.disable()
            os.abort()


def raise_error_that(**how: Any) -> None:
    """Raise a `RefusesAsError`."""
    raise RefusesAsError(**how)


def return_that(**how: Any) -> Refuses:
    """Return a `Refuses`."""
    return Refuses(**how)
