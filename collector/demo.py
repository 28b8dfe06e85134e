"""`collector demo`: the main job on real input, with a crash, every byte checked in the end.

The largest modules of the interpreter's own standard library are tokenized in worker processes, one
job a module. One job kills its worker on its first attempt.

Runs in:    the parent; `tokenized` and `tokenize_module` in its workers.
Owns:       nothing that outlives `run_demo`.
"""

import argparse
import contextlib
import hashlib
import json
import os
import signal
import sys
import sysconfig
import time
import tokenize
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from collector import settings
from collector.crash_errors import BrokenCollectorError
from collector.executor.collector import Collector
from collector.executor.job import Job
from collector.process.worker.running import current_job
from collector.store.output.progress import Mode
from collector.store.rundir.reclaim import list_runs

_WORKERS: Final = 2
_MODULES: Final = 40
_NOT_READ: Final = frozenset({"site-packages", "dist-packages", "test", "tests"})
"""Packages of others, and the tests, which some systems leave out."""

_ALL_EQUAL: Final = 0
_DIFFERENT: Final = 1
_NO_SOURCE: Final = 2


class Module(NamedTuple):
    """A module of the standard library.

    Attributes:
        name: Its path in the standard library.
        path: Its source file.
        size: Bytes of it.
        kills: Whether the job's first attempt kills its worker.
    """

    name: str
    path: str
    size: int
    kills: bool = False


def run_demo(_arguments: argparse.Namespace) -> int:
    """Run the demo.

    Returns:
        The exit status: 0; 1 if an output differs from what it must be; 2 if there is no source to
        tokenize.
    """
    library = sysconfig.get_path("stdlib")
    modules = largest_modules(library)
    if not modules:
        print(f"collector: no source of the standard library in {library}", file=sys.stderr)
        return _NO_SOURCE
    modules[0] = modules[0]._replace(kills=True)
    print(f"Tokenizing the {len(modules)} largest modules of the standard library ...", flush=True)
    start_s = time.perf_counter()
    try:
        found = collect(modules)
    except BrokenCollectorError as error:
        print(f"collector: {error}", file=sys.stderr)
        return _DIFFERENT
    collected_s = time.perf_counter()
    print("Tokenizing them again without the collector, to compare ...", flush=True)
    differences = list(found.differences(modules))
    print()
    seconds = (collected_s - start_s, time.perf_counter() - collected_s)
    print_table(found.rows(len(modules), *seconds))
    for difference in differences:
        print(f"collector: {difference}", file=sys.stderr)
    if not differences:
        print("\nEvery output is equal, by SHA-256, to one made without the collector.")
    return _DIFFERENT if differences else _ALL_EQUAL


def largest_modules(library: str) -> list[Module]:
    """Return the largest modules of a library, the largest first."""
    modules: list[Module] = []
    for place, directories, files in os.walk(library):
        directories[:] = [name for name in directories if name not in _NOT_READ]
        sources = (os.path.join(place, file) for file in files if file.endswith(".py"))
        modules.extend(
            Module(os.path.relpath(path, library), path, os.path.getsize(path)) for path in sources
        )
    return sorted(modules, key=lambda module: (-module.size, module.path))[:_MODULES]


def tokenized(module: Module) -> Iterator[str]:
    """Yield each token of a module as one line of JSON."""
    with tokenize.open(module.path) as source:
        for token in tokenize.generate_tokens(source.readline):
            record: dict[str, Any] = {
                "module": module.name,
                "type": tokenize.tok_name[token.type],
                "exact_type": tokenize.tok_name[token.exact_type],
                "string": token.string,
                "start": {"line": token.start[0], "column": token.start[1]},
                "end": {"line": token.end[0], "column": token.end[1]},
                "source_line": token.line,
            }
            yield json.dumps(record) + "\n"


