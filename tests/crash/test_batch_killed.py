"""A whole tree that keeps a batch is killed at once, and the same script is run again."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.support.batchscript import SCRIPT, assert_is_whole
from tests.support.tiers import each_method_but
from tests.support.tree import assert_runs, kill_at_once, script

COUNT = 60


def killed_at(path: Path, count: int, call: int, method: str = "forkserver") -> bool:
    """Run the script and kill its whole tree at that call; False if it ended before."""
    with script(SCRIPT, os.fspath(path), str(count), method, str(call)) as running:
        assert running.hear() == "begun"
        if running.hear() == "done":
            assert running.process.wait() == 0
            return False
        kill_at_once(running.tree)
        assert running.gone()
        assert running.process.wait() == -signal.SIGKILL
    return True


def assert_continues(path: Path, count: int, method: str = "forkserver") -> None:
    assert assert_runs(SCRIPT, os.fspath(path), str(count), method)[-1] == "done"
    assert_is_whole(path, count)


@each_method_but("fork")
def test_a_tree_that_is_killed_at_a_write_is_continued(tmp_path: Path, method: str) -> None:
    assert killed_at(tmp_path / "b", 8, 30, method)
    assert_continues(tmp_path / "b", 8, method)


@pytest.mark.slow
def test_a_tree_that_is_killed_again_and_again_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "b"
    calls = [12, 25, 48, 70]
    assert [call for call in calls if killed_at(path, COUNT, call)] == calls
    assert_continues(path, COUNT)


@pytest.mark.campaign
def test_a_tree_that_is_killed_at_each_call_is_continued(tmp_path: Path) -> None:
    call = 0
    while True:
        call += 1
        path = tmp_path / str(call)
        if not killed_at(path, 8, call):
            break
        assert_continues(path, 8)
    assert call > 50


def kill_at_some_instant(path: Path, count: int, dice: random.Random, longest_s: float) -> bool:
    """Let the script run for a while and kill its whole tree; False if it was quicker."""
    with script(SCRIPT, os.fspath(path), str(count), "forkserver") as running:
        assert running.hear() == "begun"
        time.sleep(dice.uniform(0, longest_s))
        if running.process.poll() is not None:
            return False
        kill_at_once(running.tree)
        assert running.gone()
    return True


@pytest.mark.slow
def test_a_tree_that_is_killed_at_some_instants_is_continued(tmp_path: Path) -> None:
    dice = random.Random(17)
    killed = [
        kill_at_some_instant(tmp_path / "b", 200, dice, most_s) for most_s in (0, 0.1, 0.3, 1)
    ]
    assert any(killed)
    assert_continues(tmp_path / "b", 200)


@pytest.mark.campaign
def test_thirty_kills_at_random_of_two_thousand_jobs(tmp_path: Path) -> None:
    dice = random.Random()
    killed = 0
    for number in range(30):
        path = tmp_path / str(number)
        killed += kill_at_some_instant(path, 2000, dice, 3.0)
        assert_continues(path, 2000)
    assert killed > 15
