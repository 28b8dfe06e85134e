"""How fast do outputs of 64 MiB reach the parent, against pools that return them?"""

from collections.abc import Iterator
from time import perf_counter

from bench import target
from bench.case import OURS, Case, Contender, Goal, Scale, per_second
from bench.ours import Pool
from bench.peers import pool_of

OUTPUT_BYTES = 64 * target.MIB
CHUNK = b"x" * target.MIB


def pieces(size: int) -> Iterator[bytes]:
    """A job that yields its output."""
    for _ in range(size // len(CHUNK)):
        yield CHUNK


def whole(size: int) -> bytes:
    """The same for pools that return it."""
    return b"".join(pieces(size))


def handing_over(peer: str, workers: int, size: int, count: int) -> Iterator[float]:
    """Yield the seconds until the parent has had all outputs in its hands."""
    with target.directory() as path, pool_of(peer, workers) as pool:
        while True:
            target.warm(path, size * count)
            start = perf_counter()
            if isinstance(pool, Pool):
                outputs = pool.outputs(pieces, [size] * count)
            else:
                outputs = pool.all(whole, [size] * count)
            held = list(outputs)
            seconds = perf_counter() - start
            assert [len(output) for output in held] == [size] * count
            del outputs, held
            yield seconds


def cases(scale: Scale) -> Iterator[Case]:
    """Two workers."""
    count = scale.pick(8, 4)
    peers = [OURS, "ProcessPoolExecutor", "multiprocessing.Pool"]
    if not scale.quick:
        peers += ["multiprocess.Pool", "loky", "joblib", "mpire", "pebble"]
    yield Case(
        name="big-outputs",
        unit="GB/s",
        contenders={
            peer: Contender(
                "bench.cases.big_outputs:handing_over",
                {"peer": peer, "workers": 2, "size": OUTPUT_BYTES, "count": count},
            )
            for peer in peers
        },
        figure=per_second(OUTPUT_BYTES * count / 1e9),
        goals=(Goal("ProcessPoolExecutor", 10),),
    )
