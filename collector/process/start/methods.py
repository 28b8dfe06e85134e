"""Choose what starts the processes of a Collector.

This module names those of the roles rather than loading them, so that a forkserver can be started
before the rest of the parent's code is loaded.

Runs in:    the parent.
Owns:       nothing.
"""

from importlib import import_module
from typing import Final

from collector.process.start.forkserver import ForkServer
from collector.process.start.former import collect_former
from collector.process.start.launcher import Launcher, has_pidfds
from collector.store.rundir.locks import loading

_ROLES: Final = ("collector.process.sink.main", "collector.process.worker.main")
_SINK: Final = "collector.process.sink.begin"
_PUMP: Final = "collector.integrations.ray.pump"


def launcher_for(method: str) -> Launcher:
    """Return what starts processes by this method; by spawn, where a forkserver has no pidfds.

    Raises:
        OSError: No descriptor is to be had.
    """
    collect_former()
    if method == ForkServer.method:
        if has_pidfds():
            return ForkServer(preload=_ROLES, spare=(_SINK, _PUMP))
        method = "spawn"
    with loading("collector.process.start.context"):
        from collector.process.start.context import DirectLauncher  # noqa: PLC0415 - multiprocess: 60 ms

    if method == "fork":
        for module in _ROLES:  # a child would have to load them, of which threads may be at it here
            with loading(module):
                import_module(module)
    return DirectLauncher(method)
