"""`collector run` as a person starts it: a process, on pipes or on a terminal of its own."""

import contextlib
import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

RUN = [sys.executable, "-m", "collector", "run"]
QUIET = ["--show", "none", "--final-show", "none"]
PATIENCE_S = 60


def run(
    *words: str, stdin: bytes = b"", where: Path | None = None, quiet: bool = True
) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end."""
    return subprocess.run(
        [*RUN, *(QUIET if quiet else []), *words],
        input=stdin,
        cwd=where,
        capture_output=True,
        check=False,
        timeout=PATIENCE_S * 5,
    )


def bytes_in_pipe(end: int | IO[bytes] | None) -> int:
    """Return how many bytes wait in a pipe for who reads them."""
    assert end is not None
    return int.from_bytes(fcntl.ioctl(end, termios.FIONREAD, bytes(4)), sys.byteorder)


@dataclass
class OnTerminal:
    """A run whose stdin, stdout and stderr are a terminal, as a job of a shell that has jobs."""

    pid: int
    screen_fd: int
    seen: bytes = field(default=b"")

    def read_until(self, wanted: bytes) -> bytes:
        """Read what comes to the screen until that has come."""
        deadline_s = time.monotonic() + PATIENCE_S
        while wanted not in self.seen:
            assert time.monotonic() < deadline_s, (wanted, self.seen)
            if select.select([self.screen_fd], [], [], 1)[0]:
                self.seen += os.read(self.screen_fd, 65536)
        return self.seen

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.screen_fd, keys)

    def rest(self) -> bytes:
        """Read to the end."""
        with contextlib.suppress(OSError):  # how the end of a terminal is told
            while data := os.read(self.screen_fd, 65536):
                self.seen += data
        return self.seen


@contextlib.contextmanager
def on_terminal(line: str, where: Path) -> Iterator[OnTerminal]:
    """Type a line at an interactive bash; `RUN` in it is `collector run`."""
    with shell_on_terminal(["bash", "--norc", "--noprofile", "-i"], where) as shell:
        shell.press(line.encode() + b"\n")
        yield shell


@contextlib.contextmanager
def shell_on_terminal(command: list[str], where: Path) -> Iterator[OnTerminal]:
    """Start an interactive shell, and wait for its prompt."""
    pid, fd = pty.fork()
    if not pid:
        os.chdir(where)
        os.environ.update(PS1="READY> ", RUN=" ".join(RUN), HISTFILE="/dev/null", TERM="xterm")
        os.execvp(command[0], command)
    shell = OnTerminal(pid, fd)
    try:
        shell.read_until(b"READY> ")
        yield shell
    finally:
        with contextlib.suppress(OSError):
            shell.press(b"\x03\x03")
            shell.press(b"\nexit\nexit\n")
        shell.rest()
        os.close(fd)
        os.waitpid(pid, 0)


def lines(data: bytes) -> Sequence[bytes]:
    """Return the lines of what was printed."""
    return data.splitlines()
