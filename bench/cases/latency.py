"""How long does one job that does nothing take, from submit to its result?"""

from collections.abc import Iterator
from statistics import median
from time import perf_counter

from bench.case import Case, Contender, Goal, Scale, times
from bench.cases.tiny_jobs import SLOW, nothing
from bench.peers import NAMES, pool_of


def waits(peer: str, workers: int, count: int) -> Iterator[float]:
    """Yield the median of the seconds that `count` jobs took, one after the other."""
    with pool_of(peer, workers) as pool:
        while True:
            found = []
            for item in range(count):
                start = perf_counter()
                pool.one(nothing, item)
                found.append(perf_counter() - start)
            yield median(found)


def cases(scale: Scale) -> Iterator[Case]:
    """One worker and two."""
    count = scale.pick(500, 100)
    for workers in (1, 2):
        yield Case(
            name=f"latency-{workers}",
            unit="us",
            contenders={
                peer: Contender(
                    "bench.cases.latency:waits", {"peer": peer, "workers": workers, "count": count}
                )
                for peer in NAMES
                if not scale.quick or peer not in SLOW
            },
            figure=times(1e6),
            goals=(Goal("ProcessPoolExecutor", 0.4),),
            less_is_better=True,
        )
