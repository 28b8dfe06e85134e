"""How long after it was written does a follower of the job see a chunk?"""

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from random import Random
from statistics import median

from bench import ours, target
from bench.case import OURS, Case, Contender, Goal, Scale, times
from collector import Collector

_STAMP = struct.Struct("<d")
_FILL_CHUNKS = 1_000


def stamped(count: int, seed: int) -> Iterator[bytes]:
    """Write chunks that say when, at odd moments of the deadlines on their way."""
    random = Random(seed)
    for _ in range(count):
        time.sleep(random.uniform(0.001, 0.03))
        yield _STAMP.pack(time.monotonic())


def seen_after(count: int, *, busy: bool) -> Iterator[dict[str, float]]:
    """Yield the median and the longest of the seconds until `count` chunks are seen.

    Args:
        count: Chunks a measurement.
        busy: Whether another worker writes at full speed meanwhile.
    """
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(target.directory())
        root = os.path.join(path, "root")
        collector = stack.enter_context(Collector(2, temp_root=root, progress=False))
        collector.submit(abs, 1).result()
        for seed in range(1_000_000):
            job = collector.submit(stamped, count, seed)
            found, rest = [], b""
            filler = collector.submit(ours.write, 64 * 1024, _FILL_CHUNKS) if busy else None
            for block in job.follow():
                seen = time.monotonic()
                data = rest + block
                whole = len(data) // _STAMP.size * _STAMP.size
                found += [seen - written for (written,) in _STAMP.iter_unpack(data[:whole])]
                rest = data[whole:]
                if filler is not None and filler.done():
                    filler.output().close()
                    filler = collector.submit(ours.write, 64 * 1024, _FILL_CHUNKS)
            if len(found) != count:
                raise AssertionError(f"{len(found)} chunks of {count}")
            for finished in filter(None, (job, filler)):
                finished.output().close()
            yield {"median": median(found), "longest": max(found)}


def cases(scale: Scale) -> Iterator[Case]:
    """Alone, and beside a worker that writes as fast as it can."""
    for busy in (False, True):
        arguments = {"count": scale.pick(400, 60), "busy": busy}
        yield Case(
            name=f"follow-{'busy' if busy else 'alone'}",
            unit="ms",
            contenders={OURS: Contender("bench.cases.follow:seen_after", arguments)},
            figure=times(1e3),
            goals=(Goal("", 100, "median"), Goal("", 100, "longest")),
            less_is_better=True,
        )
