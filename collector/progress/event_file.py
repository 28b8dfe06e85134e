"""Each event of a batch as a line of JSON in a file, for programs.

docs/reference/events.md has the format.

Runs in:    the parent, in any thread.
Owns:       the file, until `close`.
Invariants: I1  a line is one write(2): whoever reads meanwhile sees whole lines, and lines of two
                threads are not mixed.
                A file that takes a part of one loses that part again.
            I2  a file that takes no more stops no job: it is given up, and that is said once.
"""

import errno
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, final

from collector.progress.ends import Ended, How
from collector.progress.outlet import cut_short, has_room, is_over, open_anew

VERSION: Final = 1

Fact = str | int | float | bool | Mapping[str, float] | None


@final
class EventFile:
    """Writes events.

    Args:
        path: Where to. What is there is replaced; a FIFO or a device is written to.
        complain: Is told, once, if that fails.

    Attributes:
        patience_s: How long a line may wait for who reads a FIFO; None for as long as it takes.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path, complain: Callable[[str], object]) -> None:
        self._path = path
        self._complain = complain
        self._fd: int | None = open_anew(path)
        os.set_blocking(self._fd, False)
        self.patience_s: float | None = None

    def write(self, event: str, /, **facts: Fact) -> None:
        """Write that something has happened, now."""
        fd = self._fd
        if fd is None:
            return
        line = json.dumps({"event": event, "at": round(time.time(), 6), **facts})
        try:
            self._write_whole(fd, f"{line}\n".encode())
        except OSError as error:
            self.close()
            self._complain(f"no more events are written to {self._path}: {error.strerror}")

    def ended(self, ended: Ended) -> None:
        """Write the end of an attempt."""
        self.write(
            "ended",
            job=ended.job,
            name=ended.name,
            attempt=ended.attempt,
            status=ended.how.value,
            again=ended.again,
            resumed=ended.resumed,
            flaky=ended.how is How.PASSED and ended.attempt > 1,
            seconds=round(ended.seconds, 6),
            bytes=ended.size_bytes,
            why=ended.why or None,
            meters=dict(ended.meters),
        )

    def close(self) -> None:
        """Write no more."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _write_whole(self, fd: int, data: bytes) -> None:
        begun_s, size = time.monotonic(), len(data)
        while data:
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:
                if is_over(begun_s, self.patience_s):
                    raise TimeoutError(errno.ETIMEDOUT, "nobody reads it") from None
                has_room(fd, math.inf if self.patience_s is None else self.patience_s)
            except OSError:
                cut_short(fd, size - len(data))
                raise
