"""Keys: one for each input, whatever else is run, and in every process the same."""

import enum
import subprocess
import sys
from collections import namedtuple
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.batch.keys import Keys, input_text, key_text, part_of
from collector.batch.states import TABLE, Event, Resume, State, moved, runs, why
from collector.errors import ProtocolError

Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - so are those of others
SEVEN: list[Any] = [1, 1.0, True, "1", Path("1"), ("1",), ["1"]]


class Number(enum.IntEnum):
    ONE = 1


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None, exclude_categories=()))
    | st.binary()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    """Whether two values are of one kind, all through, and equal."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return repr(one) == repr(other)  # 0.0 and -0.0 are two


def test_seven_inputs_that_look_alike_have_seven_keys() -> None:
    others = [b"1", Number.ONE, Pair("1", "2"), ("1", "2"), Decimal(1), Fraction(1), 1 + 0j, "1 "]
    others += [{"1": 1}, [1], [["1"]], [("1",)], None, "", b"", (), [], {}, -0.0, 0.0, 0, False]
    found = [key_text(value) for value in SEVEN + others]
    assert len(set(found)) == len(found)


def test_what_has_no_form_elsewhere_has_one_here() -> None:
    for value in (float("nan"), float("inf"), -float("inf"), b"\xff\0", "\ud800", 10**400):
        assert key_text(value) == key_text(value)


@pytest.mark.slow
@given(VALUES, VALUES)
def test_two_inputs_have_one_text_if_they_are_the_same(one: Any, other: Any) -> None:
    assert (key_text(one) == key_text(other)) == same(one, other)


@given(st.dictionaries(st.text(max_size=3), st.integers(), max_size=5))
def test_the_order_of_a_dict_decides_nothing(items: dict[str, int]) -> None:
    assert key_text(items) == key_text(dict(reversed(items.items())))


@given(VALUES, st.integers(0, 3))
def test_a_key_depends_on_what_is_run_and_on_repetitions(value: Any, earlier: int) -> None:
    text = key_text(value)
    keys = {Keys(what).key(text, number) for what in ("a:f", "a:g") for number in range(4)}
    assert len(keys) == 8
    assert Keys("a:f").key(text, earlier) in keys


def test_a_key_is_the_same_in_every_process_and_version() -> None:
    source = (
        "from collector.batch.keys import Keys, key_text; from pathlib import Path;"
        "print(Keys('m:f').key(key_text(({'b': 1, 'a': [2.5, None]}, Path('x/y'), b'z'))))"
    )
    here = Keys("m:f").key(key_text(({"a": [2.5, None], "b": 1}, PurePosixPath("x/y"), b"z")))
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", source],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == here


@pytest.mark.parametrize("value", [object(), {1, 2}, [1, {2}], {"a": object()}, len, iter("")])
def test_an_input_of_another_kind_is_refused_and_the_error_says_what_to_do(value: Any) -> None:
    with pytest.raises(TypeError, match="give key="):
        key_text(value)


def test_an_input_that_holds_itself_is_refused() -> None:
    round_and_round: list[Any] = []
    round_and_round.append(round_and_round)
    with pytest.raises(TypeError, match="contains itself"):
        key_text(round_and_round)


@given(st.lists(st.text(), unique=True, min_size=1), st.integers(1, 9))
def test_each_key_falls_into_one_part(texts: list[str], parts: int) -> None:
    for text in texts:
        key = Keys("m:f").key(key_text(text))
        assert 1 <= part_of(key, parts) <= parts
        assert part_of(key, 1) == 1


# -- states ----------------------------------------------------------------------------------------


def test_every_move_of_the_table_is_one_and_no_other() -> None:
    for state in State:
        for event in Event:
            if event in TABLE[state]:
                assert moved(state, event) is TABLE[state][event]
            else:
                with pytest.raises(ProtocolError, match=event.value):
                    moved(state, event)


def test_the_page_has_the_table_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/batch-directory.md").read_text()
    events = (Event.STARTED, Event.SUCCEEDED, Event.FAILED, Event.LOST)
    for state in State:
        cells = [TABLE[state][e].value if e in TABLE[state] else "" for e in events]
        row = " | ".join([state.value, *cells])
        assert f"| {row} |".replace("|  |", "| |") in page


@pytest.mark.parametrize("resume", Resume)
@pytest.mark.parametrize("state", State)
def test_the_reason_agrees_with_what_is_done(state: State, resume: Resume) -> None:
    sentence = why(state, resume, 2)
    assert sentence.startswith("runs: " if runs(state, resume) else "does not run: ")


class Shy:
    def __repr__(self) -> str:
        raise AttributeError("not yet")


@pytest.mark.parametrize(
    "value", [10**5000, (1, [-(10**5000)]), {"a": 10**5000}], ids=["int", "tuple", "dict"]
)
def test_a_number_that_python_does_not_write_needs_a_key_of_the_user_s(value: object) -> None:
    with pytest.raises(TypeError, match=r"more than 4300 digits has no key: give key="):
        key_text(value)


def test_what_cannot_be_written_is_an_input_all_the_same() -> None:
    assert input_text(10**5000) == "<int that cannot be written>"
    assert input_text((10**5000,)) == "<tuple that cannot be written>"
    assert input_text(Shy()) == "<Shy that cannot be written>"
