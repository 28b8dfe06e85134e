"""Signals to a run whose stderr or file of events takes nothing more."""

import contextlib
import fcntl
import os
import signal
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.leaks import wait_until
from tests.support.running import QUIET, RUN, bytes_in_pipe


@contextlib.contextmanager
def nobody_reads(place: str, where: Path, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run something whose events or stderr nobody reads; yield it when that is full."""
    os.mkfifo(where / "fifo")
    reads = os.open(where / "fifo", os.O_RDWR)
    fcntl.fcntl(reads, fcntl.F_SETPIPE_SZ, 4096)
    screen, side = os.openpty()
    termios.tcflow(side, termios.TCOOFF)  # as Ctrl-S does
    shown = [*QUIET, "--events", "fifo"] if place == "events" else ["--show", "all"]
    process = subprocess.Popen(
        [*RUN, *shown, *words],
        cwd=where,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr={"stderr": reads, "terminal": side}.get(place),
        env=os.environ | {"TERM": "xterm"},
    )
    with process:
        try:
            assert wait_until((where / "begun").exists)
            assert place == "terminal" or wait_until(lambda: bytes_in_pipe(reads) > 0)
            yield process
        finally:
            process.kill()
            for fd in (reads, screen, side):
                os.close(fd)


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("events", marks=pytest.mark.slow),
        "stderr",
        pytest.param("terminal", marks=pytest.mark.slow),
    ],
)
def test_one_signal_ends_it_politely_though_nobody_reads_on(place: str, tmp_path: Path) -> None:
    words = ["-j2", "echo {} >> begun", ":::", *map(str, range(200))]
    with nobody_reads(place, tmp_path, *words) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143


@pytest.mark.parametrize(
    "place",
    [
        "events",
        pytest.param("stderr", marks=pytest.mark.slow),
        pytest.param("terminal", marks=pytest.mark.slow),
    ],
)
def test_two_signals_end_it_at_once_though_nobody_reads_on(place: str, tmp_path: Path) -> None:
    script = "trap '' TERM; echo {} >> begun; while :; do sleep 0.05; done"
    words = ["-j2", "--grace", "600", script, ":::", "a", "b", "c"]
    with nobody_reads(place, tmp_path, *words) as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in {129, 130}  # of two threads each may take one: either is first
