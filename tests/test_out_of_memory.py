"""A worker that the kernel kills for its memory, in a real control group; where that is counted."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collector import settings
from collector.process.pool import out_of_memory
from collector.process.pool.out_of_memory import OomKills, count_files
from tests.support.control_group import limited
from tests.support.tree import ROOT

MIB = 1024 * 1024

SCRIPT = """
import json, os, sys, time
from collector import Collector, Retry, current_job

sys.stdin.readline()  # until this process is in its group

def takes(mib):
    if current_job().attempt == 1 or mib > 400:
        held = bytearray(1024 * 1024 * 1000)  # more than there is
        for at in range(0, len(held), 4096):
            held[at] = 1
    return os.getpid()

def small(number):
    return number

if __name__ == "__main__":
    with Collector(2, retries=Retry(oom=2, delay=0.05), progress=False) as collector:
        once = collector.submit(takes, 1)
        always = collector.submit(takes, 1000)
        others = [collector.submit(small, number) for number in range(50)]
        said = {
            "once": repr(once.exception()), "once_attempts": once.attempt,
            "always": str(always.exception()), "always_attempts": always.attempt,
            "kind": type(always.exception()).__name__,
            "others": [job.result() for job in others],
        }
    print(json.dumps(said))
"""


def result_of(text: str, directory: Path, memory_bytes: int) -> Any:
    """Return what a script prints that runs in a control group with so much memory."""
    script = directory / "script.py"
    script.write_text(textwrap.dedent(text))
    with limited(memory_bytes) as group:
        child = subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(directory)},
        )
        with child:
            group.move(child.pid)
            out, _ = child.communicate("go\n")
    return json.loads(out)


def test_a_job_that_the_kernel_kills_for_its_memory_runs_again_alone(tmp_path: Path) -> None:
    said = result_of(SCRIPT, tmp_path, 300 * MIB)
    assert said["once"] == "None"
    assert said["once_attempts"] == 2
    assert said["always_attempts"] == 3, "as often as it may, and no more"
    assert said["kind"] == "WorkerCrashError"
    assert "for its memory" in said["always"]
    assert said["others"] == list(range(50))


KILLS = """
import json, signal, subprocess, sys
from collector import Collector, current_job

sys.stdin.readline()
GREEDY = "held = bytearray(1 << 30)\\nfor at in range(0, len(held), 4096): held[at] = 1"

def has_a_child_that_takes_all():
    return subprocess.run([sys.executable, "-c", GREEDY]).returncode

def waits():
    current_job().write(b"x")
    signal.pause()

if __name__ == "__main__":
    with Collector(1, progress=False) as collector:
        child = collector.submit(has_a_child_that_takes_all).result()
        job = collector.submit(waits)
        next(iter(job.follow()))
        job.kill()
        print(json.dumps([child, str(job.exception())]))
"""


def test_a_job_that_somebody_kills_is_not_said_to_be_killed_for_memory_that_others_took(
    tmp_path: Path,
) -> None:
    child, said = result_of(KILLS, tmp_path, 300 * MIB)
    assert child == -signal.SIGKILL
    assert "was ended by kill()" in said


BY_HAND = """
import json, os, signal, subprocess, sys
from collector import Collector, current_job, settings

settings.OOM_LOOK_PAUSE_S = settings.OOM_KILL_S = 0.0  # an hour later, as it were
sys.stdin.readline()
GREEDY = "held = bytearray(1 << 30)\\nfor at in range(0, len(held), 4096): held[at] = 1"

def has_a_child_that_takes_all():
    return subprocess.run([sys.executable, "-c", GREEDY]).returncode

def dies():
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    with Collector(1, progress=False) as collector:
        child = collector.submit(has_a_child_that_takes_all).result()
        print(json.dumps([child, str(collector.submit(dies).exception())]))
