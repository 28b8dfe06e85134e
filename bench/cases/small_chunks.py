"""How many chunks of 100 bytes a second does one worker bring to the sink?"""

from collections.abc import Iterator

from bench.case import OURS, Case, Contender, Goal, Scale, per_second

CHUNK_BYTES = 100
FEWER = 10
"""The queue gets a tenth of the chunks: it takes seconds for them."""


def cases(scale: Scale) -> Iterator[Case]:
    """One worker; the output goes over its threshold into a fresh file."""
    count = scale.pick(1_000_000, 500_000)
    whole = {"workers": 1, "chunk_bytes": CHUNK_BYTES, "count": count, "resident": False}
    fewer = {**whole, "count": count // FEWER, "weight": FEWER}
    yield Case(
        name="small-chunks",
        unit="M chunks/s",
        contenders={
            OURS: Contender("bench.ours:collecting", whole),
            "BytesIO": Contender(
                "bench.limits.bytes_io:collecting", {"chunk_bytes": CHUNK_BYTES, "count": count}
            ),
            "Queue": Contender("bench.peers.queue:collecting", fewer),
        },
        figure=per_second(count / 1e6),
        limit="BytesIO",
        goals=(Goal("BytesIO", 0.3), Goal("Queue", 15)),
    )
