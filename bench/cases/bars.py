"""Do the bars on a terminal slow down what they show?"""

import contextlib
import fcntl
import functools
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Iterator
from time import perf_counter

from bench import ours, recycling, target
from bench.case import OURS, Case, Contender, Goal, Scale, per_second
from bench.target import MIB
from collector import Collector

CHUNK_BYTES = 64 * 1024
JOBS = 12


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Let stderr be a terminal of 80x24 whose contents another process reads."""
    screen, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    kept = os.dup(2)
    os.dup2(end, 2)
    os.close(end)
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(["cat"], stdin=screen, stdout=nowhere, stderr=nowhere) as reader:
        os.close(screen)
        try:
            yield
        finally:
            os.dup2(kept, 2)  # the last of the terminal: its reader ends
            os.close(kept)
            reader.wait()


def collecting(job_bytes: int, *, bars: bool) -> Iterator[float]:
    """Yield the seconds to collect jobs of 64 KiB chunks with two workers."""
    count, job_fn = job_bytes // CHUNK_BYTES, functools.partial(ours.write, CHUNK_BYTES)
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(target.directory())
        stack.enter_context(terminal())
        stack.enter_context(recycling.recycled())  # the price of fresh pages hides what is asked
        root = os.path.join(path, "root")
        progress = None if bars else False
        collector = stack.enter_context(Collector(2, temp_root=root, progress=progress))
        while True:
            start = perf_counter()
            for job in collector.collect(job_fn, [count] * JOBS):
                job.output().close()
            yield perf_counter() - start


def cases(scale: Scale) -> Iterator[Case]:
    """The throughput of a batch with its bars, against that without."""
    job_bytes = scale.pick(128 * MIB, 16 * MIB)
    yield Case(
        name="bars",
        unit="GB/s",
        contenders={
            name: Contender("bench.cases.bars:collecting", {"job_bytes": job_bytes, "bars": bars})
            for name, bars in ((OURS, True), ("no bars", False))
        },
        figure=per_second(JOBS * job_bytes / 1e9),
        goals=(Goal("no bars", 0.99),),
        repetitions=scale.pick(61, 5),
    )
