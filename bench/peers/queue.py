"""`multiprocessing.Queue`: workers put chunks, one process takes them and writes the files."""

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

from bench import target


def _produce(number: int, orders: Connection, chunks: Any, chunk_bytes: int, count: int) -> None:
    chunk = b"x" * chunk_bytes
    put = chunks.put
    while orders.recv():
        for _ in range(count):
            put((number, chunk))
        put((number, None))


def _write(done: Connection, chunks: Any, path: str, workers: int, *, resident: bool) -> None:
    numbers = range(workers)
    targets = [target.target(path, number, resident=resident) for number in numbers]
    done.send(True)
    while done.recv():
        files = {number: targets[number].__enter__() for number in numbers}
        resident_put = [t.write if isinstance(t, target.Resident) else None for t in targets]
        _take(chunks, files, resident_put)
        for number in numbers:
            targets[number].__exit__()
        done.send(True)
        done.recv()
        for number in numbers:
            targets[number].remove()
        done.send(True)


def _take(chunks: Any, files: dict[int, int], resident_put: list[Any]) -> None:
    import os

    get = chunks.get
    left = len(files)
    while left:
        number, chunk = get()
        if chunk is None:
            left -= 1
        elif (put := resident_put[number]) is not None:
            put(chunk)
        else:
            os.write(files[number], chunk)


def collecting(
    workers: int, chunk_bytes: int, count: int, *, resident: bool, weight: int = 1
) -> Iterator[float]:
    """Bring the chunks through one queue, as everybody does who needs them in one process.

    Yields the seconds that `weight` times as many chunks would take.
    """
    chunks: Any = multiprocessing.Queue(maxsize=64)
    with target.directory() as path:
        orders = []
        for number in range(workers):
            ours, theirs = multiprocessing.Pipe()
            orders.append(ours)
            _start(_produce, number, theirs, chunks, chunk_bytes, count)
        done, theirs = multiprocessing.Pipe()
        _start(_write, theirs, chunks, path, workers, resident=resident)
        done.recv()
        while True:
            if not resident:
                target.warm(path, chunk_bytes * count * workers)
            done.send(True)
            start = perf_counter()
            for order in orders:
                order.send(True)
            done.recv()
            seconds = perf_counter() - start
            done.send(True)
            done.recv()
            yield seconds * weight


def _start(role: Any, *arguments: Any, **options: Any) -> None:
    multiprocessing.Process(target=role, args=arguments, kwargs=options, daemon=True).start()