"""


def test_a_worker_that_is_killed_by_hand_is_not_said_to_be_killed_for_what_its_child_took_before(
    tmp_path: Path,
) -> None:
    child, said = result_of(BY_HAND, tmp_path, 300 * MIB)
    assert child == -signal.SIGKILL
    assert "SIGKILL" in said
    assert "has counted that" not in said


class TestTheCount:
    """What is counted is a worker's death only for a while; pure but for the file and the clock."""

    @pytest.fixture
    def at(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[float, int], None]:
        """Have it be so many seconds later, and so many processes killed in all."""
        text, now = ["oom_kill 5\n"], [0.0]
        monkeypatch.setattr(out_of_memory, "count_files", lambda *_: ["counts"])
        monkeypatch.setattr(out_of_memory, "_text", lambda _: text[0])
        clock = SimpleNamespace(monotonic=lambda: now[0])
        monkeypatch.setattr(out_of_memory, "time", clock)

        def move(now_s: float, count: int) -> None:
            now[0], text[0] = now_s, f"under_oom 0\noom_kill {count}\n"

        return move

    def test_each_is_one_death(self, at: Callable[[float, int], None]) -> None:
        kills = OomKills()
        assert not kills.has_killed()
        at(1.0, 7)
        assert [kills.has_killed() for _ in range(3)] == [True, True, False]

    def test_one_that_was_seen_while_the_worker_died_is_its_death(
        self, at: Callable[[float, int], None]
    ) -> None:
        kills = OomKills()
        at(5.0, 6)
        kills.look(5.0)
        at(6.0, 6)
        assert kills.has_killed()
        assert not kills.has_killed()

    def test_one_that_was_seen_long_before_is_not(self, at: Callable[[float, int], None]) -> None:
        kills = OomKills()
        at(5.0, 6)
        kills.look(5.0)
        at(5.0 + 2 * settings.OOM_KILL_S, 6)
        assert not kills.has_killed()
        at(5.0 + 2 * settings.OOM_KILL_S, 7)
        assert kills.has_killed()

    def test_it_is_not_read_at_every_look(
        self, at: Callable[[float, int], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kills, reads = OomKills(), list[str]()

        def read(path: str) -> str:
            reads.append(path)
            return ""

        monkeypatch.setattr(out_of_memory, "_text", read)
        for tenth in range(100):
            kills.look(tenth * settings.OOM_LOOK_PAUSE_S / 10)
        assert len(reads) == 10

    def test_a_group_that_is_another_one_by_now_counts_from_there(
        self, at: Callable[[float, int], None]
    ) -> None:
        kills = OomKills()
        at(1.0, 0)
        assert not kills.has_killed()
        at(2.0, 1)
        assert kills.has_killed()


V2_MOUNT = "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNTS = """\
31 20 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
32 20 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 20 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"""


@pytest.mark.parametrize(
    ("cgroups", "mounts", "files"),
    [
        ("0::/user/a b", V2_MOUNT, ["/sys/fs/cgroup/user/a b/memory.events"]),
        ("0::/", V2_MOUNT, ["/sys/fs/cgroup/memory.events"]),
        (
            "4:memory:/x\n3:cpu:/y\n0::/z",
            V1_MOUNTS,
            [
                "/sys/fs/cgroup/memory/x/memory.oom_control",
                "/sys/fs/cgroup/unified/z/memory.events",
            ],
        ),
        (
            "4:memory:/docker/1/in",
            "32 20 0:28 /docker/1 /sys/fs/cgroup/mem\\040ory rw - cgroup cgroup rw,memory",
            ["/sys/fs/cgroup/mem ory/in/memory.oom_control"],
        ),
        ("4:memory:/docker/12", "32 20 0:28 /docker/1 /m rw - cgroup cgroup rw,memory", []),
        ("", "", []),
        ("nonsense\n::", "nonsense - x\n", []),
    ],
)
def test_where_the_kernel_counts_follows_from_what_it_says(
    cgroups: str, mounts: str, files: list[str]
) -> None:
    assert count_files(cgroups, mounts) == files
