"""How many jobs that do nothing go through in a second, submitted one by one?"""

from collections.abc import Iterator
from time import perf_counter

from bench.case import OURS, Case, Contender, Goal, Scale
from bench.peers import NAMES, pool_of

SLOW = {"multiprocess.Pool", "loky", "joblib", "mpire", "pebble"}
"""They only get a quarter of the jobs."""


def nothing(item: int) -> int:
    """A job."""
    return item


def rate(peer: str, workers: int, count: int) -> Iterator[float]:
    """Yield jobs a second."""
    with pool_of(peer, workers) as pool:
        while True:
            start = perf_counter()
            for _ in pool.all(nothing, range(count)):
                pass
            yield count / (perf_counter() - start)


def cases(scale: Scale) -> Iterator[Case]:
    """One worker and two."""
    count = scale.pick(10_000, 3_000)
    for workers in (1, 2):
        yield Case(
            name=f"tiny-jobs-{workers}",
            unit="jobs/s",
            contenders={
                peer: Contender(
                    "bench.cases.tiny_jobs:rate",
                    {
                        "peer": peer,
                        "workers": workers,
                        "count": count // 4 if peer in SLOW else count,
                    },
                )
                for peer in NAMES
                if not scale.quick or peer not in SLOW
            },
            goals=(
                Goal("ProcessPoolExecutor", 3),
                Goal("multiprocessing.Pool", 1, what="stretch"),
            ),
        )
    assert OURS in NAMES
