"""A person before a terminal: runs a script there, sees its screen, types, changes its size.

Runs in:    the process of pytest.
Owns:       both ends of a pseudo-terminal and the process that runs on it, until `close`.
"""

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, final

import pyte

ROOT: Final = Path(__file__).parents[2]
PATIENCE_S: Final = 120.0
_PICTURE_ENDS: Final = b"\x1b[?7h\x1b8"


def environment(**changes: str) -> dict[str, str]:
    """The variables of a script: it finds the package, and its prints are lines."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TQDM"))
    }
    return kept | {"PYTHONPATH": os.fspath(ROOT), "TERM": "xterm", "LC_ALL": "C.UTF-8"} | changes


@final
class Person:
    """Runs one script on a terminal that says it has so many columns and rows.

    A terminal that says 0x0 has 80x24 in truth. Every time the screen has been drawn anew,
    `look` is called.
    """

    def __init__(
        self,
        columns: int,
        rows: int,
        look: Callable[["Person"], object] = lambda person: None,
        **variables: str,
    ) -> None:
        self.screen = pyte.HistoryScreen(columns or 80, rows or 24, history=100_000)
        self._stream = pyte.ByteStream(self.screen)
        self._look = look
        self._variables = variables
        self._end, self._side = os.openpty()
        self._process: subprocess.Popen[bytes] | None = None
        self._says(columns, rows)

    @property
    def pid(self) -> int:
        """Of the script."""
        assert self._process is not None
        return self._process.pid

    @property
    def rows(self) -> list[str]:
        """What is on the screen, from top to bottom, without blanks at the right."""
        return [row.rstrip() for row in self.screen.display]

    @property
    def lines(self) -> list[str]:
        """Everything that has been on the screen and scrolled away, and what is on it now."""
        width = range(self.screen.columns)
        gone = ["".join(row[x].data for x in width).rstrip() for row in self.screen.history.top]
        return gone + self.rows

    @property
    def mode(self) -> list[Any]:
        """The mode of the terminal, as `termios` has it."""
        return termios.tcgetattr(self._end)

    def run(self, script: Path, *arguments: str) -> None:
        """Start it."""
        self._process = subprocess.Popen(
            [sys.executable, os.fspath(script), *arguments],
            stdin=self._side,
            stdout=self._side,
            stderr=self._side,
            env=environment(**self._variables),
            preexec_fn=lambda: os.login_tty(self._side),  # noqa: PLW1509 - nothing else runs here
        )
        os.close(self._side)
        self._side = -1

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._end, keys)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window."""
        self.screen.resize(rows, columns)
        self._says(columns, rows)

    def wait_for(self, seen: Callable[[], object]) -> None:
        """Look at the screen until that is seen."""
        deadline = time.monotonic() + PATIENCE_S
        while not seen():
            assert time.monotonic() < deadline, f"not seen: {self.lines}"
            assert self._read(1.0), f"it ended first: {self.lines}"

    def wait(self) -> int:
        """Look at the screen until the script ends; return its exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(1.0):
            assert time.monotonic() < deadline, f"it does not end: {self.lines}"
        assert self._process is not None
        return self._process.wait(PATIENCE_S)

    def hang_up(self) -> None:
        """Close the window."""
        os.close(self._end)
        self._end = -1

    def code(self) -> int:
        """Wait until the script ends, without looking; return its exit code."""
        assert self._process is not None
        return self._process.wait(PATIENCE_S)

    def _read(self, timeout_s: float) -> bool:
        """Take what is there; False at the end."""
        if not select.select([self._end], [], [], timeout_s)[0]:
            return True
        try:
            data = os.read(self._end, 65536)
        except OSError:  # the last process has closed the terminal
            return False
        while data:
            before, end, data = data.partition(_PICTURE_ENDS)
            self._stream.feed(before + end)
            if end:
                self._look(self)
        return True

    def _says(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the script, if it has not ended, and take the terminal away."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for fd in (self._end, self._side):
            if fd >= 0:
                os.close(fd)


def run_quietly(
    script: Path, *arguments: str, **variables: str
) -> "subprocess.CompletedProcess[Any]":
    """Run a script with stdout and stderr in pipes."""
    return subprocess.run(
        [sys.executable, os.fspath(script), *arguments],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
