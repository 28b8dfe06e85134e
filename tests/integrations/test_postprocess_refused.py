"""What a finished text cannot hold is refused with an error that names it."""

import dataclasses
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from collector.integrations.postprocess import Transform, collapse_blank_runs, finalize_processing
from tests.integrations.finished_texts import files_in, kept, manager_of


def gives(line: Any) -> Transform:
    def replace(lines: Iterator[str]) -> Iterator[Any]:
        yield next(lines)
        yield line

    return replace


@pytest.mark.parametrize("more", [(), (collapse_blank_runs,)], ids=["last", "before another"])
@pytest.mark.parametrize("line", [None, b"bytes", 3, ["a list"]], ids=repr)
def test_a_line_that_is_no_text_is_refused_by_name(
    source: Path, line: Any, more: Sequence[Transform]
) -> None:
    message = rf"the transform replace gave a line that is {type(line).__name__}, not str"
    with pytest.raises(TypeError, match=message) as caught:
        finalize_processing(
            None,
            streaming_manager=manager_of(b"text\n"),
            file_path=source,
            transforms=[gives(line), *more],
        )
    assert kept(caught.value) == b"text\n"
    assert files_in(source.parent) == {"talk.mp4"}


def test_half_a_character_is_refused_with_its_line(source: Path) -> None:
    with pytest.raises(ValueError, match=r"line 2 .* half a character: 'x.ud83d'") as caught:
        finalize_processing(
            None,
            streaming_manager=manager_of(b"text\n"),
            file_path=source,
            transforms=[gives("x\ud83d")],
        )
    assert kept(caught.value) == b"text\n"
    assert files_in(source.parent) == {"talk.mp4"}


def nested(depth: int) -> list[Any]:
    result: list[Any] = []
    for _ in range(depth):
        result = [result]
    return result


@dataclasses.dataclass
class Slotted:
    """A dataclass whose field may have no value."""

    __slots__ = ("unset",)
    unset: int


@dataclasses.dataclass
class Ring:
    """A dataclass that may hold itself."""

    other: Any = None


def ring() -> Ring:
    first = Ring()
    first.other = Ring(first)
    return first


@pytest.mark.parametrize(
    ("base_result", "why"),
    [
        (nested(100_000), "nested too deep"),
        (ring(), "(Circular|nested too deep)"),
        ({"a": Slotted.__new__(Slotted)}, "Slotted has no value for its field unset"),
        (10**5000, "limit"),
        ({"speakers": {1: "Ann", "1": "Ben"}}, "two keys of a dict are both '1'"),
    ],
    ids=["very deep", "a ring", "an unset slot", "a long number", "two keys that become one"],
)
def test_a_result_that_cannot_be_written_is_refused_before_anything_is_done(
    source: Path, base_result: Any, why: str
) -> None:
    with manager_of(b"text") as manager:
        with pytest.raises(TypeError, match=f"base_result cannot be written as JSON: .*{why}"):
            finalize_processing(base_result, streaming_manager=manager, file_path=source)
        manager.write(b"it is still open")
    assert files_in(source.parent) == {"talk.mp4"}


ROOM = 200


def test_a_result_of_any_depth_is_written_or_refused_before_anything_is_done(source: Path) -> None:
    ours, usual = len(inspect.stack(0)), sys.getrecursionlimit()
    how = []
    for depth in [*range(ROOM - 100, ROOM, 3), 100_000]:  # how much is too much differs by version
        with manager_of(b"text") as manager:
            sys.setrecursionlimit(ours + ROOM)  # with the usual one it takes ten times as long
            try:
                finalize_processing(
                    nested(depth), streaming_manager=manager, file_path=source, overwrite=True
                )
            except TypeError:
                how.append("refused")
                manager.write(b"it is still open")
            else:
                how.append("written")
            finally:
                sys.setrecursionlimit(usual)
    assert list(dict.fromkeys(how)) == ["written", "refused"]
