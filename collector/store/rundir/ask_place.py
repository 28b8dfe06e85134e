"""Where a Collector can be asked: the socket in its run directory, and the entry that names that.

A run directory in a `temp_root` is found by nobody who does not know that root: an entry in the
default root, which is a run directory itself, names it.

Runs in:    the parent: `open` in the thread that submits the first job, `close` in the settling
            one, the others in the supervising or, while somebody asks, in the answering one.
Owns:       the socket and the entry, from `open` to `close`.
Invariants: I1  where one of them cannot be made, the Collector runs without it.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Final, final

from collector.logger import PackageLogger
from collector.store.rundir.ask_socket import AskSocket
from collector.store.rundir.current_directory import CurrentDirectory
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.elsewhere import write_elsewhere
from collector.store.rundir.reclaim import start_sweep
from collector.store.rundir.root import open_default_root, open_root

_logger: Final = PackageLogger()


@final
class AskPlace:
    """The place of one Collector.

    Args:
        directory: Its run directory.
    """

    def __init__(self, directory: CurrentDirectory) -> None:
        self._directory = directory
        self._entry: RunDirectory | None = None
        self.socket: AskSocket | None = None

    def open(self) -> None:
        """Listen, and have the default root name the run directory."""
        self.listen()
        if self._directory.in_temp_root and self.socket is not None:
            with _doing_without("no entry names the run directory in the default root"):
                self._entry = _entry_for(self._directory.latest)
                if self._entry is not None:
                    self._directory.entry = os.fspath(self._entry.path)

    def listen(self) -> None:
        """Listen in the run directory that there is now."""
        self.stop_listening()
        with _doing_without("the Collector cannot be asked"):
            self.socket = AskSocket(self._directory.latest)

    def moved(self) -> None:
        """Listen in the run directory that there is now: it is another one."""
        if self.socket is None:
            return
        self.listen()
        if self._entry is not None:
            with _doing_without("the entry in the default root is out of date"):
                write_elsewhere(self._entry.fd, os.fspath(self._directory.latest.path))

    def stop_listening(self) -> None:
        """Take no further question."""
        listening, self.socket = self.socket, None
        if listening is not None:
            listening.close()

    def close(self) -> None:
        """Let go of both."""
        self.stop_listening()
        entry, self._entry = self._entry, None
        if entry is not None:
            entry.release()


def _entry_for(directory: RunDirectory) -> RunDirectory | None:
    """Make an entry that names this run directory, unless it lies in the default root itself."""
    own = open_root(directory.path.parent, make=False)
    with contextlib.closing(own):
        default = open_default_root()
        same = default.identity == own.identity
    if same:
        default.close()
        return None
    entry = RunDirectory.create_in(default)
    try:
        write_elsewhere(entry.fd, os.fspath(directory.path))
    except OSError:
        entry.release()
        raise
    start_sweep(entry.path.parent)  # this process may never make another directory there
    return entry


@contextlib.contextmanager
def _doing_without(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _logger.debug("%s: %s", what, error)
