"""One forkserver for the Collectors of many tests, which are about something else than their start.

A Collector spends two thirds of its start and end on its server (0.1 s of processor time), which
forks for the next one just the same: with every request it is told the working directory, the
environment and the paths that hold at that moment. A file whose tests do without a server of each
Collector's own uses the fixture `one_server`. Those about the start or the end of processes, about
what a process inherits through exec, and about deaths of a server do not.

Runs in:    the process of pytest.
Owns:       the server, which the first such test starts and the end of the process ends.
Invariants: I1  the sink and the workers of each Collector are forked for it, and end with it, as
                ever: what they leave is still found after the test.
"""

from typing import final

from collector.process.start.forkserver import ForkServer
from collector.process.start.launcher import Launcher
from collector.process.start.methods import launcher_for


@final
class OneServer(ForkServer):
    """A forkserver that outlives its Collectors."""

    def __init__(self, model: ForkServer) -> None:
        """Start it, like one of these."""
        super().__init__(model._preload, model._spare)
        self.prepare()

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._server is not None
        return self._server.pid

    def prepare(self) -> None:
        """See `ForkServer.prepare`; it may have been prepared already, and have died since."""
        if self._server is not None and self._server.dead():
            super().close()
        if self._server is None:
            super().prepare()

    def close(self) -> None:
        """Leave it for the next Collector."""

    def end(self) -> None:
        """End the server."""
        super().close()

    def in_place_of_its_own(self, method: str) -> Launcher:
        """Return what starts the processes of a Collector: this, where that is to be a server."""
        own = launcher_for(method)
        return self if isinstance(own, ForkServer) else own
