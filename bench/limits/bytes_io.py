"""`io.BytesIO.write` in one process: no second process, no file."""

import io
from collections.abc import Iterator
from time import perf_counter


def collecting(chunk_bytes: int, count: int) -> Iterator[float]:
    """Write `count` chunks into memory."""
    chunk = b"x" * chunk_bytes
    while True:
        start = perf_counter()
        write = io.BytesIO().write
        for _ in range(count):
            write(chunk)
        yield perf_counter() - start
