"""The tiers of the tests, and which of them a test belongs to for its start method.

Everyday (no marker), `slow` and `campaign`; docs/contributing.md says what belongs where. A test
that runs under each start method is an everyday one under the default method, and a slow one under
the others, which differ from it in nothing else. Where such a test has several cases, the other
methods take turns: each case is a slow test under one of them, and a campaign under the rest.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import pytest

from tests.support.jobs import METHODS

each_method: Final = pytest.mark.parametrize(
    "method",
    [METHODS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS[1:])],
)
each_method_in_one_tier: Final = pytest.mark.parametrize("method", METHODS)
"""For a test that is a slow one or a campaign under each method."""


def each_method_but(rare: str) -> pytest.MarkDecorator:
    """For a slow test of many seconds under each method: it is a campaign under this one."""
    return pytest.mark.parametrize(
        "method",
        [
            pytest.param(name, marks=pytest.mark.campaign if name == rare else pytest.mark.slow)
            for name in METHODS
        ],
    )


def everyday_are(some: Iterable[object], of: Iterable[object]) -> list[object]:
    """Parameters: all of these, of which only some are everyday tests and the others slow ones."""
    chosen = {*some}
    return [case if case in chosen else pytest.param(case, marks=pytest.mark.slow) for case in of]


def is_in_two_tiers(item: pytest.Item) -> bool:
    """Whether a test is marked for two tiers: each is run once, by one of them."""
    return {mark.name for mark in item.iter_markers()} >= {"slow", "campaign"}


def take_turns(items: Iterable[pytest.Item]) -> None:
    """Make campaigns of the slow tests whose case has its turn under another start method.

    Args:
        items: Of whole tests: a case is numbered by those before it.
    """
    cases: defaultdict[str, defaultdict[tuple[int, ...], list[tuple[str, pytest.Item]]]]
    cases = defaultdict(lambda: defaultdict(list))
    for item in items:
        method = _other_method(item)
        if method is not None:
            cases[item.nodeid.partition("[")[0]][_case(item)].append((method, item))
    for of_test in cases.values():
        for turn, case in enumerate(of_test.values() if len(of_test) > 1 else ()):
            for method, item in case:
                if METHODS[1 + turn % len(METHODS[1:])] != method:
                    _leave_to_campaigns(item)


def _case(item: pytest.Item) -> tuple[int, ...]:
    """Return what tells its other parameters from those of the same test's other cases."""
    params: dict[str, object] = item.callspec.params  # type: ignore[attr-defined]
    return tuple(id(value) for name, value in params.items() if name not in {"method", "kind"})


def _leave_to_campaigns(item: pytest.Item) -> None:
    item.own_markers[:] = [mark for mark in item.own_markers if mark.name != "slow"]
    item.add_marker(pytest.mark.campaign)


def _other_method(item: pytest.Item) -> str | None:
    """Return the start method of a test that is slow; None of an everyday one, or by the default.

    The tests of a file that is slow as a whole stay that.
    """
    if not any(mark.name == "slow" for mark in item.own_markers):
        return None
    params = item.callspec.params if hasattr(item, "callspec") else {}
    method = params.get("method", getattr(params.get("kind"), "method", None))
    return method if method in METHODS[1:] else None
