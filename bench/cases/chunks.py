"""How fast are chunks of 64 KiB collected, against workers that write their own files?"""

from collections.abc import Iterator

from bench.case import OURS, Case, Contender, Goal, Scale, per_second
from bench.target import MIB

CHUNK_BYTES = 64 * 1024
RESIDENT_TIMES = {False: 1, True: 2}
"""Resident files are faster to write and make no new dirty pages, so more is written to them."""

QUEUE_TIMES = 4
"""The queue gets a fourth of the chunks: it is so much slower."""

CONTENDERS = {
    OURS: "bench.ours:collecting",
    "direct": "bench.limits.direct:collecting",
    "C splice": "bench.limits.splice:collecting",
    "Queue": "bench.peers.queue:collecting",
}
# least ratio to (direct with one worker, direct with four, Queue)
_GOALS = {False: (0.85, 0.85, 4.0), True: (0.85, 0.85, 7.0)}


def contenders(
    workers: int, chunk_bytes: int, count: int, *, resident: bool
) -> dict[str, Contender]:
    """Return everybody who can bring chunks into files."""
    arguments = {
        "workers": workers,
        "chunk_bytes": chunk_bytes,
        "count": count,
        "resident": resident,
    }
    fewer = {"count": max(1, count // QUEUE_TIMES), "weight": min(count, QUEUE_TIMES)}
    return {
        name: Contender(function, arguments | (fewer if name == "Queue" else {}))
        for name, function in CONTENDERS.items()
    }


def cases(scale: Scale) -> Iterator[Case]:
    """One and four workers, fresh and resident files."""
    for resident, (one, four, queue) in _GOALS.items():
        total = RESIDENT_TIMES[resident] * scale.pick(1024 * MIB, 512 * MIB)
        for workers, direct in ((1, one), (4, four)):
            count = total // CHUNK_BYTES // workers
            yield Case(
                name=f"chunks-{'resident' if resident else 'fresh'}-{workers}",
                unit="GB/s",
                contenders=contenders(workers, CHUNK_BYTES, count, resident=resident),
                figure=per_second(total / 1e9),
                limit="direct",
                goals=(Goal("direct", direct), Goal("C splice", 1.5), Goal("Queue", queue)),
            )
