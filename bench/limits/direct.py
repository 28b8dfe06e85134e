"""The same workers write their own files with `os.write`: no collector at all."""

import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection
from time import perf_counter

from bench import target


def _work(
    path: str, number: int, orders: Connection, chunk_bytes: int, count: int, *, resident: bool
) -> None:
    chunk = b"x" * chunk_bytes
    file = target.target(path, number, resident=resident)
    lap = max(1, target.RESIDENT_BYTES // chunk_bytes) if resident else count
    orders.send(True)
    while orders.recv():
        with file as fd:
            for begin in range(0, count, lap):
                if begin:
                    os.lseek(fd, 0, os.SEEK_SET)
                for _ in range(min(lap, count - begin)):
                    os.write(fd, chunk)
        orders.send(True)
        orders.recv()
        file.remove()
        orders.send(True)


def collecting(workers: int, chunk_bytes: int, count: int, *, resident: bool) -> Iterator[float]:
    """Let each worker write `count` chunks to its own file."""
    with target.directory() as path:
        orders: list[Connection] = []
        for number in range(workers):
            ours, theirs = multiprocessing.Pipe()
            orders.append(ours)
            multiprocessing.Process(
                target=_work,
                args=(path, number, theirs, chunk_bytes, count),
                kwargs={"resident": resident},
                daemon=True,
            ).start()
        _await(orders)
        while True:
            if not resident:
                target.warm(path, chunk_bytes * count * workers)
            start = perf_counter()
            _order(orders)
            _await(orders)
            seconds = perf_counter() - start
            _order(orders)
            _await(orders)
            yield seconds


def _order(workers: list[Connection]) -> None:
    for worker in workers:
        worker.send(True)


def _await(workers: list[Connection]) -> None:
    for worker in workers:
        worker.recv()
