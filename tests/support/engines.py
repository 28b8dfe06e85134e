"""The engines that a Collector can have, for tests that hold for each of them."""

import importlib.util
from typing import Any, Final

import pytest

from collector import Collector
from tests.support.sharedray import shared

HAS_RAY: Final = importlib.util.find_spec("ray") is not None
needs_ray: Final = pytest.mark.skipif(
    not HAS_RAY, reason="Ray is not installed: pip install -e '.[test,ray]'"
)

on_ray: Final = [pytest.mark.slow, needs_ray, pytest.mark.xdist_group("ray")]
"""All in one process of pytest: they share what Ray needs seconds for, and both cores."""

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
