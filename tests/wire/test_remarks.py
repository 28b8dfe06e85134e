"""Remarks: what a worker says of its job is believed only in its form."""

import json

import pytest

from collector.wire import remarks

NOTHING = remarks.Said()


def test_what_is_said_is_read() -> None:
    assert remarks.read(remarks.counted({"a": 1, "b": -0.5})).meters == {"a": 1, "b": -0.5}
    said = remarks.read(remarks.raised(["m.E", "builtins.Exception"], (2.5, "gpu")))
    assert said == remarks.Said({}, frozenset({"m.E", "builtins.Exception"}), (2.5, "gpu"))


@pytest.mark.parametrize(
    "number", ["1" + "0" * 400, "-1" + "0" * 400, "1" + "0" * 5000, "1e101", "NaN", "Infinity"]
)
def test_a_number_that_nobody_counts_to_is_not_believed(number: str) -> None:
    """The sums of all jobs are added up, whole numbers and others, in the supervising thread."""
    assert remarks.read(f'{{"meters": {{"n": {number}}}}}'.encode()) == NOTHING


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"[]", b"{", b"[" * 100_000, b'{"meters": 1}', b'{"meters": {"n": true}}'),
        *(b'{"kinds": [1]}', b'{"later": []}', b'{"later": [1, 2]}', b'{"later": ["1", "x"]}'),
    ],
)
def test_what_has_not_the_form_counts_as_not_said(text: bytes) -> None:
    assert remarks.read(text) == NOTHING


@pytest.mark.parametrize(("after", "believed"), [(-1, 0.0), (10**50, 1e9), (0.25, 0.25)])
def test_a_wait_is_within_bounds(after: float, believed: float) -> None:
    assert remarks.read(json.dumps({"later": [after, ""]}).encode()).later == (believed, "")
