"""What do the processes hold above idle, for one huge output, for many small ones, for a queue?"""

from collections.abc import Iterator

from bench.case import OURS, Case, Contender, Goal, Scale, times
from bench.target import MIB
from collector import settings

GIB = 1024 * MIB
_SLOTS = settings.SLOT_BYTES * settings.SLOT_COUNT // 2  # each end has half of what both map
ALLOWED = {"worker": _SLOTS, "sink": _SLOTS + settings.MEMORY_THRESHOLD_BYTES, "parent": 0}
"""Bytes besides which the goals hold: the slots, and the threshold of the job that runs."""
GOALS = tuple(
    Goal("", most, part=role) for role, most in (("worker", 2.0), ("sink", 4.0), ("parent", 2.0))
)
SAVED_BYTES = 20_000_000
SAVED_COUNT = 60


def cases(scale: Scale) -> Iterator[Case]:
    """Above idle; a job that waits; 60 outputs of 20 MB that are saved (20 of them quickly)."""
    size = scale.pick(5 * GIB, GIB // 2)
    count = scale.pick(100_000, 4_000)
    for name, load, arguments in (
        ("memory-one-output", "one_output", {"size": size}),
        ("memory-many-outputs", "many_outputs", {"count": count}),
    ):
        yield Case(
            name=name,
            unit="MiB",
            contenders={
                OURS: Contender(
                    "bench.memory:growth", {"load": load, "allowed": ALLOWED, **arguments}
                )
            },
            figure=times(1 / MIB),
            goals=GOALS,
            less_is_better=True,
            repetitions=scale.pick(3, 1),
            warm_up=False,
        )
    yield Case(
        name="memory-queued-job",
        unit="KiB",
        contenders={
            peer: Contender(
                "bench.memory:each_queued", {"peer": peer, "count": scale.pick(100_000, 10_000)}
            )
            for peer in (OURS, "ProcessPoolExecutor")
        },
        figure=times(1 / 1024),
        goals=(Goal("", 2.0),),
        less_is_better=True,
        repetitions=scale.pick(5, 1),
        warm_up=False,
    )
    saved = scale.pick(SAVED_COUNT, SAVED_COUNT // 3)
    peers = [OURS, "ProcessPoolExecutor", "multiprocessing.Pool"]
    if not scale.quick:
        peers += ["multiprocess.Pool", "loky", "joblib", "mpire", "pebble"]
    yield Case(
        name="memory-saved-outputs",
        unit="MiB",
        contenders={
            peer: Contender(
                "bench.memory:tree_peak", {"peer": peer, "size": SAVED_BYTES, "count": saved}
            )
            for peer in peers
        },
        figure=times(1 / MIB),
        less_is_better=True,
        repetitions=scale.pick(3, 1),
        warm_up=False,
    )
