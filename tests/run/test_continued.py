"""A batch that is continued: what stops it, and what `--retry` knows of it."""

import subprocess
import sys
from pathlib import Path

from tests.support.running import PATIENCE_S, QUIET, run

INTERRUPTED = """
import signal, sys
from collector.batch.command.finishing import Finisher
from collector.cli.program import main
resumed = Finisher.resumed
def interrupted(*arguments):
    resumed(*arguments)
    signal.raise_signal(signal.SIGINT)
Finisher.resumed = interrupted
sys.exit(main(sys.argv[1:]))
"""
"""A program that is interrupted each time when it has printed what was done before."""


def test_a_signal_ends_it_while_it_prints_what_was_done(tmp_path: Path) -> None:
    line = ["-k", "-o", "B", "echo", ":::", "a", "b", "c", "d"]
    assert run(*line, where=tmp_path).stdout == b"a\nb\nc\nd\n"
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "run", *QUIET, *line],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (ended.returncode, ended.stdout) == (130, b"a\n")
