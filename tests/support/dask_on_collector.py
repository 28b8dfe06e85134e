"""A plugin of pytest for dask's own tests: each runs with a Collector, as scheduler and as pool.

`-p tests.support.dask_on_collector`; what does not apply is deselected by `NOT_OURS`.
"""

from collections.abc import Iterator
from typing import Final

import dask
import pytest

from collector import Collector

_OWN_POOL: Final = "sets up the pool that dask makes for itself when it is given none"

NOT_OURS: Final = {
    "test_process_initializer": _OWN_POOL,
    "test_custom_context_used_python3_posix": _OWN_POOL,
    "test_custom_context_ignored_elsewhere": _OWN_POOL,
    "test_traverse_false": "asks for the very object back: no process pool can give it",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what does not apply."""
    items[:] = [item for item in items if item.name.partition("[")[0] not in NOT_OURS]


@pytest.fixture(autouse=True, params=["scheduler", "pool"])
def _on_a_collector(request: pytest.FixtureRequest) -> Iterator[None]:
    with Collector(2, progress=False) as collector, dask.config.set({request.param: collector}):
        yield
