"""Faults 46 and 47: no descriptors left, or many more than usual."""

import errno
import os
import resource
from typing import Final

import pytest

from collector import Collector, SpillError
from tests.support.inside import sink_pid
from tests.support.jobs import MIB, numbered, sha256, square
from tests.support.tiers import each_method, each_method_but
from tests.support.tree import assert_runs

FEW_DESCRIPTORS: Final = """
import os, resource, sys, threading
from collector import BrokenCollectorError, Collector
from tests.support.jobs import MIB, numbered, sha256, square

def limit(number):
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))

def free():  # the lowest number that is free, and all above are
    for thread in threading.enumerate():  # the sweep at start-up holds some, too
        if thread is not threading.main_thread():
            thread.join()
    fd = os.dup(0)
    os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == fd + 1
    return fd

def attempt():
    with Collector(1, method) as collector:
        job = collector.submit(numbered, 6 * MIB)
        error = job.exception(60)
        if error is None:
            assert sha256(job.output()) == sha256(numbered(6 * MIB))
            job.output().close()
            return "fine"
        assert isinstance(error, BrokenCollectorError), error
        assert "Too many open files" in str(error), error
        return "broken"

os.closerange(3, 1024)  # what was inherited
method, step = sys.argv[1], int(sys.argv[2])
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
assert attempt() == "fine"  # everything that is loaded late is there now
first = free()
met = []
for more in range(0, 200, step):
    limit(first + more)
    try:
        met.append(attempt())
    except OSError as error:
        assert error.errno == 24, error
        met.append("refused")
    finally:
        limit(soft)
    assert free() == first, (more, met, os.listdir("/proc/self/fd"))
    if met[-2:] == ["fine", "fine"]:
        break
assert attempt() == "fine"
print(*met)
"""


@pytest.mark.parametrize(
    ("method", "step"),
    [
        pytest.param("forkserver", 3, marks=pytest.mark.slow),
        pytest.param("spawn", 9, marks=pytest.mark.campaign),
        pytest.param("fork", 2, marks=pytest.mark.slow),
    ],
)
def test_whoever_runs_out_of_descriptors_is_told_and_can_go_on(method: str, step: int) -> None:
    """Some more are there each time, until the whole way is free: most steps of it fail once."""
    (met,) = assert_runs(FEW_DESCRIPTORS, method, str(step))
    assert met.startswith("refused")
    assert "broken" in met
    assert met.endswith("fine fine")


@each_method
def test_a_sink_that_has_no_descriptor_for_a_file_fails_that_job_only(method: str) -> None:
    with Collector(1, method) as collector:
        assert collector.submit(square, 2).result() == 4
        sink = sink_pid(collector)
        assert sink is not None
        opened = {int(name) for name in os.listdir(f"/proc/{sink}/fd")}
        first_free = min(set(range(len(opened) + 1)) - opened)
        limits = resource.prlimit(sink, resource.RLIMIT_NOFILE)
        resource.prlimit(sink, resource.RLIMIT_NOFILE, (first_free, limits[1]))
        job = collector.submit(numbered, 6 * MIB)
        error = job.exception(60)
        assert isinstance(error, SpillError)
        assert error.errno == errno.EMFILE
        resource.prlimit(sink, resource.RLIMIT_NOFILE, limits)
        again = collector.submit(numbered, 6 * MIB)
        assert sha256(again.output()) == sha256(numbered(6 * MIB))
        assert sink_pid(collector) == sink
        again.output().close()


@each_method_but("spawn")
def test_descriptors_above_1024_and_a_thousand_jobs_at_once(method: str) -> None:
    """In every process: a child has the low numbers from its parent, or its own by their number."""
    (said,) = assert_runs(
        """
import os, resource, sys
from collector import Collector
from tests.support.jobs import numbered, sha256, square
from tests.support.inside import sink_pid, worker_pids
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1500)]
for fd in held:
    os.set_inheritable(fd, True)
with Collector(2, sys.argv[1], memory_threshold=100) as collector:
    jobs = [collector.submit(numbered, 200) for _ in range(1000)]
    expected = sha256(numbered(200))
    assert all(sha256(job.output()) == expected for job in jobs)
    for pid in (os.getpid(), sink_pid(collector), *worker_pids(collector)):
        assert max(map(int, os.listdir(f"/proc/{pid}/fd"))) > 1024, pid
    opened = len(os.listdir("/proc/self/fd")) - len(held)
    for job in jobs:
        job.output().close()
    assert collector.submit(square, 3).result() == 9
print(opened)
""",
        method,
    )
    assert int(said) < 100  # a thousand outputs in files are held, and none holds a descriptor
