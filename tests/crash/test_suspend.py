"""Fault 76: the whole tree is stopped for seconds, as by hibernation, and goes on."""

import os
import signal
import threading
from pathlib import Path
from typing import Final

from collector import current_job, settings
from tests.support.jobs import begun_then_wait, numbered
from tests.support.tiers import each_method_but
from tests.support.tree import script

STOPPED_S: Final = settings.SUSPENDED_S + 5

BATCH: Final = """
import os, sys, time
from collector import Collector
from tests.crash.test_suspend import STOPPED_S, wait_then_write
from tests.support.jobs import MIB, numbered, sha256
method, until, size = sys.argv[1], sys.argv[2], 6 * MIB
with Collector(2, method) as collector:
    timed = collector.with_options(timeout=STOPPED_S - 1)
    jobs = [timed.submit(wait_then_write, f"{until}-begun-{n}", until, size) for n in range(2)]
    while not all(os.path.exists(f"{until}-begun-{number}") for number in range(2)):
        time.sleep(0.002)
    print("running", flush=True)
    for job in jobs:
        assert job.exception() is None, job.exception()
        assert job.attempt == 1
        assert sha256(job.output()) == sha256(numbered(size))
        job.output().close()
print("done", flush=True)
"""


def wait_then_write(begun: str, until: str, size: int) -> None:
    begun_then_wait(begun, until)
    for chunk in numbered(size):
        current_job().write(chunk)


@each_method_but("fork")
def test_a_tree_that_was_stopped_for_seconds_goes_on_and_no_job_is_late(
    method: str, tmp_path: Path
) -> None:
    """The time-out is shorter than the stop: who counts it ends jobs that hardly ran."""
    until = tmp_path / "until"
    with script(BATCH, method, os.fspath(until)) as running:
        assert running.hear() == "running"
        tree = running.tree()
        assert len(tree) >= 4
        for pid in tree:
            os.kill(pid, signal.SIGSTOP)
        threading.Event().wait(STOPPED_S)  # it is the time itself that is tried here
        until.touch()
        for pid in reversed(tree):
            os.kill(pid, signal.SIGCONT)
        assert running.hear() == "done"
        assert running.process.wait() == 0
        assert running.gone()
