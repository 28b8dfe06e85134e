"""What does it cost to keep a batch, to continue one of a million jobs, and to ask how it stands?

Peers keep results as people do: `joblib.Memory`, and a file for each result, written by hand.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter
from typing import Any

from bench import target
from bench.case import OURS, Case, Contender, Goal, Scale, per_second
from collector import Collector
from collector.batch.collecting import what_of
from collector.batch.directory import BatchDirectory
from collector.batch.keys import Keys, key_text
from collector.batch.lines import Ended, Left, Packed, Run, encode

OUTPUT_BYTES = 1000
VALUE_BYTES = 5
MILLION = 1_000_000

JOBLIB, BY_HAND = "joblib.Memory", "files by hand"
FEWER = {JOBLIB: 200, BY_HAND: 20}
"""They get this part of the jobs: a million files would be most of what is measured."""


def kilobyte(number: int) -> bytes:
    """A job."""
    return number.to_bytes(4, "big") * (OUTPUT_BYTES // 4)


def writes(number: int) -> None:
    """The same, as a job of ours."""
    from collector import current_job

    current_job().write(kilobyte(number))


# -- storing ---------------------------------------------------------------------------------------


def storing(peer: str, count: int) -> Iterator[float]:
    """Yield the seconds in which `count` jobs run and are kept, with two workers."""
    keep = {OURS: _collect, JOBLIB: _joblib, BY_HAND: _files}[peer]
    with target.directory() as path:
        number = 0
        while True:
            number += 1
            yield keep(os.path.join(path, str(number)), count)


def _collect(path: str, count: int) -> float:
    with Collector(2, progress=False) as collector:
        list(collector.collect(writes, range(10), batch=f"{path}-warm"))
        start = perf_counter()
        for job in collector.collect(writes, range(count), batch=path, buffersize=512):
            assert job.exception() is None
        return perf_counter() - start


def _joblib(path: str, count: int) -> float:
    cached = _memory(path)
    start = perf_counter()
    for number in range(count):
        cached(number)
    return perf_counter() - start


def _memory(path: str) -> Callable[[int], bytes]:
    import joblib

    found: Callable[[int], bytes] = joblib.Memory(path, verbose=0).cache(kilobyte)
    return found


def _files(path: str, count: int) -> float:
    os.mkdir(path)
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(kilobyte, range(10)))
        start = perf_counter()
        for number, data in enumerate(pool.map(kilobyte, range(count), chunksize=16)):
            name = os.path.join(path, str(number))
            with open(f"{name}.part", "wb") as file:
                file.write(data)
            os.rename(f"{name}.part", name)
        return perf_counter() - start


# -- continuing ------------------------------------------------------------------------------------


def finished(path: str, count: int) -> None:
    """Make a directory with so many finished jobs, as a run would leave it."""
    what = what_of(writes)
    os.mkdir(path, 0o700)
    with BatchDirectory.open(path) as directory:
        directory.begin(what, 1.0)
    shard = os.path.join(path, "shard-0")
    os.mkdir(shard, 0o700)
    keys = Keys(what.name)
    size = OUTPUT_BYTES + VALUE_BYTES
    with open(os.path.join(shard, "journal.jsonl"), "wb", 1 << 20) as journal:
        journal.write(encode(Run(1, "host", 1.0, "1", "3", count, what.source)))
        for number in range(count):
            pack, at = divmod(number, MILLION)
            ended = Ended(
                keys.key(key_text(number)),
                1,
                "done",
                number,
                1000.0 + number,
                1000.5 + number,
                1 + number % 2,
                None,
                Packed(pack + 1, at * size, OUTPUT_BYTES),
                None,
                Packed(pack + 1, at * size + OUTPUT_BYTES, VALUE_BYTES),
                name=f"writes-{number + 1}",
                input=str(number),
            )
            journal.write(encode(ended))
        journal.write(encode(Left(2.0, "complete")))
    for pack in range(1, (count - 1) // MILLION + 2):
        with open(os.path.join(shard, f"pack-{pack:06}"), "wb") as file:
            file.truncate(MILLION * size)  # its bytes are not read


PROGRAM = """
import sys
from time import perf_counter
from bench.cases import batches
path, count, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
print(*getattr(batches, what)(path, count))
"""


def _in_a_new_process(path: str, count: int, what: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, str(count), what],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [float(figure) for figure in done.stdout.split()]


def iterate(path: str, count: int) -> tuple[float, float]:
    """Collect what is all there; return microseconds and bytes a job."""
    with Collector(2, progress=False) as collector:
        before = _resident()
        start = perf_counter()
        most = resumed = 0
        for job in collector.collect(writes, range(count), batch=path):
            resumed += job.resumed
            if resumed in {1, count}:
                most = max(most, _resident())
        took = perf_counter() - start
    assert resumed == count
    return took / count * 1e6, (most - before) / count


def ask(path: str, count: int) -> tuple[float, float]:
    """Do what `collector status` does; return microseconds a job, twice."""
    from collector import Batch

    start = perf_counter()
    with Batch.open(path) as batch:
        assert batch.status()["done"] == count
    took = (perf_counter() - start) / count * 1e6
    return took, took


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def continuing(peer: str, count: int, what: str) -> Iterator[dict[str, float]]:
    """Yield microseconds, and for ours bytes of memory, for each of `count` finished jobs."""
    with target.directory() as place:
        path = os.path.join(place, "batch")
        look = {OURS: None, JOBLIB: _memory, BY_HAND: _by_hand}[peer]
        if look is None:
            finished(path, count)
        else:
            fill: Callable[[str, int], Any] = _joblib if peer == JOBLIB else _files
            fill(path, count)
        while True:
            if look is None:
                took, memory = _in_a_new_process(path, count, what)
                yield {"time": took, "memory": memory}
                continue
            find = look(path)
            start = perf_counter()
            for number in range(count):
                assert find(number)
            yield {"time": (perf_counter() - start) / count * 1e6}


def _by_hand(path: str) -> Callable[[int], bool]:
    return lambda number: os.path.exists(os.path.join(path, str(number)))


def _contenders(function: str, count: int, **more: object) -> dict[str, Contender]:
    return {
        peer: Contender(
            f"bench.cases.batches:{function}",
            {"peer": peer, "count": count // FEWER.get(peer, 1), **more},
        )
        for peer in (OURS, JOBLIB, BY_HAND)
    }


def cases(scale: Scale) -> Iterator[Case]:
    """Outputs of 1 KB, and a million finished jobs (quickly: 20,000)."""
    stored = scale.pick(20_000, 2_000)
    yield Case(
        name="batch-store",
        unit="jobs/s",
        contenders={
            peer: Contender("bench.cases.batches:storing", {"peer": peer, "count": stored})
            for peer in (OURS, JOBLIB, BY_HAND)
        },
        figure=per_second(stored),
        goals=(Goal("", 5_000),),
        repetitions=scale.pick(5, 2),
    )
    count = scale.pick(MILLION, 20_000)
    yield Case(
        name="batch-continue",
        unit="us, B a job",
        contenders=_contenders("continuing", count, what="iterate"),
        goals=(Goal("", 10.0, part="time"), Goal("", 200.0, part="memory")),
        less_is_better=True,
        repetitions=scale.pick(3, 1),
        warm_up=False,
    )
    yield Case(
        name="batch-status",
        unit="us a job",
        contenders={
            OURS: Contender(
                "bench.cases.batches:continuing", {"peer": OURS, "count": count, "what": "ask"}
            )
        },
        goals=(Goal("", 5.0, part="time"),),
        less_is_better=True,
        repetitions=scale.pick(3, 1),
        warm_up=False,
    )
