"""What a job writes arrives exactly, whatever its size and however it is cut into chunks."""

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import as_completed
from pathlib import Path

import pytest

from collector import ClosedError, Collector, Mode, Output, current_job
from tests.support.jobs import (
    KIB,
    METHODS,
    MIB,
    changed_after_write,
    kept_busy,
    numbered,
    one_chunk,
    random_chunks,
    sha256,
    single_bytes,
    square,
    write_pieces,
)
from tests.support.tiers import each_method, each_method_but, each_method_in_one_tier

pytestmark = pytest.mark.usefixtures("one_server")

ANY_SIZE = [
    pytest.param(0, id="0 B"),
    pytest.param(1, id="1 B"),
    pytest.param(5 * MIB - 1, id="5 MiB - 1"),
    pytest.param(5 * MIB, id="5 MiB"),
    pytest.param(5 * MIB + 1, id="5 MiB + 1"),
    pytest.param(256 * MIB, id="256 MiB", marks=pytest.mark.slow),
]


def digest(output: Output) -> str:
    """The digest of an output, read in blocks."""
    return sha256(iter(output))


@each_method
@pytest.mark.parametrize("size", ANY_SIZE)
def test_an_output_of_any_size_arrives_exactly_and_in_the_right_mode(
    method: str, size: int
) -> None:
    with Collector(2, method) as collector:
        job = collector.submit(numbered, size)
        output = job.output()
    assert job.result() == size
    assert (output.size, len(output)) == (size, size)
    assert output.mode is (Mode.STREAMING if size >= 5 * MIB else Mode.MEMORY)
    assert (output.path is None) is (output.mode is Mode.MEMORY)
    assert output.chunks == len(range(0, size, MIB))
    assert output.complete
    assert digest(output) == sha256(numbered(size))
    output.close()


@pytest.mark.campaign
@each_method_in_one_tier
def test_an_output_of_one_gib_arrives_exactly(method: str) -> None:
    test_an_output_of_any_size_arrives_exactly_and_in_the_right_mode(method, 1024 * MIB)


@pytest.mark.parametrize("chunk_size", [1000, 16 * KIB - 1, 16 * KIB, 64 * KIB + 1, 3 * MIB])
def test_the_mode_depends_on_the_bytes_alone_and_not_on_the_chunks(chunk_size: int) -> None:
    threshold = 128 * KIB
    with Collector(2, memory_threshold=threshold) as collector:
        for size in (threshold - 1, threshold, threshold + 1):
            output = collector.submit(numbered, size, chunk_size).output()
            assert output.mode is (Mode.MEMORY if size < threshold else Mode.STREAMING)
            assert output.read() == b"".join(numbered(size, chunk_size))
            assert output.chunks == len(range(0, size, chunk_size))


def test_a_threshold_beyond_every_size_keeps_every_output_in_memory() -> None:
    with Collector(1, memory_threshold=10**30) as collector:
        output = collector.submit(numbered, 6 * MIB).output()
        assert output.mode is Mode.MEMORY
        assert output.size == 6 * MIB


def test_a_threshold_of_0_puts_every_output_into_a_file() -> None:
    with Collector(1, memory_threshold=0) as collector:
        assert collector.submit(numbered, 1).output().mode is Mode.STREAMING
        in_memory = collector.with_options(memory_threshold=10)
        assert in_memory.submit(numbered, 1).output().mode is Mode.MEMORY


TEXT = "a\u00e9\u20ac\U0001f600\n\u00df"


@each_method
def test_text_goes_as_utf_8_also_when_a_character_straddles_two_chunks(method: str) -> None:
    encoded = TEXT.encode()
    splits: list[list[bytes | str]] = [
        [encoded[:cut], encoded[cut:]] for cut in range(len(encoded) + 1)
    ]
    splits += [list(TEXT), [encoded[i : i + 1] for i in range(len(encoded))], ["", TEXT, ""]]
    with Collector(1, method) as collector:
        for pieces in splits:
            job = collector.submit(write_pieces, pieces)
            assert job.result() == len(encoded)
            assert job.output().text() == TEXT
            assert list(job.output().lines()) == ["a\u00e9\u20ac\U0001f600", "\u00df"]
            assert job.output().chunks == len(pieces)


