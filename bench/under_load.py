"""The parent of a tree of processes whose memory is watched (`bench/memory.py`).

It makes its pool, does a little of its load, so that all modules are loaded, says with
one line of JSON which its workers are, waits for a line, does its load, says so, waits for the end
of its stdin, and leaves.

Usage: python -m bench.under_load LOAD ARGUMENT...
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor

from bench import target
from bench.cases.big_outputs import CHUNK, pieces, whole
from bench.ours import Pool
from bench.peers import pool_of
from collector import Collector


def small(item: int) -> Iterator[bytes]:
    """A job with an output of 1 KiB."""
    yield item.to_bytes(8, "little") * 128


def wait_for(fifo: str) -> None:
    """A job that waits until somebody opens the other end."""
    with open(fifo, encoding="ascii"):
        pass


def say(word: object) -> None:
    """Say one line, and wait for one."""
    print(json.dumps(word), flush=True)
    sys.stdin.readline()


def one_output(size: int) -> None:
    """One job writes one large output."""
    with target.directory() as root, Collector(1, temp_root=root, progress=False) as collector:
        collector.submit(pieces, len(CHUNK)).output().close()
        say([collector.submit(os.getpid).result()])
        with collector.submit(pieces, size).output() as output:
            assert output.size == size // len(CHUNK) * len(CHUNK)
        say("done")


def many_outputs(count: int) -> None:
    """Many jobs write small outputs, each of which is read and closed."""
    with target.directory() as root, Collector(1, temp_root=root, progress=False) as collector:
        read_all(collector, 10)
        say([collector.submit(os.getpid).result()])
        read_all(collector, count)
        say("done")


def read_all(collector: Collector, count: int) -> None:
    """Read the outputs of so many jobs."""
    for job in collector.collect(small, range(count)):
        with job.output() as output:
            assert len(output.read()) == output.size


def queued(peer: str, count: int) -> None:
    """Many jobs wait behind one that runs."""
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(target.directory())
        fifo = os.path.join(root, "fifo")
        os.mkfifo(fifo)
        made: Executor = (
            Collector(1, temp_root=os.path.join(root, "root"), progress=False)
            if peer == "collector"
            else ProcessPoolExecutor(1)
        )
        executor = stack.enter_context(made)
        workers = [executor.submit(os.getpid).result()]
        first = executor.submit(wait_for, fifo)
        with open(fifo, "w", encoding="ascii"):
            say(workers)
            jobs = [executor.submit(abs, number) for number in range(count)]
            say("done")
            for job in jobs:
                job.cancel()
        first.result()


def saved(peer: str, size: int, count: int) -> None:
    """Outputs are saved to files as they come, the way the users of each pool do it."""
    with target.directory() as path, pool_of(peer, 2) as pool:
        say([pool.one(abs, 1)])
        if isinstance(pool, Pool):
            for number, output in enumerate(pool.outputs(pieces, [size] * count)):
                output.save(os.path.join(path, f"{number}.saved"))
        else:
            for number, data in enumerate(pool.all(whole, [size] * count)):
                with open(os.path.join(path, f"{number}.saved"), "wb") as file:
                    file.write(data)
                del data
        say("done")


LOADS: dict[str, Callable[..., None]] = {
    "one_output": one_output,
    "many_outputs": many_outputs,
    "queued": queued,
    "saved": saved,
}

if __name__ == "__main__":
    load, *arguments = sys.argv[1:]
    LOADS[load](*(int(a) if a.isdecimal() else a for a in arguments))
