"""Choose what starts the processes of a Collector.

It is apart from what is told to them, and names their modules rather than loading them, so that a
forkserver can be started before anything else of the parent's is loaded.

Runs in:    the parent.
Owns:       nothing.
"""

from typing import Final

from collector.process.engine import Launcher, has_pidfds
from collector.process.forkserver import ForkServer

_SINK: Final = "collector.process.sink"
_WORKER: Final = "collector.process.worker"


def launcher_for(method: str) -> Launcher:
    """Return what starts processes by this method; by spawn, where a forkserver has no pidfds.

    Raises:
        OSError: No descriptor is to be had.
    """
    if method == ForkServer.method:
        if has_pidfds():
            return ForkServer(preload=(_SINK, _WORKER), spare=_SINK)
        method = "spawn"
    from collector.process.context import DirectLauncher  # noqa: PLC0415 - multiprocess: 60 ms

    return DirectLauncher(method)
