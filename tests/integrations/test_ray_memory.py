"""Jobs on Ray and memory: what a thousand of them take here, and who runs out of it there."""

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, final
from weakref import WeakSet

import pytest

from collector import Retry, WorkerCrashError, current_job, settings
from collector.integrations.ray.orders import BEGINNING, Beginning, Job, parcel_bytes
from collector.integrations.ray.tasks import Tasks
from tests.support.engines import alone, on_ray, opened, with_a_ray_of_its_own
from tests.support.inside import pump_pid, sink_pid
from tests.support.leaks import descendants
from tests.support.sharedray import shared
from tests.support.tree import script

MIB: Final = 1 << 20
JOBS: Final = 1000
OUTPUT_BYTES: Final = 128 * 1024


def writes(number: int) -> Iterator[bytes]:
    piece = number.to_bytes(4, "little") * 16_384
    for _ in range(OUTPUT_BYTES // len(piece)):
        yield piece


def waits() -> Iterator[bytes]:
    yield b"attempt %d" % current_job().attempt
    current_job().flush()
    time.sleep(600)


def role_of(pid: int) -> str:
    """Which of our processes it is, by its name in `ps`; "" if it is none: Ray starts some, too."""
    with contextlib.suppress(FileNotFoundError):  # it has ended
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        found = re.search(rb"'collector-([a-z]+)'", command)
        return found[1].decode() if found else ""
    return ""


def resident_bytes(pid: int) -> int:
    """What a process holds for itself: not the object store, which several map."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


VERSIONS: Final = """
import os, sys
from collector import Collector
from tests.integrations.test_ray import parent_of
from tests.integrations.test_ray_memory import MIB, resident_bytes

def job():
    agent = parent_of(os.getppid())
    return resident_bytes(agent), len(table)

with Collector(1, engine="ray", address=sys.argv[1], progress=False) as collector:
    for _ in range(36):
        table = os.urandom(MIB)
        print(collector.submit(job).result()[0], end=" ")
"""


@final
class Object:
    """As Ray's of what was put."""


@final
class NoRay:
    """As much of Ray as tasks need to be started; what a task is told comes back."""

    def __init__(self) -> None:
        self.objects: WeakSet[Object] = WeakSet()

    def put(self, _value: object) -> Object:
        made = Object()
        self.objects.add(made)
        return made

    def remote(self, *arguments: Any) -> Any:
        return self if len(arguments) == 1 else arguments

    def options(self, **_options: object) -> "NoRay":
        return self


def test_a_part_of_the_script_that_is_forgotten_is_in_ray_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = NoRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    beginning = Beginning("c", "1", (3, 11), "base", b"", (), {}, None, MIB, ())
    tasks = Tasks({}, beginning)
    for number in range(3):
        tasks.keep(number, b"part")
    assert len(ray.objects) == 4
    tasks.forget(1)
    assert len(ray.objects) == 3
    *_, kept = tasks.start([Job(5, "", b"run", (0,))], spare=False)
    assert kept == (BEGINNING, 0, 2)


@pytest.mark.parametrize("workers", [1, 2, 31, 1000, 8000])
def test_what_is_on_its_way_stays_within_the_budget(workers: int) -> None:
    for budget in (8 * MIB, 256 * MIB, 4096 * MIB):
        each = parcel_bytes(budget, workers)
        assert settings.RAY_PARCEL_LEAST_BYTES <= each <= settings.RAY_PARCEL_BYTES
        if each > settings.RAY_PARCEL_LEAST_BYTES:
            making, carried = 1, 1
            assert each * (making + settings.RAY_WINDOW + carried) * workers <= budget


class TestOnRay:
    """With Ray itself."""

    pytestmark = on_ray

    @pytest.mark.ray
    def test_a_thousand_jobs_in_flight_take_one_process_here_and_no_more_memory(self) -> None:
        before = {process.pid for process in descendants()}
        with opened("ray", max_workers=JOBS, memory_budget=16 * MIB) as collector:
            assert collector.submit(writes, 0).output().size == OUTPUT_BYTES
            sink = sink_pid(collector)
            assert sink is not None
            pids = {"parent": os.getpid(), "sink": sink, "pump": pump_pid(collector)}
            jobs = [collector.submit(writes, number) for number in range(JOBS)]
            new = {p.pid for p in descendants()} - before
            assert sorted(filter(None, map(role_of, new))) == ["ray", "server", "sink"]
            held: dict[str, list[int]] = {name: [] for name in pids}
            for number, job in enumerate(jobs):
                assert job.output().read() == number.to_bytes(4, "little") * (OUTPUT_BYTES // 4)
                for name, pid in pids.items():
                    held[name].append(resident_bytes(pid))
            assert collector.statistics().failed == 0
        for name, amounts in held.items():
            # All that was written is 125 MiB; 16 of it may be held in memory.
            assert max(amounts) - amounts[0] <= 40 * MIB, (name, amounts[:: JOBS // 10])

    @pytest.mark.ray
    def test_versions_of_a_global_that_no_job_needs_are_held_nowhere(self) -> None:
        with script(VERSIONS, shared.address) as running:
            first, *_, last = map(int, running.hear().split())
            assert last - first <= 12 * MIB  # of 32 that have travelled

    @alone
    def test_a_job_that_ray_ends_for_want_of_memory_says_so_and_counts_as_that(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")  # more is in use on any machine
        monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
        retries = Retry(oom=1, delay=0.05)
        with with_a_ray_of_its_own(retries=retries) as collector:
            job = collector.submit(waits)
            error = job.exception()
            assert isinstance(error, WorkerCrashError)
            assert "was ended by Ray, since its node was out of memory" in str(error)
            assert job.attempt == 2
            assert b"attempt 2".startswith(job.output().read())
