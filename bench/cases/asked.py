"""Do those who ask a running Collector slow it down?

They are a process of their own: 1,000 connect at once and say nothing; then, ten times a second,
one asks what is being done and reads it, one asks and does not read, one says half a line and
stays, one says what is no question, and one sends as much of 100 MB as is taken.
"""

import contextlib
import functools
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from bench import ours, recycling, target
from bench.case import OURS, Case, Contender, Goal, Scale, per_second
from bench.target import MIB
from collector import Collector

CHUNK_BYTES = 64 * 1024
JOBS = 12
CROWD = 1000
_FLOOD = bytes(100 * MIB)
_EVERY_S = 0.1
_QUESTION = b'{"kind": "top"}\n'


def connected(run: str) -> socket.socket:
    """Connect to the Collector with this run directory."""
    end = socket.socket(socket.AF_UNIX)
    end.connect(os.path.join(run, "ask"))
    return end


def ask_and_read(run: str) -> None:
    """As `collector top` does."""
    with connected(run) as end:
        end.sendall(_QUESTION)
        if not end.recv(1 << 16).startswith(b'{"run"'):
            raise AssertionError("no answer")


def ask_and_do_not_read(run: str, kept: list[socket.socket]) -> None:
    """Ask, and leave the answer where it is."""
    kept.append(connected(run))
    kept[-1].sendall(_QUESTION)


def say_half(run: str, kept: list[socket.socket]) -> None:
    """Begin a question."""
    kept.append(connected(run))
    kept[-1].sendall(_QUESTION[:9])


def say(run: str, what: bytes) -> None:
    """Say what is no question."""
    with connected(run) as end, contextlib.suppress(ConnectionError):
        end.sendall(what)


def ask_on(run: str) -> None:
    """Ask until stdin ends; say so once all are there."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    kept = [connected(run) for _ in range(CROWD)]
    ask_and_read(run)
    print("asking", flush=True)
    while not over.wait(_EVERY_S):
        ask_and_read(run)
        ask_and_do_not_read(run, kept)
        say_half(run, kept)
        say(run, b"garbage\n")
        say(run, _FLOOD)


@contextlib.contextmanager
def being_asked(root: str) -> Iterator[None]:
    """Have the only Collector in this root be asked."""
    (run,) = (os.path.join(root, name) for name in os.listdir(root) if name.startswith("run-"))
    program = f"from bench.cases.asked import ask_on; ask_on({run!r})"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != b"asking\n":
            raise AssertionError("nobody asks")
        yield
        process.stdin.close()


def batch(kind: str, amount: int, *, asked: bool) -> Iterator[float]:
    """Yield the seconds of a batch with two workers.

    Args:
        kind: "chunks": of jobs that write so many bytes each; "jobs": of so many that do nothing.
        amount: How many.
        asked: Whether others ask meanwhile.
    """
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(target.directory())
        if kind == "chunks":
            stack.enter_context(recycling.recycled())  # the price of fresh pages hides it
        root = os.path.join(path, "root")
        collector = stack.enter_context(Collector(2, temp_root=root, progress=False))
        collector.submit(abs, 1).result()
        run: Callable[[], None] = functools.partial(
            write if kind == "chunks" else do_nothing, collector, amount
        )
        while True:
            with being_asked(root) if asked else contextlib.nullcontext():
                start = time.perf_counter()
                run()
                seconds = time.perf_counter() - start
            yield seconds


def write(collector: Collector, job_bytes: int) -> None:
    """Collect large outputs."""
    job_fn = functools.partial(ours.write, CHUNK_BYTES)
    for job in collector.collect(job_fn, [job_bytes // CHUNK_BYTES] * JOBS):
        job.output().close()


def do_nothing(collector: Collector, count: int) -> None:
    """Run tiny jobs."""
    for job in [collector.submit(abs, number) for number in range(count)]:
        job.result()


def cases(scale: Scale) -> Iterator[Case]:
    """The speed of a batch that is asked, against that of one that is not."""
    for kind, amount, unit, total in (
        ("chunks", scale.pick(128 * MIB, 16 * MIB), "GB/s", JOBS / 1e9),
        ("jobs", scale.pick(20_000, 1_000), "jobs/s", 1),
    ):
        yield Case(
            name=f"asked-{kind}",
            unit=unit,
            contenders={
                name: Contender(
                    "bench.cases.asked:batch", {"kind": kind, "amount": amount, "asked": asked}
                )
                for name, asked in ((OURS, True), ("not asked", False))
            },
            figure=per_second(total * amount),
            goals=(Goal("not asked", 0.97),),
            repetitions=scale.pick(31, 5),
        )
