"""Do orphaned files delay the start-up, and how fast are they reclaimed?"""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from time import perf_counter

from bench import target
from bench.case import OURS, Case, Contender, Goal, Scale, per_second, times
from bench.cases.startup import time_of_first_result
from collector import reclaim

FILES_A_RUN = 1000


def orphan(root: str, count: int) -> None:
    """Leave what dead runs leave: run directories that nobody holds, with files of one byte."""
    for begin in range(0, count, FILES_A_RUN):
        run = os.open(_new_run(root), os.O_RDONLY | os.O_DIRECTORY)
        for number in range(begin, min(count, begin + FILES_A_RUN)):
            name = f"streaming-output-{number:016x}.spill"
            fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=run)
            os.write(fd, b"x")
            os.close(fd)
        os.close(run)


def _new_run(root: str) -> str:
    path = os.path.join(root, f"run-{secrets.token_hex(8)}")
    os.makedirs(root, 0o700, exist_ok=True)
    os.mkdir(path, 0o700)
    return path


def files_in(root: str) -> int:
    """Count the files in the directories of a root."""
    return sum(len(files) for path, _, files in os.walk(root) if path != root)


def first_result(count: int) -> Iterator[float]:
    """Yield the seconds to a first result with `count` orphaned files in the root."""
    with target.directory() as path:
        root = os.path.join(path, "root")
        os.mkdir(root, 0o700)
        while True:
            if count:
                orphan(root, count - files_in(root))
            yield time_of_first_result(OURS, "imported", root)


def reclaiming(count: int, repetitions: int, *, by_rm: bool) -> Iterator[float]:
    """Yield the seconds in which `collector.reclaim`, or `rm -rf`, removes `count` files.

    The first figure is none: then all files are made, for all repetitions and by everybody. ext4
    looks at every inode that was deleted in the last half minute before it makes a new one.
    """
    with target.directory() as path:
        roots = [os.path.join(path, f"root-{number}") for number in range(repetitions)]
        for root in roots:
            orphan(root, count)
        yield 1.0
        for root in roots:
            start = perf_counter()
            if by_rm:
                subprocess.run([shutil.which("rm") or "rm", "-rf", root], check=True)
            else:
                found = reclaim([root])
                assert sum(run.files for run in found.reclaimed) == count, found
            yield perf_counter() - start


def cases(scale: Scale) -> Iterator[Case]:
    """100,000 files."""
    count = scale.pick(100_000, 5_000)
    repetitions = 5
    yield Case(
        name="reclaiming",
        unit="files/s",
        contenders={
            name: Contender(
                "bench.cases.orphans:reclaiming",
                {"count": count, "repetitions": repetitions, "by_rm": name != OURS},
            )
            for name in (OURS, "rm -rf")
        },
        figure=per_second(count),
        limit="rm -rf",
        goals=(Goal("rm -rf", 0.5),),
        repetitions=repetitions,
    )
    yield Case(
        name="start-up-orphans",
        unit="ms",
        contenders={
            OURS: Contender("bench.cases.orphans:first_result", {"count": count}),
            "none": Contender("bench.cases.orphans:first_result", {"count": 0}),
        },
        figure=times(1e3),
        goals=(Goal("none", 1.05),),
        less_is_better=True,
        repetitions=scale.pick(15, 5),
    )
