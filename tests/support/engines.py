"""The engines that a Collector can have, for tests that hold for each of them."""

import importlib.util
import shutil
import tempfile
from contextlib import ExitStack
from typing import Any, Final, final

import pytest

from collector import Collector
from tests.support.sharedray import shared

HAS_RAY: Final = importlib.util.find_spec("ray") is not None
needs_ray: Final = pytest.mark.skipif(
    not HAS_RAY, reason="Ray is not installed: pip install -e '.[test,ray]'"
)

on_ray: Final = [pytest.mark.slow, needs_ray]
alone: Final = pytest.mark.xdist_group("Rays of their own")
"""For a test that starts a Ray: one such test at a time, beside those that join the shared one."""

each_engine: Final = pytest.mark.parametrize(
    "engine", ["local", pytest.param("ray", marks=[*on_ray, pytest.mark.ray])]
)


def kinds(engine: str) -> dict[str, Any]:
    """Return the arguments that a Collector by this engine has; by that for Ray, it joins ours."""
    if engine != "ray":
        return {"engine": engine}
    assert shared.address, "this test is to be marked: ray"
    return {"engine": engine, "address": shared.address}


def opened(engine: str, **options: Any) -> Collector:
    """Return a Collector with two workers by this engine; with an address, it joins that Ray."""
    by = {"engine": engine} if "address" in options else kinds(engine)
    return Collector(**{"max_workers": 2, "progress": False, **by, **options})


def with_a_ray_of_its_own(**options: Any) -> Collector:
    """Return a Collector with two workers that has started a Ray."""
    return Collector(**{"max_workers": 2, "progress": False, "engine": "ray", **options})


@final
class OneOnRay:
    """A Collector on the Ray that tests share: to join that takes as long as a hundred jobs.

    Its processes and descriptors are no test's own. A test that ends one of them has a Collector
    for itself.
    """

    def __init__(self) -> None:
        self.collector: Collector | None = None
        self._running = ExitStack()

    def start_if_needed(self, item: pytest.Item) -> None:
        """Start it if this test is on Ray and has the fixture `shared_collector`."""
        on_ray = item.get_closest_marker("ray") is not None
        if (
            self.collector is None
            and on_ray
            and "shared_collector" in getattr(item, "fixturenames", ())
        ):
            root = tempfile.mkdtemp(prefix="ct-")
            self._running.callback(shutil.rmtree, root)
            self.collector = self._running.enter_context(opened("ray", temp_root=root))
            # Whatever starts for the first job is there before a test looks at what is.
            assert list(self.collector.map(abs, range(-20, 0))) == list(range(20, 0, -1))

    def end(self) -> None:
        """End it; nothing of it is left."""
        self._running.close()


one_on_ray: Final = OneOnRay()
