"""Which names are sent when, in which parts, and what a worker is told to load."""

import gc
import sys
import threading
import types
import weakref
from array import array
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from collector.process.pickling import script as script_module
from collector.process.pickling.script import Delivered, Parts, Script
from tests.support.jobs import square

NAME = "a_script_that_nobody_can_import"
SOURCE = """
FACTOR = 3
TABLE = [1]
LARGE = list(range(100_000))
OTHER = 7
class Shape:
    corners = 3
class Square(Shape):
    pass
ONE = Square()
def leaf():
    return FACTOR
def uses_table():
    return TABLE, leaf()
def uses_large():
    return LARGE
def uses_one():
    return ONE
def other():
    return OTHER
"""


@pytest.fixture
def module() -> Iterator[Any]:
    """A module that travels."""
    made = sys.modules[NAME] = types.ModuleType(NAME)
    exec(SOURCE, vars(made))
    yield made
    del sys.modules[NAME]


def pack(script: Script, fn: Any, *args: Any) -> Parts:
    return script.pack((fn, args, {}))[1]


def names(parts: Parts) -> list[set[str]]:
    return [{name for _, name in part.keys} for part in parts]


def told(delivered: Delivered, parts: Parts, before: int = 1) -> list[tuple[int, set[str]]]:
    by_number = {part.number: part for part in parts}
    return [
        (load.number, {by_number[load.number].keys[at][1] for at in array("Q", load.wanted)})
        for load in delivered.missing(parts, before)
    ]


def test_what_can_be_imported_needs_no_part() -> None:
    assert pack(Script(), square, 3, [square], {"key": ValueError}) == ()


def test_only_what_a_call_needs_is_sent_and_only_once(module: Any) -> None:
    script = Script()
    first = pack(script, module.uses_table)
    assert names(first) == [{"uses_table", "TABLE", "leaf", "FACTOR"}]
    assert pack(script, module.uses_table) is first
    assert pack(script, module.leaf) == first
    assert names(pack(script, module.other)) == [{"other", "OTHER"}]


def test_a_class_travels_with_what_it_is_made_of_and_with_arguments(module: Any) -> None:
    script = Script()
    assert names(pack(script, square, module.ONE)) == [{"Square", "Shape"}]
    assert names(pack(script, module.uses_one)) == [{"Square", "Shape"}, {"uses_one", "ONE"}]


@pytest.mark.parametrize(
    ("change", "sent"),
    [
        ("FACTOR = 4", {"FACTOR"}),
        ("FACTOR = 3", None),
        ("TABLE.append(2)", {"TABLE"}),
        ("TABLE = [1]", {"TABLE"}),
        ("OTHER = 8", None),
        ("def leaf(): return OTHER", {"leaf", "OTHER"}),
        ("def uses_table(): return 1", {"uses_table"}),
        ("leaf.mark = [1]", {"leaf"}),
        ("leaf.__defaults__ = (1,)", {"leaf"}),
        ("uses_table.__code__ = other.__code__", {"uses_table", "OTHER"}),
        ("import json as TABLE", {"TABLE"}),
        ("del TABLE", None),
    ],
)
def test_a_name_is_sent_again_when_it_is_another_object_or_its_content_has_changed(
    module: Any, change: str, sent: set[str] | None
) -> None:
    script = Script()
    before = pack(script, module.uses_table)
    exec(change, vars(module))
    after = pack(script, module.uses_table)
    new = tuple(part for part in after if part.number > before[-1].number)
    assert names(new) == ([] if sent is None else [sent])


def test_a_large_value_is_known_by_identity(module: Any) -> None:
    script = Script()
    before = pack(script, module.uses_large)
    module.LARGE.append(1)
    assert pack(script, module.uses_large) is before
    module.LARGE = list(module.LARGE)
    assert names(pack(script, module.uses_large))[1:] == [{"LARGE"}]


def test_what_is_of_a_class_that_was_made_anew_is_sent_with_it(module: Any) -> None:
    script = Script()
    pack(script, module.uses_one)
    exec("class Shape: pass", vars(module))
    assert names(pack(script, module.uses_one)) == [
        {"ONE", "Square", "Shape", "uses_one"},
        {"Square"},
    ]
    exec("class Square(Shape): pass\nONE = Square()", vars(module))
    assert names(pack(script, module.uses_one))[-1] == {"ONE", "Square", "Shape"}


def test_a_changed_class_is_sent_again_but_not_its_instances(module: Any) -> None:
    script = Script()
    pack(script, module.uses_one)
    module.Shape.corners = 4
    assert names(pack(script, module.uses_one))[1:] == [{"Shape"}]


def test_a_worker_is_told_what_it_lacks_and_of_an_older_call_its_own_version(module: Any) -> None:
    script = Script()
    old = pack(script, module.leaf)
    other = pack(script, module.other)
    module.FACTOR = 4
    new = pack(script, module.leaf)
    worker = Delivered()
    assert told(worker, old) == [(1, {"leaf", "FACTOR"})]
    assert told(worker, other) == [(2, {"other", "OTHER"})]
    assert told(worker, new) == [(3, {"FACTOR"})]
    assert told(worker, new) == told(worker, other) == []
    assert told(worker, old) == [(1, {"FACTOR"})]  # it was run again
    assert told(worker, new) == [(3, {"FACTOR"})]
    assert told(Delivered(), new) == [(1, {"leaf"}), (3, {"FACTOR"})]


