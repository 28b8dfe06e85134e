"""A command whose worker dies just after it was started, before it is noted, ends all the same."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support.leaks import descendants, is_running, wait_until
from tests.support.running import QUIET

SCRIPT: Final = """
import os, sys, time
from collector.cli.program import main
spawn = os.posix_spawnp

def stand_still(*arguments, **options):
    pid = spawn(*arguments, **options)
    with open("begun.new", "w") as file:
        file.write(f"{pid} {os.getpid()}")
    os.rename("begun.new", "begun")
    while True:
        time.sleep(1000)

os.posix_spawnp = stand_still
sys.exit(main(["run", *sys.argv[1:]]))
"""


@contextmanager
def begun(where: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int, int]]:
    """Run a command, and yield the program, the command, and its worker, which stands still."""
    words = [*QUIET, "-j1", ": {}; sleep 1000 & sleep 1000; :", ":::", "x"]
    program = subprocess.Popen([sys.executable, "-c", SCRIPT, *words], cwd=where)
    with program:
        assert wait_until((where / "begun").exists, 60)
        command, worker = map(int, (where / "begun").read_text().split())
        assert os.getpgid(command) == command
        assert wait_until(lambda: len(descendants(command)) == 2, 60)
        yield program, command, worker


@pytest.mark.parametrize("killed", ["program", "worker", "sink"])
def test_it_ends_with_all_that_it_has_started(killed: str, tmp_path: Path) -> None:
    with begun(tmp_path) as (program, command, worker):
        started = [command, *(process.pid for process in descendants(command))]
        ours = {process.pid for process in descendants(program.pid)} - {worker, *started}
        (pid,) = {"program": [program.pid], "worker": [worker], "sink": [*ours]}[killed]
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: not any(map(is_running, [*started, worker])))
        program.terminate()
        program.terminate()
