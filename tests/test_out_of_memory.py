"""A worker that the kernel kills for its memory, in a real control group; where that is counted."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from collector.process.pool.out_of_memory import count_files
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


def test_a_job_that_the_kernel_kills_for_its_memory_runs_again_alone(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    with limited(300 * MIB) as group:
        child = subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        )
        with child:
            group.move(child.pid)
            out, _ = child.communicate("go\n")
    said = json.loads(out)
    assert said["once"] == "None"
    assert said["once_attempts"] == 2
    assert said["always_attempts"] == 3, "as often as it may, and no more"
    assert said["kind"] == "WorkerCrashError"
    assert "for its memory" in said["always"]
    assert said["others"] == list(range(50))


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
