"""Does collecting cost more than that workers write their own files?

With one worker and more than there are cores, on a machine that is idle and on a busy one, and in
seconds of a core.
"""

import os
import subprocess
from collections.abc import Iterator
from time import perf_counter

from bench import target
from bench.case import OURS, Case, Contender, Goal, Scale, per_second, times
from bench.cases.chunks import CONTENDERS
from bench.target import MIB
from collector import Collector, current_job

KIB = 1024
SIZES = {"64k": 64 * KIB, "1m": MIB}
OF_DIRECT = 0.85
MOST_CORE_SECONDS = 1.3


def _pair(workers: int, chunk_bytes: int, total: int, around: str = "") -> dict[str, Contender]:
    arguments = {
        "workers": workers,
        "chunk_bytes": chunk_bytes,
        "count": total // chunk_bytes // workers,
        "resident": False,
    }
    pair = {name: Contender(CONTENDERS[name], arguments) for name in (OURS, "direct")}
    if not around:
        return pair
    more: dict[str, object] = {"loops": 2} if around.endswith("loops") else {}
    return {
        name: Contender(around, {"of": one.function, **more, **one.arguments})
        for name, one in pair.items()
    }


def cases(scale: Scale) -> Iterator[Case]:
    """Chunks of 64 KiB and 1 MiB into fresh files."""
    total = scale.pick(1024 * MIB, 512 * MIB)
    for size, chunk_bytes in SIZES.items():
        for workers in (1, 2, 4, 8):
            yield _case(f"{size}-{workers}", workers, chunk_bytes, total)
        for workers in (1, 4):
            around = "bench.around:beside_busy_loops"
            yield _case(f"{size}-{workers}-busy", workers, chunk_bytes, total, around)
    for workers in (1, 4):
        yield Case(
            name=f"core-seconds-64k-{workers}",
            unit="s/GB",
            contenders=_pair(workers, 64 * KIB, total, "bench.around:core_seconds"),
            figure=times(1e9 / total),
            limit="direct",
            goals=(Goal("direct", MOST_CORE_SECONDS),),
            less_is_better=True,
        )
    size = scale.pick(512 * MIB, 256 * MIB)
    arguments = {"size": size}
    yield Case(
        name="subprocess",
        unit="GB/s",
        contenders={
            OURS: Contender("bench.cases.direct_writers:collecting_a_program", arguments),
            "stdout=file": Contender("bench.cases.direct_writers:program_into_a_file", arguments),
        },
        figure=per_second(size / 1e9),
        limit="stdout=file",
    )


def _case(name: str, workers: int, chunk_bytes: int, total: int, around: str = "") -> Case:
    return Case(
        name=f"direct-writers-{name}",
        unit="GB/s",
        contenders=_pair(workers, chunk_bytes, total, around),
        figure=per_second(total / 1e9),
        limit="direct",
        goals=(Goal("direct", OF_DIRECT),),
    )


def _program(size: int) -> list[str]:
    return ["head", "-c", str(size), "/dev/zero"]


def run_a_program(size: int) -> None:
    """A job that collects what a program prints."""
    subprocess.run(_program(size), stdout=current_job(), check=True)


def collecting_a_program(size: int) -> Iterator[float]:
    """Yield the seconds until a job has the output of its program."""
    with target.directory() as path, Collector(1, temp_root=path, progress=False) as collector:
        while True:
            target.warm(path, size)
            start = perf_counter()
            with collector.submit(run_a_program, size).output() as output:
                seconds = perf_counter() - start
                assert output.size == size
            yield seconds


def program_into_a_file(size: int) -> Iterator[float]:
    """Yield the seconds until a program has written to its file."""
    with target.directory() as path:
        name = os.path.join(path, "printed")
        while True:
            target.warm(path, size)
            start = perf_counter()
            with open(name, "wb") as file:
                subprocess.run(_program(size), stdout=file, check=True)
            seconds = perf_counter() - start
            os.unlink(name)
            yield seconds
