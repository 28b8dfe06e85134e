"""Fault 6: the kernel kills a worker that its control group has no memory for."""

from pathlib import Path

import pytest

from collector import Collector, WorkerCrashError, current_job
from tests.support.another_kernel import run_in_version_2
from tests.support.control_group import limited
from tests.support.jobs import MIB, pid, square
from tests.support.tiers import each_method


def eat() -> None:
    current_job().write(b"kept")
    current_job().flush()
    eaten = [bytes([1]) * MIB for _ in range(1024)]
    del eaten


@each_method
def test_a_worker_that_is_killed_for_memory_fails_its_job_only_and_says_so(method: str) -> None:
    with limited(128 * MIB) as group, Collector(1, method) as collector:
        group.move(collector.submit(pid).result())
        job = collector.submit(eat)
        error = job.exception()
        assert isinstance(error, WorkerCrashError), error
        assert error.signal == 9
        assert "possibly out of memory" in str(error)
        assert group.kills == 1
        assert job.output().read() == b"kept"
        assert collector.submit(square, 3).result() == 9


@pytest.mark.timeout(1000)
@pytest.mark.parametrize(
    ("file", "which"),
    [
        pytest.param(__file__, "killed_for_memory", marks=pytest.mark.slow),
        pytest.param("tests/test_out_of_memory.py", "kernel_kills", marks=pytest.mark.campaign),
    ],
    ids=["killed", "killed and run again alone"],
)
def test_so_it_is_with_control_groups_of_version_2(file: str, which: str, tmp_path: Path) -> None:
    """The second fills more than a gigabyte, which is slow there: most of a minute."""
    said = run_in_version_2(tmp_path, "-k", which, file)
    assert "1 passed" in said, said
