"""The tiers of the tests, and which of them a test belongs to for its start method.

Everyday (no marker), `slow` and `campaign`; docs/contributing.md says what belongs where. A test
that runs under each start method is an everyday one under the default method, and a slow one under
the others, which differ from it in nothing else.
"""

from typing import Final

import pytest

from tests.support.jobs import METHODS

each_method: Final = pytest.mark.parametrize(
    "method",
    [METHODS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS[1:])],
)
each_method_in_one_tier: Final = pytest.mark.parametrize("method", METHODS)
"""For a test that is a slow one or a campaign under each method."""


def is_in_two_tiers(item: pytest.Item) -> bool:
    """Whether a test is marked for two tiers: each is run once, by one of them."""
    return {mark.name for mark in item.iter_markers()} >= {"slow", "campaign"}