def tokenize_module(module: Module) -> Generator[str, None, tuple[int, int]]:
    """Yield a module's tokens: a job; returns its worker's pid and peak memory in bytes."""
    suicidal = module.kills and current_job().attempt == 1
    written = 0
    for record in tokenized(module):
        yield record
        written += len(record)
        if suicidal and written > module.size:  # somewhere in the middle: tokens are longer
            os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid(), peak_bytes(os.getpid())


@dataclass(slots=True)
class Found:
    """What came of the jobs."""

    digests: dict[str, str] = field(default_factory=dict)
    failures: dict[str, BaseException] = field(default_factory=dict)
    modes: Counter[Mode] = field(default_factory=Counter)
    bytes: int = 0
    again: int = 0
    peaks: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Of each process by its pid: what it is, and the most memory it held."""

    def take(self, job: Job[tuple[int, int]]) -> None:
        """Count a job that has ended; its output is read once and let go."""
        module: Module = job.args[0]
        self.again += job.attempt > 1
        with job.output() as output:
            error = job.exception()
            if error is not None:
                self.failures[module.name] = error
                return
            self.digests[module.name] = sha256(output)
            self.modes[output.mode] += 1
            self.bytes += output.size
        pid, peak = job.result()
        self.peaks[pid] = ("worker", peak)

    def differences(self, modules: Iterable[Module]) -> Iterator[str]:
        """Say what is not as it must be."""
        for module in modules:
            name = module.name
            if name in self.failures:
                yield f"the job of {name} failed: {self.failures[name]}"
            elif self.digests[name] != sha256(map(str.encode, tokenized(module))):
                yield f"the output of {name} differs from one made without the collector"
        if not self.again:
            yield "no job was run again, although one kills its worker"

    def rows(self, jobs: int, collecting_s: float, comparing_s: float) -> Iterator[tuple[str, str]]:
        """Return the rows of the table."""
        yield "jobs", f"{jobs}"
        yield "bytes", f"{self.bytes:,}"
        in_memory, on_disk = self.modes[Mode.MEMORY], self.modes[Mode.STREAMING]
        yield "in memory / on disk", f"{in_memory} / {on_disk}"
        yield "crashed and run again", f"{self.again}"
        for pid, (role, peak) in sorted(self.peaks.items(), key=lambda item: item[1][0]):
            megabytes = f"{peak / settings.MIB:.1f} MiB" if peak else "unknown"
            yield f"peak memory of the {role} {pid}", megabytes
        yield "seconds, collecting", f"{collecting_s:.1f}"
        yield "seconds, comparing", f"{comparing_s:.1f}"


def collect(modules: list[Module]) -> Found:
    """Tokenize the modules in worker processes."""
    found = Found()
    with Collector(_WORKERS, retries=1) as collector:
        for job in collector.collect(tokenize_module, modules, desc="tokenize"):
            found.take(job)
        for pid in processes_of_this_run():
            role = "parent" if pid == os.getpid() else "sink"
            found.peaks[pid] = (role, peak_bytes(pid))
    return found


def processes_of_this_run() -> list[int]:
    """Return the processes that have our run directory open: the parent and the sink."""
    runs = {run.path for run in list_runs() if run.pid == os.getpid()}
    pids = os.listdir("/proc") if os.path.isdir("/proc") else ()
    return [int(pid) for pid in pids if pid.isdecimal() and not runs.isdisjoint(opened(pid))]


def opened(pid: str) -> Iterator[str]:
    """Yield the paths that a process has open; none if it is somebody else's, or gone."""
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                yield os.readlink(f"/proc/{pid}/fd/{fd}")


def peak_bytes(pid: int) -> int:
    """Return the most resident memory that a process has had; 0 where the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/status") as status:
            facts = dict(line.split(":", 1) for line in status)
    except OSError:
        return 0
    return int(facts.get("VmHWM", "0").split()[0]) * settings.KIB


def sha256(pieces: Iterable[bytes]) -> str:
    """Return the SHA-256 of all pieces together."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def print_table(rows: Iterable[tuple[str, str]]) -> None:
    """Print rows of a name and a number."""
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, number in lines:
        print(f"{name:<{widths[0]}}  {number:>{widths[1]}}")
