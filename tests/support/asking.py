"""A batch in a process of its own that is asked from here, and clients as nobody wishes them."""

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from collector import Collector
from collector.cli.program import main
from tests.support.inside import run_directory
from tests.support.jobs import square
from tests.support.leaks import wait_until
from tests.support.rundirs import REPOSITORY

BATCH: Final = """
import sys
from functools import partial
from pathlib import Path
from collector import Collector
from tests.support.askingjobs import *

if __name__ == "__main__":
    root, method, here = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    ask = len(sys.argv) < 5
    with Collector(2, method, temp_root=root, ask=ask, progress=PROGRESS) as collector:
        # BODY
"""


_START_S: Final = 60.0
"""Longest wait for its first jobs, on a machine that has much else to do."""


class Batch:
    """A Collector in another process."""

    def __init__(self, process: "subprocess.Popen[str]", root: Path, here: Path) -> None:
        self.process = process
        self.root = root
        self.here = here

    @property
    def run(self) -> Path:
        """Its run directory."""
        (run,) = self.root.glob("run-*")
        return run

    def hear(self) -> str:
        """Wait for its next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the batch has ended"
        return line.rstrip("\n")

    def runs(self, jobs: int) -> dict[str, Any]:
        """Wait until it says that so many jobs run, and return what it says."""
        answers: list[dict[str, Any]] = []

        def come() -> bool:
            answers[:] = top()
            return any(len(answer["running"]) == jobs for answer in answers)

        assert wait_until(come, _START_S), answers
        return answers[0]

    def let_go(self, name: str) -> None:
        """Open the gate of jobs that wait for it."""
        (self.here / name).touch()

    def end(self) -> int:
        """Wait for its end, and return its exit status."""
        return self.process.wait()


@contextlib.contextmanager
def a_batch(
    root: Path,
    here: Path,
    body: str,
    method: str = "forkserver",
    *more: str,
    progress: str = "False",
) -> Iterator[Batch]:
    """Run a script whose Collector is `collector`; it is killed if it does not end."""
    here.mkdir(exist_ok=True)
    script = here / "batch.py"
    indented = "\n".join(f"        {line}" for line in body.strip("\n").split("\n"))
    script.write_text(BATCH.replace("        # BODY", indented).replace("PROGRESS", progress))
    process = subprocess.Popen(
        [sys.executable, script, root, method, here, *more],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": os.fspath(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Batch(process, root, here)
        finally:
            process.kill()


def long_root_in(directory: Path) -> Path:
    """Make a temp root such that the path of a run directory has more than 200 characters."""
    root = directory / ("x" * 100) / ("y" * 100)
    root.mkdir(parents=True)
    root.chmod(0o700)
    return root


def program(*arguments: str | Path) -> "subprocess.CompletedProcess[bytes]":
    """Run `collector` as a user does in another terminal."""
    return subprocess.run(
        [sys.executable, "-m", "collector", *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def command(*arguments: str | Path) -> tuple[int, bytes, bytes]:
    """Do what `collector` does, in this process: its status, and what it prints."""
    out, err = io.BytesIO(), io.BytesIO()
    with (
        io.TextIOWrapper(out, "utf-8") as printed,
        io.TextIOWrapper(err, "utf-8") as complained,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(complained),
    ):
        status = main([os.fspath(argument) for argument in arguments])
        printed.flush()
        complained.flush()
        return status, out.getvalue(), err.getvalue()


def top(*arguments: str | Path) -> list[dict[str, Any]]:
    """What `collector top --json` says."""
    status, said, _ = command("top", "--json", *arguments)
    assert status == 0
    answers: list[dict[str, Any]] = json.loads(said)
    return answers


def connect(run: Path) -> socket.socket:
    """Connect to a Collector as no command does; its path may be long."""
    end = socket.socket(socket.AF_UNIX)
    fd = os.open(run, os.O_RDONLY | os.O_DIRECTORY)
    try:
        end.connect(f"/proc/self/fd/{fd}/ask")
    finally:
        os.close(fd)
    return end


def said_to_the_end(end: socket.socket) -> bytes:
    """Everything that is answered until the other side hangs up."""
    answer = b""
    try:
        while piece := end.recv(65536):
            answer += piece
    except ConnectionResetError:
        pass
    return answer


@contextlib.contextmanager
def heard_by_us(collector: Collector) -> Iterator[tuple[str, socket.socket]]:
    """Take the place of a Collector that does not listen: the name of its run, and the socket."""
    assert collector.submit(square, 3).result() == 9
    run = run_directory(collector)
    with socket.socket(socket.AF_UNIX) as end, contextlib.chdir(run):
        end.bind("ask")
        os.chmod("ask", 0o600)
        end.listen()
        try:
            yield run.name, end
        finally:
            os.unlink("ask")
