"""How does the size of the chunks matter? For the plot; only a full run asks it."""

from collections.abc import Iterator

from bench.case import Case, Scale, per_second
from bench.cases.chunks import contenders
from bench.target import MIB

SIZES = (1024, 4096, 16 * 1024, 64 * 1024, 256 * 1024, MIB, 16 * MIB)
_MOST = 512 * MIB
_MOST_CHUNKS = 100_000


def cases(scale: Scale) -> Iterator[Case]:
    """One worker, fresh files."""
    for size in () if scale.quick else SIZES:
        count = min(_MOST_CHUNKS, _MOST // size)
        yield Case(
            name=f"chunk-size-{size}",
            unit="GB/s",
            contenders=contenders(1, size, count, resident=False),
            figure=per_second(size * count / 1e9),
            limit="direct",
        )
