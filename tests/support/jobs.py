"""Jobs and their reference results: module-level, so that every start method can import them.

What a job writes is a function of its arguments alone, so that a test makes the same bytes itself.
"""

import hashlib
import os
import random
import signal
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

from collector import current_job

METHODS: Final = ("forkserver", "spawn", "fork")
KIB: Final = 1024
MIB: Final = 1024 * KIB


def sha256(pieces: Iterable[bytes]) -> str:
    """The digest of all pieces one after the other."""
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
    chance = random.Random(seed)
    digest = hashlib.sha256()
    for _ in range(count):
        chunk = chance.randbytes(chance.choice((0, 1, 100, chance.randint(0, largest))))
        digest.update(chunk)
        yield chunk
        if pause_s and chance.random() < 0.2:
            time.sleep(chance.random() * pause_s)
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
    """Wait until the file is there; its maker decides when."""
    while not os.path.exists(path):
        time.sleep(0.002)


def begun_then_wait(begun: str, until: str, value: Any = None) -> Any:
    """Make the file `begun`, wait for the file `until`, return the value."""
    Path(begun).touch()
    wait_for(until)
    return value


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


def write_then_die(size: int) -> NoReturn:
    """Write `size` bytes, hand them over, and end the worker by SIGKILL."""
    for chunk in numbered(size):
        current_job().write(chunk)
    current_job().flush()
    kill_self()


def fail(error: BaseException) -> NoReturn:
    """Raise it."""
    raise error


def write_then_fail(size: int, error: BaseException) -> NoReturn:
    """Write `size` bytes, then raise."""
    for chunk in numbered(size):
        current_job().write(chunk)
    raise error


def exit_now(status: int) -> NoReturn:
    """Leave without any clean-up, as a crash in C would."""
    os._exit(status)
