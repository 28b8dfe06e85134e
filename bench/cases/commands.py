"""How fast do commands run whose prints are kept apart, against GNU parallel?"""

import subprocess
from collections.abc import Iterator
from time import perf_counter

from bench import target
from bench.case import OURS, Case, Contender, Scale, per_second
from collector import Collector

PRINTED_BYTES = 100_000


def command(size: int) -> None:
    """A job that runs a command."""
    subprocess.run(["head", "-c", str(size), "/dev/zero"], check=True)


def printing(workers: int, size: int, count: int) -> Iterator[float]:
    """Run `count` commands in jobs whose prints are captured."""
    with (
        target.directory() as root,
        Collector(workers, temp_root=root, capture=True, progress=False) as collector,
    ):
        while True:
            target.warm(root, size * count)
            start = perf_counter()
            for job in collector.collect(command, [size] * count):
                assert job.log().size == size
            yield perf_counter() - start


def cases(scale: Scale) -> Iterator[Case]:
    """Two at a time."""
    count = scale.pick(500, 50)
    arguments = {"workers": 2, "size": PRINTED_BYTES, "count": count}
    yield Case(
        name="commands",
        unit="commands/s",
        contenders={
            OURS: Contender("bench.cases.commands:printing", arguments),
            "GNU parallel": Contender("bench.peers.gnu_parallel:printing", arguments),
        },
        figure=per_second(count),
    )
