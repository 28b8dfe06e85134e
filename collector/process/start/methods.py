"""Choose what starts the processes of a Collector.

This module names those of the roles rather than loading them, so that a forkserver can be started
before the rest of the parent's code is loaded.

Runs in:    the parent.
Owns:       nothing.
"""

from typing import Final

from collector.process.start.forkserver import ForkServer
from collector.process.start.former import collect_former
from collector.process.start.launcher import Launcher, has_pidfds

_SINK: Final = "collector.process.sink.main"
_WORKER: Final = "collector.process.worker.main"
_PUMP: Final = "collector.integrations.ray.pump"


def launcher_for(method: str) -> Launcher:
    """Return what starts processes by this method; by spawn, where a forkserver has no pidfds.

    Raises:
        OSError: No descriptor is to be had.
    """
    collect_former()
    if method == ForkServer.method:
        if has_pidfds():
            return ForkServer(preload=(_SINK, _WORKER), spare=(_SINK, _PUMP))
        method = "spawn"
    from collector.process.start.context import DirectLauncher  # noqa: PLC0415 - multiprocess: 60 ms

    return DirectLauncher(method)
