"""Judge what a Collector is told of Ray, and the Ray that is installed, before anything starts.

Runs in:    the parent, and `check_room` in the pump; Ray itself is not loaded here.
"""

import errno
import importlib.metadata
import os
import re
import resource
from collections.abc import Mapping
from typing import Any, Final

from collector.checks import number, text

LEAST: Final = (2, 60)
BELOW: Final = (2, 61)
"""The versions of Ray that were tested: pyproject.toml names the same."""

OPTIONS: Final = (
    "accelerator_type",
    "label_selector",
    "memory",
    "num_cpus",
    "num_gpus",
    "resources",
    "runtime_env",
    "scheduling_strategy",
)


_STRATEGIES: Final = ("DEFAULT", "SPREAD")

_ITS_OWN: Final = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
"""What Ray counts itself, and which option asks for it."""

_SPARE_DESCRIPTORS: Final = 64
"""Of the pump, beside one for each worker: what Ray opens later."""


def check_version() -> None:
    """See whether there is a Ray, of a version that was tested.

    Raises:
        ImportError: There is none, or of another version.
    """
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        raise ModuleNotFoundError(
            "engine=\"ray\" needs Ray, which is not installed: pip install 'collector[ray]'",
            name="ray",
        ) from None
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if not LEAST <= numbers < BELOW:
        raise ImportError(
            f'engine="ray" was tested with Ray from {_dotted(LEAST)} to before '
            f"{_dotted(BELOW)}, and {version} is installed: pip install 'collector[ray]'",
            name="ray",
        )


def check_address(address: str | None) -> None:
    """See whether jobs can be streamed from there.

    Raises:
        ValueError: It is empty, or that of a Ray client.
    """
    if address is None:
        return
    if address.startswith("ray://"):
        raise ValueError(
            f"address {address!r} is that of a Ray client, which cannot stream what jobs write: "
            'run this program inside the cluster (ray job submit) with address="auto"'
        )
    told = os.environ.get("RAY_ADDRESS", "")
    if address == "auto" and "://" in told:
        raise ValueError(
            f'address "auto" is what RAY_ADDRESS in the environment says, {told!r}, from where '
            "nobody can stream what jobs write: run this program inside the cluster "
            "(ray job submit), and unset RAY_ADDRESS if it is there"
        )
    if address != "auto" and not re.fullmatch(r"\[?[^\s/\]]+\]?:[0-9]{1,5}", address):
        raise ValueError(f'address must be "host:port", "auto" or None, not {address!r}')


def check_options(options: Mapping[str, Any]) -> None:
    """See whether each is one that a job may ask of Ray.

    Raises:
        ValueError: One is not, or asks for less than nothing.
        TypeError: One is of a wrong type.
    """
    for name, value in options.items():
        if name not in OPTIONS:
            raise ValueError(f"ray_options has {name!r}, and may have {', '.join(OPTIONS)}")
        if name in ("num_cpus", "num_gpus", "memory"):
            number(f"{name} of ray_options", value)
        if name in ("resources", "runtime_env", "label_selector") and not isinstance(
            value, Mapping
        ):
            raise TypeError(f"{name} of ray_options must be a dict, not {value!r}")
        if name == "accelerator_type":
            text("accelerator_type of ray_options", value)
    _check_what_ray_checks_late(options)
    for name, value in options.get("resources", {}).items():
        _check_resource(name, value)


def _check_what_ray_checks_late(options: Mapping[str, Any]) -> None:
    """See to what Ray refuses only of each task."""
    gpus, strategy = options.get("num_gpus", 0), options.get("scheduling_strategy")
    if gpus > 1 and gpus % 1:
        raise ValueError(f"num_gpus of ray_options must be whole where it is above 1, not {gpus}")
    if isinstance(strategy, str) and strategy not in _STRATEGIES:
        known = " or ".join(map(repr, _STRATEGIES))
        raise ValueError(
            f"scheduling_strategy of ray_options must be {known}, or an object of Ray's, not "
            f"{strategy!r}"
        )


def _check_resource(name: object, amount: object) -> None:
    text("the name of a resource of ray_options", name)
    if name in _ITS_OWN:
        raise ValueError(f"resources of ray_options has {name!r}: give {_ITS_OWN[name]} instead")
    number(f"resource {name!r} of ray_options", amount)


def check_room(workers: int) -> None:
    """See whether this process, the pump, may have a descriptor for each worker.

    Raises:
        OSError: Its limit leaves no room for so many.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = most - len(os.listdir("/proc/self/fd")) - _SPARE_DESCRIPTORS
    if most != resource.RLIM_INFINITY and workers > room:
        raise OSError(
            errno.EMFILE,
            f"the limit of open files (ulimit -Hn: {most}) has room for {max(0, room)} jobs at "
            f"once, not for {workers}: raise it, or give a smaller max_workers",
        )


def cpus_of(options: Mapping[str, Any]) -> float:
    """Return how many CPUs a job asks for; one, if nothing is said."""
    return float(options.get("num_cpus", 1))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
