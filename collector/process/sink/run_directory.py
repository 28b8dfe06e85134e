"""The run directory as the sink has it: when others have taken it away, the parent is asked.

Runs in:    the sink.
Owns:       a lease on the run directory, as long as its files need it on earlier ones too.
Invariants: I1  other messages that come while the sink waits for an answer are kept, in order, for
                its loop.
            I2  at the end the sink removes every directory that it was ever told of.
"""

import contextlib
import errno
import os
import select
from collections import deque
from pathlib import Path
from typing import final

from collector import settings
from collector.errors import SPARE_IT, RunDirectoryError
from collector.process.queue.channel import Channel
from collector.store.rundir.directory import RunDirectory
from collector.wire import messages


def join_if_there(path: str, identity: str) -> RunDirectory | None:
    """Join the run directory; None if others have removed it: the first file asks for another."""
    try:
        return _join(path, identity)
    except RunDirectoryError:
        return None


@final
class SinkDirectory:
    """Finds the directory for a new file.

    Args:
        control: The way to the parent.
        parent: The parent's life.
        directory: The one there was at the start; None if it is gone by now.
        entry: Path of what names it in the default root, which goes with it; empty for nothing.
    """

    def __init__(
        self, control: Channel, parent: int, directory: RunDirectory | None, entry: str = ""
    ) -> None:
        self.heard: deque[messages.Message] = deque()
        """What the parent has said while it was asked."""
        self._control = control
        self._parent = parent
        self._directory = directory
        self._known = [] if directory is None else [directory.path]
        self._entries = [Path(entry)] if entry else []
        self._questions = 0

    def current(self) -> RunDirectory:
        """Return the one to make files in; waits for the parent if others have taken it away.

        Raises:
            RunDirectoryError: There is none.
        """
        for _ in range(settings.DIRECTORY_TRIES):
            if self._directory is not None and self._directory.is_in_place():
                return self._directory
            answer = self._ask()
            with contextlib.suppress(RunDirectoryError):  # others were there again: ask once more
                self._use(answer)
        message = f"others remove each new run directory at once; {SPARE_IT}"
        raise RunDirectoryError(errno.ENOENT, message, self._known[-1] if self._known else "")

    def told(self, said: messages.RunDirectoryAt) -> None:
        """The parent has made another one."""
        if not said.error:
            with contextlib.suppress(RunDirectoryError):  # gone again: asked for when it is needed
                self._use(said)

    def dispose(self, patience_s: float) -> None:
        """Let go of all that the parent has made, and remove what it does not hold any more.

        Args:
            patience_s: How long to wait for the locks of processes that are on their way out.
        """
        while heard := self._control.receive():  # perhaps of one that was made just now
            self.heard.extend(heard)
        for said in self.heard:
            if isinstance(said, messages.RunDirectoryAt):
                self.told(said)
        self.heard.clear()
        current, self._directory = self._directory, None
        if current is not None:
            current.dispose(patience_s)
        for path in [*self._known, *self._entries]:
            with contextlib.suppress(RunDirectoryError):  # most are gone
                RunDirectory.join(path).dispose(patience_s)

    def _use(self, said: messages.RunDirectoryAt) -> None:
        before = self._directory
        if before is not None and os.fspath(before.path) == said.path and before.is_in_place():
            return
        self._directory = _join(said.path, said.identity)
        self._known = [path for path in self._known if os.path.lexists(path)]
        self._known.append(self._directory.path)
        if before is not None:
            before.leave()

    def _ask(self) -> messages.RunDirectoryAt:
        self._questions += 1
        asked = messages.RunDirectoryWanted(worker=0, question=self._questions)
        self._control.post(asked)
        poller = select.poll()
        poller.register(self._parent, select.POLLIN)
        while True:
            poller.register(self._control.fd, self._events())
            ready = [fd for fd, _ in poller.poll()]
            answer = self._answer()
            if answer is not None:
                break
            if self._parent in ready:
                raise _parent_is_gone()
        if answer.error:
            raise RunDirectoryError(answer.error_number, answer.error, answer.path)
        return answer

    def _events(self) -> int:
        try:
            sent = self._control.flush()
        except OSError as error:
            raise _parent_is_gone() from error
        return select.POLLIN if sent else select.POLLIN | select.POLLOUT

    def _answer(self) -> messages.RunDirectoryAt | None:
        heard = self._control.receive()
        if heard is None:
            raise _parent_is_gone()
        answer = None
        for said in heard:
            if isinstance(said, messages.RunDirectoryAt) and said.question == self._questions:
                answer = said
            else:
                self.heard.append(said)
        return answer


def _join(path: str, identity: str) -> RunDirectory:
    directory = RunDirectory.join(path)
    if directory.identity != identity:  # others have put another one in its place
        directory.release()
        raise RunDirectoryError(errno.ESTALE, "others replaced the run directory", path)
    return directory


def _parent_is_gone() -> RunDirectoryError:
    return RunDirectoryError(errno.ESRCH, "the parent is gone, which makes the run directories")
