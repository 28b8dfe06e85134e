"""`collector run` over outputs of up to 500 MB, and over a million inputs."""

import filecmp
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support.running import QUIET, RUN

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1800)]

MB: Final = 1_000_000
SIZES: Final = [0, 1, 65_536, 5_242_880, 5_242_881, 20 * MB, 100 * MB, 500 * MB]
SCRIPT: Final = (
    "n={#}; size={}; seq $n; head -c $size /dev/zero | tr '\\000' '\\377'; "
    "case $n in *3) exit 3;; *7) kill -9 $$;; esac"
)


@pytest.mark.skipif(shutil.which("parallel") is None, reason="GNU parallel is not installed")
def test_a_hundred_outputs_up_to_500_mb_are_printed_and_stored_as_gnu_parallel_does(
    tmp_path: Path,
) -> None:
    sizes = [str(SIZES[-number]) if number <= 8 else str(number * 7919) for number in range(1, 101)]
    words = ["-k", "-j4", SCRIPT, ":::", *sizes]
    ended = {}
    for name, line in {
        "theirs": ["parallel", *words],
        "stored": ["parallel", "--results", "results", *words],  # prints nothing
        "ours": [*RUN, *QUIET, "-o", "B", *words],
    }.items():
        with (tmp_path / name).open("wb") as stdout:
            ended[name] = subprocess.run(line, cwd=tmp_path, stdout=stdout, check=False).returncode
    assert ended["ours"] == ended["theirs"] == ended["stored"] == 20
    assert (tmp_path / "ours").stat().st_size > sum(SIZES)
    assert filecmp.cmp(tmp_path / "ours", tmp_path / "theirs", shallow=False)
    by_input = {
        path.parent.name: path
        for path in (tmp_path / "results").glob("**/stdout")
        if path.is_file()
    }
    assert len(by_input) == len(set(sizes))
    for size, path in by_input.items():
        with (tmp_path / "one").open("wb") as stdout:
            line = [RUN[0], "-m", "collector", "cat", "B", size]
            subprocess.run(line, cwd=tmp_path, stdout=stdout, check=False)
        assert filecmp.cmp(tmp_path / "one", path, shallow=False), size


def test_memory_is_flat_over_a_million_inputs(tmp_path: Path) -> None:
    peak = {count: peak_kib(count, tmp_path) for count in (20_000, 1_000_000)}
    assert peak[1_000_000] < peak[20_000] * 1.2 + 4096, peak


def peak_kib(count: int, where: Path) -> int:
    """Return the most memory that one of its processes had while it ran over so many inputs."""
    line = [*RUN, *QUIET, "--python", "builtins:len"]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=where)
    assert process.stdin is not None
    with process.stdin as stdin:
        for first in range(0, count, 10_000):
            stdin.write(b"".join(b"%d\n" % number for number in range(first, first + 10_000)))
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_maxrss
