"""The questions, one file each: `cases(scale)` yields the `Case`s of a file."""

from collections.abc import Iterator
from importlib import import_module

from bench.case import Case, Scale

FILES = (
    "chunks",
    "direct_writers",
    "small_chunks",
    "chunk_sizes",
    "big_outputs",
    "commands",
    "run",
    "tiny_jobs",
    "latency",
    "follow",
    "bars",
    "asked",
    "startup",
    "orphans",
    "batches",
    "memory",
    "on_ray",
)


def all_cases(scale: Scale) -> Iterator[Case]:
    """Yield every case."""
    for name in FILES:
        yield from import_module(f"bench.cases.{name}").cases(scale)
