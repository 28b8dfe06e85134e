"""Loaded by a forkserver, which then dies once: when it has forked and not yet said so."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from collector.process.start.child import stand_apart
from tests.support.leaks import wait_until

_fork = os.fork


def _fork_and_die() -> int:
    pid = _fork()
    mark = Path(os.environ["DYING_SERVER_MARK"])
    if pid and not mark.exists():
        mark.touch()
        wait_until(mark.with_suffix(".ran").exists, 1)  # so long it may take to run nevertheless
        os.kill(os.getpid(), signal.SIGKILL)
    return pid


if "DYING_SERVER_MARK" in os.environ:
    os.fork = _fork_and_die


def role(descriptors: Sequence[int], arguments: bytes) -> None:
    """What a child runs."""
    stand_apart()
    os.write(descriptors[0], arguments)
    Path(os.environ["DYING_SERVER_MARK"]).with_suffix(".ran").touch()
