"""The descriptors that a loop waits for, and what it does when one of them is ready.

Runs in:    the supervising and the answering thread of the parent, and the sink: each has one.
Owns:       a selector; the descriptors are others'.
Invariants: I1  a descriptor that an earlier handler of the same round has let go of is not handled,
                nor is another one that has its number by then.
"""

import selectors
from collections.abc import Callable, Iterator, Sequence
from typing import final

Handler = Callable[[], object]


@final
class Poller:
    """Waits for descriptors.

    Raises:
        OSError: No descriptor is to be had.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._keys: dict[int, selectors.SelectorKey] = {}
        """What the selector knows, to be looked up in one step."""

    def expect(
        self, fd: int, handle: Handler, *, reading: bool = True, writing: bool = False
    ) -> None:
        """Have `handle` called whenever `fd` can be read, or written; with neither, forget it."""
        events = selectors.EVENT_READ * reading | selectors.EVENT_WRITE * writing
        known = self._keys.get(fd)
        if known is None and events:
            self._keys[fd] = self._selector.register(fd, events, handle)
        elif known is not None and not events:
            self.forget(fd)
        elif known is not None and known.events != events:
            self._keys[fd] = self._selector.modify(fd, events, handle)

    def expect_room(self, fd: int, *, wanted: bool) -> None:
        """Wake up when something can be written, once; or not any more."""
        self.expect(fd, lambda: self.forget(fd), reading=False, writing=wanted)

    def forget(self, fd: int | None) -> None:
        """Wait for nothing of this descriptor, if anybody did: before it is closed."""
        if fd is not None and self._keys.pop(fd, None) is not None:
            self._selector.unregister(fd)

    def ready(self, pause_s: float | None) -> Iterator[Handler]:
        """Wait for at most so long, then return the handlers of what is ready, one by one (I1)."""
        return self._handlers([key for key, _ in self._selector.select(pause_s)])

    def _handlers(self, keys: Sequence[selectors.SelectorKey]) -> Iterator[Handler]:
        for key in keys:
            now = self._keys.get(key.fd)
            if now is not None and now.data is key.data:
                yield key.data

    def close(self) -> None:
        """Let go of the selector; in a forked child that changes nothing for the parent."""
        self._keys.clear()
        self._selector.close()
