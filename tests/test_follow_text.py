"""`follow(text=True)` gives whole characters, however the bytes were cut on their way."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collector import Collector, Job, WorkerCrashError, current_job
from tests.support.jobs import MIB, kill_self, wait_for
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")

each_kind = pytest.mark.parametrize("asynchronous", [False, True], ids=["for", "async for"])


def collecting(method: str = "forkserver") -> Collector:
    return Collector(1, method, progress=False)


def pieces_of(job: Job[Any], *, asynchronous: bool) -> Iterator[str]:
    """Follow a job one way or the other."""
    if not asynchronous:
        yield from job.follow(text=True)
        return

    async def all_of() -> list[str]:
        return [piece async for piece in job.follow(text=True)]

    yield from asyncio.run(all_of())


def one_large(text: str) -> None:
    """Write it in one chunk."""
    current_job().write(text)


def byte_by_byte(data: bytes, directory: str) -> None:
    """Write each byte and wait until a follower has had the time to see it."""
    for number in range(len(data)):
        current_job().write(data[number : number + 1])
        current_job().flush()
        wait_for(f"{directory}/{number}")


def then_die(data: bytes) -> None:
    """Write, hand over, be killed."""
    current_job().write(data)
    current_job().flush()
    kill_self()


@each_method
@each_kind
def test_no_piece_ends_within_a_character(method: str, asynchronous: bool) -> None:
    text = "a" + "世界" * MIB
    with collecting(method) as collector:
        job = collector.submit(one_large, text)
        pieces = list(pieces_of(job, asynchronous=asynchronous))
    assert len(pieces) > 5
    assert "".join(pieces) == text


def test_a_character_whose_bytes_come_one_by_one_is_given_when_it_is_whole(tmp_path: Path) -> None:
    text = "aé世🎬\r\n\ufeff!"
    data = text.encode()
    seen: list[str] = []
    with collecting() as collector:
        job = collector.submit(byte_by_byte, data, os.fspath(tmp_path))
        bytes_too, taken = iter(job.follow()), b""
        following = iter(job.follow(text=True))
        for number in range(len(data)):
            taken += next(bytes_too)
            assert taken == data[: number + 1]
            if taken.decode(errors="ignore") != "".join(seen):
                seen.append(next(following))
            (tmp_path / str(number)).touch()
        assert list(following) == []
    assert "".join(seen) == text
    assert all(len(piece) == 1 for piece in seen)
    assert "" not in seen


@each_kind
@pytest.mark.parametrize("cut", [1, 2])
def test_an_output_that_ends_within_a_character_is_the_error_of_text(
    asynchronous: bool, cut: int
) -> None:
    data = "whole 世".encode()[:-cut]
    with collecting() as collector:
        job = collector.submit(lambda: current_job().write(data))
        found: list[str] = []
        with pytest.raises(UnicodeDecodeError, match="unexpected end of data") as caught:
            found.extend(pieces_of(job, asynchronous=asynchronous))
        with pytest.raises(UnicodeDecodeError, match="unexpected end of data"):
            job.output().text()
        assert caught.value.__notes__[0].startswith("byte 6 of the output")


def test_what_is_no_text_says_where_that_is() -> None:
    with collecting() as collector:
        text = "é" * (3 * MIB)
        job = collector.submit(lambda: current_job().write(text.encode() + b"ab\xff"))
        found: list[str] = []
        with pytest.raises(UnicodeDecodeError, match="invalid start byte") as caught:
            found.extend(job.follow(text=True))
        assert text.startswith("".join(found))
        assert caught.value.__notes__[0].startswith(f"byte {6 * MIB + 2} of the output")
        assert b"".join(job.follow()) == text.encode() + b"ab\xff"


@each_method
@each_kind
def test_a_job_that_is_killed_within_a_character_gives_its_own_error(
    method: str, asynchronous: bool
) -> None:
    with collecting(method) as collector:
        job = collector.submit(then_die, "whole 世".encode()[:-1])
        following = pieces_of(job, asynchronous=asynchronous)
        found: list[str] = []
        with pytest.raises(WorkerCrashError):
            found.extend(following)
    assert found in ([], ["whole "])


def test_each_follower_has_its_own_place_in_the_text() -> None:
    text = "世" * MIB
    with collecting() as collector:
        job = collector.submit(one_large, text)
        following = job.follow(text=True)
        first, second = iter(following), iter(following)
        next(first)
        assert "".join(second) == text
        assert len("".join(first)) < len(text)
        assert "".join(following) == text


def test_the_name_of_an_encoding_is_refused() -> None:
    with collecting() as collector:
        job = collector.submit(one_large, "text")
        with pytest.raises(TypeError, match="text must be True, which is UTF-8, or False"):
            job.follow(text="latin-1")  # type: ignore[call-overload]
