"""A program that replaces itself by another leaves nothing that lives, and what zombies it must."""

import os
from pathlib import Path
from typing import Final

import pytest

from tests.support.leaks import descendants, wait_until
from tests.support.tiers import each_method, each_method_but
from tests.support.tree import script

BEGIN: Final = """
import os, sys
from collector import Collector
collector = Collector(1, sys.argv[1])
assert collector.submit(abs, -1).result() == 1
print("ready", flush=True)
"""
BECOME: Final = "os.execv('/bin/sleep', ['sleep', '1000'])"

AGAIN: Final = """
import os, sys, time
from collector import Collector
from tests.support.jobs import wait_for
source, method, until, left = sys.argv[1:]
collector = Collector(1, method)
assert collector.submit(abs, -1).result() == 1
if int(left):
    again = ["-c", source, source, method, until, str(int(left) - 1)]
    os.execv(sys.executable, [sys.executable, *again])
print("ready", flush=True)
wait_for(until)
collector.shutdown()
print("over", flush=True)
time.sleep(1000)
"""


def ended(pid: int) -> list[bool]:
    """Whether it has ended, of each process below that one."""
    return [process.has_ended for process in descendants(pid)]


@each_method
def test_nothing_is_left_where_the_collector_was_shut_down(method: str) -> None:
    with script(f"{BEGIN}collector.shutdown()\n{BECOME}", method) as parent:
        assert parent.hear() == "ready"
        assert wait_until(lambda: _is_sleep(parent.process.pid))
        assert ended(parent.process.pid) == []


@pytest.mark.parametrize(
    ("method", "most"),
    [
        ("forkserver", 1),
        pytest.param("spawn", 2, marks=pytest.mark.slow),
        pytest.param("fork", 2, marks=pytest.mark.slow),
    ],
)
def test_what_another_program_has_below_it_is_dead(method: str, most: int) -> None:
    """The kernel keeps a dead child for its parent, which is the same process after an exec."""
    with script(f"{BEGIN}{BECOME}", method) as parent:
        assert parent.hear() == "ready"
        assert wait_until(lambda: _is_sleep(parent.process.pid))
        assert wait_until(lambda: all(ended(parent.process.pid)))
        assert len(ended(parent.process.pid)) <= most
        root = Path(os.environ["COLLECTOR_TMPDIR"])
        assert wait_until(lambda: not os.listdir(root), 60)


@each_method_but("spawn")
def test_a_program_that_restarts_itself_collects_what_the_one_before_has_left(
    method: str, tmp_path: Path
) -> None:
    until = tmp_path / "until"
    with script(AGAIN, AGAIN, method, os.fspath(until), "4") as parent:
        assert parent.hear() == "ready"
        until.touch()
        assert parent.hear() == "over"
        assert wait_until(lambda: not ended(parent.process.pid))


def _is_sleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