def test_a_character_that_straddles_the_switch_to_a_file_and_a_slot_is_whole() -> None:
    text = "\u20ac" * (600 * KIB)  # of 3 bytes each: no border of ours is a multiple of that
    with Collector(1, memory_threshold=MIB) as collector:
        job = collector.submit(write_pieces, [text[:1000], text[1000:]])
        assert job.output().text() == text
        assert job.output().mode is Mode.STREAMING


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "fork" else pytest.mark.campaign)
        for name in METHODS
    ],
)
def test_10_million_chunks_of_one_byte_arrive(method: str) -> None:
    count = 10_000_000
    with Collector(1, method) as collector:
        output = collector.submit(single_bytes, count).output()
        assert collector.submit(square, 3).result() == 9
    assert (output.size, output.chunks, output.mode) == (count, count, Mode.STREAMING)
    expected = (bytes(range(256)) * (count // 256 + 1))[:count]
    assert digest(output) == hashlib.sha256(expected).hexdigest()
    output.close()


@pytest.mark.slow
@each_method
def test_a_million_empty_chunks_are_counted(method: str) -> None:
    with Collector(1, method) as collector:
        output = collector.submit(empty_chunks, 1_000_000).output()
        assert collector.submit(square, 3).result() == 9
    assert (output.size, output.chunks, output.mode) == (0, 1_000_000, Mode.MEMORY)


def empty_chunks(count: int) -> None:
    write_pieces(b"" for _ in range(count))


@each_method
def test_one_chunk_of_100_mb_arrives(method: str) -> None:
    size = 100_000_000
    with Collector(1, method) as collector:
        job = collector.submit(one_chunk, size)
        output = job.output()
        assert collector.submit(square, 3).result() == 9
    assert job.result() == size
    assert (output.size, output.chunks, output.mode) == (size, 1, Mode.STREAMING)
    assert digest(output) == sha256(numbered(size, size))
    output.close()


@pytest.mark.parametrize("size", [1, 100, 16 * KIB - 1, 16 * KIB, 256 * KIB + 1, 2 * MIB])
@each_method
def test_a_bytearray_that_is_changed_right_after_its_write_arrives_as_it_was(
    method: str, size: int
) -> None:
    with Collector(1, method) as collector:
        job = collector.submit(changed_after_write, size, 10)
        assert digest(job.output()) == job.result()
        assert collector.submit(square, 3).result() == 9


def write_in_two_threads(size: int) -> None:
    job = current_job()

    def write(letter: bytes, amount: int) -> None:
        for start in range(0, amount, 1000):
            job.write(letter * min(1000, amount - start))

    halves = (b"a", size // 2), (b"b", size - size // 2)
    threads = [threading.Thread(target=write, args=half) for half in halves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@each_method
@pytest.mark.parametrize("size", [5 * MIB - 1, 5 * MIB, 5 * MIB + 1])
def test_an_output_of_two_writers_is_read_at_its_end_and_closed_twice(
    method: str, size: int, tmp_path: Path
) -> None:
    with Collector(1, method) as collector:
        with kept_busy(collector, 1, tmp_path):
            job = collector.submit(write_in_two_threads, size)
            with pytest.raises(TimeoutError):
                job.output(timeout=0.01)
        output = job.output()
        assert output.mode is (Mode.STREAMING if size >= 5 * MIB else Mode.MEMORY)
        data = output.read()
        assert (data.count(b"a"), data.count(b"b")) == (size // 2, size - size // 2)
        output.close()
        output.close()
        with pytest.raises(ClosedError):
            output.read()
        assert collector.submit(square, 3).result() == 9


def written_by(collector: Collector, seed: int) -> Callable[[], None]:
    """Submit a job of random chunks; return a check of its output."""
    count = seed % 9
    job = collector.submit(random_chunks, seed, count, 3 * MIB, 0.01)

    def check() -> None:
        output = job.output()
        assert digest(output) == job.result() == sha256(random_chunks(seed, count, 3 * MIB))
        assert output.chunks == job.progress.chunks_processed == count
        assert output.size == job.progress.bytes_written
        assert output.mode is (Mode.STREAMING if output.size >= 5 * MIB else Mode.MEMORY)
        output.close()

    return check


@each_method_but("spawn")
def test_300_jobs_over_4_workers_with_random_chunks_and_pauses_are_all_exact(method: str) -> None:
    with Collector(4, method) as collector:
        checks = [written_by(collector, seed) for seed in range(300)]
        for check in checks:
            check()


def test_two_collectors_at_once_do_not_meet() -> None:
    with Collector(2) as one, Collector(2, "spawn") as other:
        jobs = [
            collector.submit(random_chunks, seed, 5, 100 * KIB)
            for seed in range(20)
            for collector in (one, other)
        ]
        for job in as_completed(jobs):
            assert digest(job.output()) == job.result()  # type: ignore[attr-defined]
        assert {job.id for job in jobs} == set(range(1, 21))


@each_method
def test_outputs_stay_readable_after_shutdown_and_go_when_they_are_closed(method: str) -> None:
    collector = Collector(1, method)
    small, large = collector.submit(numbered, 10), collector.submit(numbered, 6 * MIB)
    collector.shutdown()
    assert small.output().read() == b"".join(numbered(10))
    path = large.output().path
    assert path is not None
    assert path.stat().st_size == 6 * MIB
    with large.output() as output:
        assert digest(output) == sha256(numbered(6 * MIB))
    assert not path.exists()
    assert not path.parent.exists()
