"""Values that are pickled with one memo, some of which cannot be loaded."""

import contextlib
import gc
import io
import pickle
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.process.pickling.values import Values
from tests.support.jobs import Refuses

REFUSES = -1
SHARED = st.integers(0, 5)
VALUES = st.lists(st.lists(SHARED | st.just(REFUSES), max_size=4), min_size=1, max_size=8)


@given(VALUES)
def test_each_value_is_itself_unless_it_shares_what_was_not_made(values: list[list[int]]) -> None:
    objects: list[Any] = [[f"text {number}", f"more {number}"] for number in range(6)]
    refuses = Refuses(at_unpickle=("raise",))
    pickler = pickle.Pickler(file := io.BytesIO(), 5)
    begins = []
    for value in values:
        begins.append(file.tell())
        made = [refuses if number == REFUSES else [number, objects[number]] for number in value]
        pickler.dump([len(begins), *(f"text {number}" for number in range(6)), *made])

    loading = Values(file)
    loaded: dict[int, Any] = {}
    known: set[int] = set()
    lost: set[int] = set()
    for value, begin in zip(values, begins, strict=True):
        file.seek(begin)
        if REFUSES in value or lost.intersection(value):
            with pytest.raises(ZeroDivisionError):
                loading.load()
            lost.update(set(value) - known - {REFUSES})
            continue
        head, *texts = loading.load()
        assert head == begins.index(begin) + 1
        assert texts[:6] == [f"text {number}" for number in range(6)]
        for number, (again, one) in zip(value, texts[6:], strict=True):
            assert again == number
            assert one == objects[number]
            assert loaded.setdefault(number, one) is one
        known.update(value)


class Large:
    """What a part holds besides."""


def test_an_error_keeps_nothing_of_what_was_loaded() -> None:
    """A job that fails with it again and again made its worker grow, until a garbage collection."""
    pickler = pickle.Pickler(file := io.BytesIO(), 5)
    pickler.dump(large := Large())
    begin = file.tell()
    pickler.dump([large, Refuses(at_unpickle=("raise",))])
    file.seek(0)
    gc.disable()
    try:
        with contextlib.closing(Values(file)) as values:
            of_worker = values.load()
            kept = weakref.ref(of_worker), weakref.ref(values)
            file.seek(begin)
            with pytest.raises(ZeroDivisionError):
                values.load()
        del values, of_worker
        assert [one() for one in kept] == [None, None]
    finally:
        gc.enable()
