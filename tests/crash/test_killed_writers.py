"""Faults 3 and 45: workers that are killed within a chunk, or because their time is up."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from collector import Collector, JobTimeoutError, WorkerCrashError, current_job
from tests.support.inside import sink_pid
from tests.support.jobs import KIB, MIB, numbered, one_chunk, sha256, square, wait_for
from tests.support.leaks import wait_until
from tests.support.tiers import each_method
from tests.support.tree import kill, waits_for_a_pipe

pytestmark = pytest.mark.usefixtures("one_server")


@each_method
def test_a_worker_killed_within_a_chunk_of_50_mb_stalls_no_other(
    method: str, tmp_path: Path
) -> None:
    with Collector(2, method) as collector:
        begun, until = tmp_path / "begun", tmp_path / "until"
        assert [job.result() for job in map(collector.submit, [square] * 2, [2, 3])] == [4, 9]
        job = collector.submit(announced_chunk, 50 * MIB, os.fspath(begun), os.fspath(until))
        wait_for(begun)
        sink = sink_pid(collector)
        assert sink is not None
        os.kill(sink, signal.SIGSTOP)  # the worker runs out of slots in the middle of its chunk
        until.touch()
        worker = int(begun.read_text())
        assert wait_until(lambda: waits_for_a_pipe(worker))
        kill(worker)
        os.kill(sink, signal.SIGCONT)
        error = job.exception(60)
        assert isinstance(error, WorkerCrashError)
        kept = job.output().read()
        assert len(kept) < 50 * MIB
        assert next(numbered(50 * MIB, 50 * MIB)).startswith(kept)
        assert not job.output().complete
        others = [collector.submit(numbered, 6 * MIB) for _ in range(2)]
        assert {sha256(other.output()) for other in others} == {sha256(numbered(6 * MIB))}
        for other in others:
            other.output().close()
        job.output().close()


def announced_chunk(size: int, begun: str, until: str) -> None:
    partial = f"{begun}.part"
    Path(partial).write_text(str(os.getpid()))
    os.rename(partial, begun)
    wait_for(until)
    one_chunk(size)


def write_for_ever(times: int) -> None:
    for number in range(1, times + 1):
        current_job().write(number.to_bytes(8, "little") * (KIB * 8))


@pytest.mark.slow
@each_method
def test_a_job_that_runs_out_of_time_while_it_writes_leaves_what_had_come(method: str) -> None:
    with Collector(1, method) as collector:
        assert collector.submit(square, 2).result() == 4
        assert collector.submit(write_for_ever, 1).exception() is None  # it has loaded this module
        before = threading.active_count()
        job = collector.with_options(timeout=0.5).submit(write_for_ever, 10**9)
        assert isinstance(job.exception(60), JobTimeoutError)
        output = job.output()
        assert not output.complete
        assert output.size > 0
        for number, block in enumerate(_blocks(output.open(), 64 * KIB), 1):
            assert block == (number.to_bytes(8, "little") * (KIB * 8))[: len(block)]
        assert collector.submit(square, 3).result() == 9
        assert threading.active_count() <= before
        output.close()


def _blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    with file:
        while block := file.read(size):
            yield block
