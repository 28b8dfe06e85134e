"""Jobs that others look at while they run."""

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from collector import ProgressEvent, current_job


def wait_for(gate: str) -> None:
    """Wait until somebody makes this file."""
    while not Path(gate).exists():
        time.sleep(0.005)


def gated(gate: str, first: bytes, last: bytes) -> Iterator[bytes]:
    """Write something, wait, and write some more."""
    yield first
    wait_for(gate)
    yield last


def flood(gate: str, size: int) -> str:
    """Write at full speed after the first MiB and a wait; return the digest of it all."""
    digest = hashlib.sha256()
    block = os.urandom(1024 * 1024)
    for start in range(0, size, len(block)):
        if start == len(block):
            wait_for(gate)
        piece = start.to_bytes(8, "little") + block[8:]
        digest.update(piece)
        current_job().write(piece)
    return digest.hexdigest()


def one_by_one(number: int) -> int:
    """Write ten bytes in a hundredth of a second."""
    time.sleep(0.01)
    current_job().write(b"0123456789")
    return number


def step(here: str, number: int) -> Iterator[bytes]:
    """Write ten bytes, wait until somebody opens the FIFO of that number, write three more.

    Some fail at once, in their first attempt, and some of those in each one, after the wait.
    """
    first = current_job().attempt == 1
    if first and (number % 17 == 5 or number % 10 == 3):
        raise ValueError("once more")
    yield b"0123456789"
    open(f"{here}/go-{number}", "rb").close()
    yield b"end"
    if number % 10 == 3:
        raise ValueError("never")


class ToFile:
    """Writes each event of a Collector as a line of JSON: a `progress=`."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 - `close` does

    def update(self, event: ProgressEvent) -> None:
        """Something has happened."""
        told = {
            "event": event.happened,
            "job": event.job_id,
            "name": event.name,
            "attempt": event.attempt,
            "bytes": event.bytes_written,
            "failed": event.failed,
        }
        self._file.write(json.dumps(told) + "\n")

    def close(self) -> None:
        """Nothing more comes."""
        self._file.close()


def tiny(number: int) -> int:
    """Return the number."""
    return number


def dies_once(die: str, gate: str) -> int:
    """Die in the first attempt, after a wait; wait and return the attempt in a later one."""
    current_job().write(f"attempt {current_job().attempt}")
    wait_for(die)
    if current_job().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    wait_for(gate)
    return current_job().attempt
