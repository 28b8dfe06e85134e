"""`max_workers=None`: as many workers as CPUs may be used, by affinity and by control groups."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from collector import Collector
from collector.executor.cpus import usable_cpus

ROOT: Final = Path(__file__).parents[1]
PERIOD: Final = 100_000
V1: Final = "31 23 0:30 {root} {at} rw,relatime shared:9 master:1 - cgroup cgroup rw,cpu,cpuacct\n"
V2: Final = "32 23 0:38 {root} {at} rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)


def proc(tmp_path: Path, groups: str, mounts: str) -> Path:
    directory = tmp_path / "proc"
    directory.mkdir()
    (directory / "cgroup").write_text(groups)
    (directory / "mountinfo").write_text("23 1 8:1 / / rw - ext4 /dev/sda rw\n" + mounts)
    return directory


def group_of_v2(directory: Path, quota: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cpu.max").write_text(quota)


def group_of_v1(directory: Path, quota: str, period: str = f"{PERIOD}\n") -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cpu.cfs_quota_us").write_text(quota)
    (directory / "cpu.cfs_period_us").write_text(period)


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("200001 100000", 3),
        ("50000 100000", 1),
        ("1000 1000000", 1),
        ("0 100000", 1),
        ("6400000 100000", 8),
    ],
)
def test_a_quota_of_our_own_group_counts_rounded_up(quota: str, cpus: int, tmp_path: Path) -> None:
    group_of_v2(tmp_path / "cg/job", quota + "\n")
    mounts = V2.format(root="/", at=tmp_path / "cg")
    assert usable_cpus(proc(tmp_path, "0::/job\n", mounts)) == cpus


def test_the_smallest_quota_of_the_groups_around_ours_counts(tmp_path: Path) -> None:
    group_of_v2(tmp_path / "cg/slice", "300000 100000\n")
    group_of_v2(tmp_path / "cg/slice/unit", "400000 100000\n")
    group_of_v2(tmp_path / "cg/slice/unit/job", "max 100000\n")
    mounts = V2.format(root="/", at=tmp_path / "cg")
    assert usable_cpus(proc(tmp_path, "0::/slice/unit/job\n", mounts)) == 3


def test_the_older_kind_of_groups_counts_too(tmp_path: Path) -> None:
    group_of_v1(tmp_path / "cpu", "-1\n")
    group_of_v1(tmp_path / "cpu/a", "250000\n")
    group_of_v1(tmp_path / "cpu/a/b", "-1\n")
    groups = "9:name=systemd:/x\n4:memory:/x\n2:cpu,cpuacct:/a/b\n0::/x\n"
    mounts = V1.format(root="/", at=tmp_path / "cpu")
    assert usable_cpus(proc(tmp_path, groups, mounts)) == 3


def test_where_both_kinds_are_mounted_the_smaller_quota_counts(tmp_path: Path) -> None:
    group_of_v1(tmp_path / "cpu/a", "500000\n")
    group_of_v2(tmp_path / "cg/b", "200000 100000\n")
    mounts = V1.format(root="/", at=tmp_path / "cpu") + V2.format(root="/", at=tmp_path / "cg")
    assert usable_cpus(proc(tmp_path, "2:cpu,cpuacct:/a\n0::/b\n", mounts)) == 2


def test_in_a_container_the_mount_is_of_our_part_of_the_tree(tmp_path: Path) -> None:
    group_of_v1(tmp_path / "cpu", "100000\n")
    group_of_v1(tmp_path / "cpu/inner", "300000\n")
    mounts = V1.format(root="/docker/abc", at=tmp_path / "cpu")
    assert usable_cpus(proc(tmp_path, "2:cpu,cpuacct:/docker/abc/inner\n", mounts)) == 1


def test_a_mount_point_with_a_blank_in_its_name_is_found(tmp_path: Path) -> None:
    group_of_v2(tmp_path / "c g", "200000 100000\n")
    at = str(tmp_path / "c g").replace(" ", "\\040")
    assert usable_cpus(proc(tmp_path, "0::/\n", V2.format(root="/", at=at))) == 2


@pytest.mark.parametrize(
    "quota",
    [
        b"",
        b"max",
        b"100000",
        b"-5 100000",
        b"100000 0",
        b"1e5 1",
        b"\xff\xfe",
        b"1 2 3",
        b"9" * 9000,
    ],
)
def test_what_is_no_quota_is_ignored(quota: bytes, tmp_path: Path) -> None:
    group_of_v2(tmp_path / "cg", "max 100000\n")
    (tmp_path / "cg/cpu.max").write_bytes(quota)
    mounts = V2.format(root="/", at=tmp_path / "cg")
    assert usable_cpus(proc(tmp_path, "0::/\n", mounts)) == 8


@pytest.mark.parametrize(
    ("groups", "mounts"),
    [
        ("", V2),
        ("nonsense\n::\n\n0::\n", V2),
        ("0::/\n", "short\n1 2 - 3\n - cgroup2\n"),
        ("0::/../other\n", V2),
        ("2:cpu:/other\n", V1.replace("{root}", "/docker/abc")),
    ],
)
def test_groups_that_cannot_be_made_out_are_ignored(
    groups: str, mounts: str, tmp_path: Path
) -> None:
    group_of_v2(tmp_path / "cg/docker", "100000 100000\n")
    at = mounts.format(root="/docker", at=tmp_path / "cg")
    assert usable_cpus(proc(tmp_path, groups, at)) == 8


def test_files_that_cannot_be_read_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "cg/cpu.max").mkdir(parents=True)
    mounts = V2.format(root="/", at=tmp_path / "cg")
    assert usable_cpus(proc(tmp_path, "0::/\n", mounts)) == 8
    assert usable_cpus(tmp_path / "nowhere") == 8


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python 3.13 can be told the number of CPUs")
def test_a_number_that_python_was_told_is_the_one(tmp_path: Path) -> None:
    source = "from collector.executor.cpus import usable_cpus; print(usable_cpus())"
    told = subprocess.run(
        [sys.executable, "-X", "cpu_count=7", "-c", source],
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "7\n"


def test_a_collector_starts_no_more_workers_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.executor.core.usable_cpus", lambda: 2)
    with Collector() as collector:
        pids = {job.result() for job in [collector.submit(slow_pid) for _ in range(6)]}
    assert len(pids) <= 2


def slow_pid() -> int:
    """Take long enough that others are needed."""
    time.sleep(0.05)
    return os.getpid()


# -- a real control group --------------------------------------------------------------------------


@contextlib.contextmanager
def real_group(quota_us: int) -> Iterator[Path]:
    """Make a group with that quota and another one without below it, where we may."""
    at, name = Path("/sys/fs/cgroup"), f"collector-test-{os.getpid()}"
    outer = (at / "cpu" if (at / "cpu").is_dir() else at) / name
    inner = outer / "inner"
    try:
        outer.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        inner.mkdir()
        if (outer / "cpu.cfs_quota_us").exists():
            (outer / "cpu.cfs_quota_us").write_text(str(quota_us))
        elif (outer / "cpu.max").exists():
            (outer / "cpu.max").write_text(f"{quota_us} {PERIOD}")
        else:
            pytest.skip("this kernel has no quotas of CPUs")
        yield inner
    finally:
        for directory in (inner, outer):
            with contextlib.suppress(FileNotFoundError):
                directory.rmdir()


def test_a_real_quota_of_the_group_around_ours_counts() -> None:
    source = """
import os, sys
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
os.sched_getaffinity = lambda _pid: set(range(8))
from collector.executor.cpus import usable_cpus
print(usable_cpus())
"""
    with real_group(3 * PERIOD // 2) as group:
        told = subprocess.run(
            [sys.executable, "-c", source, os.fspath(group / "cgroup.procs")],
            env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (told.stdout, told.stderr) == ("2\n", "")
