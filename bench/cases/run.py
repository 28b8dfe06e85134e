"""How fast does `collector run` run commands, against GNU parallel and `xargs -P`?"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from time import perf_counter

from bench import target
from bench.case import OURS, Case, Contender, Goal, Scale, per_second, times
from bench.host import MissingError

QUIET = ("--show", "none", "--final-show", "none")
LINES = {
    OURS: (sys.executable, "-m", "collector", "run", *QUIET, "-j{jobs}"),
    "GNU parallel": ("parallel", "-j{jobs}"),
    "xargs -P": ("xargs", "-P{jobs}", "-n1"),
}
GIB = 1024 * 1024 * 1024


def commands(peer: str, command: list[str], jobs: int, count: int) -> Iterator[float]:
    """Yield the seconds that so many commands take, with their inputs from stdin."""
    line = [word.format(jobs=jobs) for word in LINES[peer]] + command
    if shutil.which(line[0]) is None:
        raise MissingError(f"{line[0]} is not installed")
    with target.directory() as root, tempfile.TemporaryFile() as inputs:
        inputs.writelines(b"%d\n" % number for number in range(count))
        environment = os.environ | {"COLLECTOR_TMPDIR": root, "TMPDIR": root}
        while True:
            inputs.seek(0)
            start = perf_counter()
            subprocess.run(
                line, stdin=inputs, stdout=subprocess.DEVNULL, env=environment, check=True
            )
            yield perf_counter() - start


def contenders(
    peers: tuple[str, ...], command: list[str], jobs: int, count: int
) -> dict[str, Contender]:
    """Return them by name."""
    return {
        peer: Contender(
            "bench.cases.run:commands",
            {"peer": peer, "command": command, "jobs": jobs, "count": count},
        )
        for peer in peers
    }


def cases(scale: Scale) -> Iterator[Case]:
    """Commands that do nothing, one that prints much, and the very first."""
    count = scale.pick(10_000, 300)  # starting up, which has a row of its own, is a thirtieth of it
    yield Case(
        name="run-true",
        unit="commands/s",
        contenders=contenders((OURS, "GNU parallel", "xargs -P"), ["true"], 2, count),
        figure=per_second(count),
        goals=(Goal("GNU parallel", 4), Goal("xargs -P", 0.7)),
        repetitions=scale.pick(5, 5),
    )
    size = scale.pick(GIB, GIB // 8)
    yield Case(
        name="run-1-GiB",
        unit="GB/s",
        contenders=contenders((OURS, "GNU parallel"), [f"head -c {size} /dev/zero; : {{}}"], 1, 1),
        figure=per_second(size / 1e9),
        goals=(Goal("GNU parallel", 1),),
    )
    yield Case(
        name="run-first",
        unit="ms",
        contenders=contenders((OURS, "GNU parallel"), ["true"], 2, 1),
        figure=times(1e3),
        goals=(Goal("GNU parallel", 2),),
        less_is_better=True,
        repetitions=scale.pick(15, 5),
    )