def test_a_part_that_is_needed_late_undoes_no_newer_version(module: Any) -> None:
    script = Script()
    pack(script, module.uses_table)
    module.TABLE = [2]
    table = pack(script, module.uses_table)
    leaf = pack(script, module.leaf)  # comes with part 1, which has an older TABLE
    worker = Delivered()
    assert told(worker, table) == [(1, {"uses_table", "leaf", "FACTOR"}), (2, {"TABLE"})]
    assert told(worker, leaf) == []


def test_a_thousand_versions_of_a_function_cost_the_memory_of_one(module: Any) -> None:
    script = Script()
    parts = pack(script, module.leaf)
    first = weakref.ref(parts[0])
    for number in range(1000):
        exec(f"def leaf(): return FACTOR + {number}, {'x' * 1000!r}", vars(module))
        parts = pack(script, module.leaf)
    gc.collect()
    assert len(parts) == 2
    assert [part.number for part in parts] == [1, 1001]
    assert first() is not None  # it has FACTOR
    exec("FACTOR = 5", vars(module))
    parts = pack(script, module.leaf)
    gc.collect()
    assert [part.number for part in parts] == [1001, 1002]
    assert first() is None


def test_what_was_refused_is_refused_again_and_costs_no_other_call(module: Any) -> None:
    script = Script()
    exec(
        "import threading\nLOCK = threading.Lock()\ndef locks(): return LOCK, leaf()", vars(module)
    )
    for _ in range(2):
        with pytest.raises(TypeError, match=r"'LOCK' of \w+ that locks\(\) uses cannot be sent"):
            script.pack((module.locks, (), {}))
    assert names(pack(script, module.leaf)) == [{"leaf", "FACTOR"}]


@hypothesis_settings(max_examples=hypothesis_settings().max_examples // 3)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=12), st.data())
def test_any_order_of_calls_gives_each_the_versions_of_its_submit(
    steps: list[tuple[str, int]], data: st.DataObject
) -> None:
    """A worker that loads what it is told has, for each call, what was there at its submit."""
    made: Any = types.ModuleType(NAME)
    sys.modules[NAME] = made
    try:
        exec("a = b = c = d = 0\ndef ab(): a, b\ndef bc(): b, c\ndef cd(): c, d, ab", vars(made))
        script, calls = Script(), []
        for name, value in [*steps, ("a", 0)]:
            setattr(made, name, value)
            for fn in (made.ab, made.bc, made.cd):
                used = {n: getattr(made, n) for n in fn.__name__ + ("ab" if fn is made.cd else "")}
                calls.append((pack(script, fn), used))
        worker, has = Delivered(), dict[str, Any]()
        for parts, used in data.draw(st.permutations(calls)):
            values = {part.number: part for part in parts}
            for load in worker.missing(parts, 1):
                part = values[load.number]
                for at in array("Q", load.wanted):
                    has[part.keys[at][1]] = (load.number, at)
            for name in used:
                newest = max(p.number for p in parts if (NAME, name) in p.keys)
                assert has[name][0] == newest
    finally:
        del sys.modules[NAME]


class Guarded:
    """Data that is pickled under a lock, under which its owner hands out jobs, too."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked, self.held = threading.Event(), threading.Event()

    def __reduce__(self) -> tuple[Any, ...]:
        self.asked.set()
        assert self.held.wait(60)
        with self.lock:
            return dict, ()


def test_a_thread_may_submit_under_a_lock_that_pickling_in_another_one_waits_for(
    module: Any,
) -> None:
    script, guarded = Script(), Guarded()
    module.ONE = guarded
    packed: list[Parts] = []
    other = threading.Thread(
        target=lambda: packed.append(pack(script, module.uses_one)), daemon=True
    )
    other.start()
    assert guarded.asked.wait(60)
    with guarded.lock:
        guarded.held.set()
        mine = pack(script, module.uses_table)
    other.join(60)
    assert not other.is_alive()
    assert names(mine) == [{"uses_table", "leaf", "TABLE", "FACTOR"}]
    assert names(packed[0]) == [{"uses_one", "ONE"}]
    assert packed[0][0].number > mine[0].number


def test_a_handler_that_submits_does_not_wait_for_the_call_that_it_interrupts(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, by_handler = Script(), list[Parts]()

    def interrupted(*what: Any) -> script_module.Part:
        if not by_handler:
            by_handler.append(())
            by_handler[0] = pack(script, module.other)
        return Part(*what)

    Part = script_module.Part  # noqa: N806 - a class
    monkeypatch.setattr(script_module, "Part", interrupted)
    parts = pack(script, module.uses_table)
    assert names(by_handler[0]) == [{"other", "OTHER"}]
    assert names(parts) == [{"uses_table", "TABLE", "leaf", "FACTOR"}]
    assert pack(script, module.uses_table) == parts
    delivered = Delivered()
    assert [sent for _, sent in told(delivered, by_handler[0])] == [{"other", "OTHER"}]
    assert [sent for _, sent in told(delivered, parts)] == names(parts)
    assert [sent for _, sent in told(delivered, pack(script, module.other))] == [{"other", "OTHER"}]


def test_what_another_thread_has_sent_meanwhile_is_not_sent_again(module: Any) -> None:
    """It would replace what jobs have made of it in the worker."""
    script, asked = Script(), threading.Event()

    class Meddling:
        def __reduce__(self) -> tuple[Any, ...]:
            if not asked.is_set():
                asked.set()
                thread = threading.Thread(target=lambda: pack(script, module.leaf))
                thread.start()
                thread.join()
            return dict, ()

    module.TABLE = Meddling()
    parts = pack(script, module.uses_table)
    assert names(parts) == [{"leaf", "FACTOR"}, {"uses_table", "TABLE"}]
