"""Call what the user has given as `on_status=`: not too often, and unharmed by what it raises.

Invariants: I1  a callback that raises is logged once and hurts nothing.
            I2  the first status of a stage is always told; while bytes move, ten a second are.
"""

import logging
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, final

from collector.settings import PROGRESS_INTERVAL_S

_log = logging.getLogger("collector")


class Status(Protocol):
    """What a task is doing."""

    @property
    def stage(self) -> str:
        """Which part of its work."""


S = TypeVar("S", bound=Status)


@final
class StatusCallback(Generic[S]):
    """Passes statuses on to the user's callback, if there is one."""

    def __init__(self, on_status: Callable[[S], object] | None) -> None:
        self._on_status = on_status
        self._last_s = 0.0
        self._stage = ""
        self._has_raised = False

    def is_due(self, stage: str) -> bool:
        """Whether news of bytes that move is to be told now, in this stage (I2)."""
        return stage != self._stage or time.monotonic() - self._last_s >= PROGRESS_INTERVAL_S

    def tell(self, status: S) -> None:
        """Call the user's function with a status."""
        self._stage, self._last_s = status.stage, time.monotonic()
        if self._on_status is None:
            return
        try:
            self._on_status(status)
        except Exception:  # noqa: BLE001 - the user's code: logged once, and the work goes on (I1)
            if not self._has_raised:
                _log.warning("on_status raised; the work goes on", exc_info=True)
            self._has_raised = True
