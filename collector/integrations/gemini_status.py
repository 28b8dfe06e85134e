"""What a Gemini media task tells about itself while it runs.

Invariants: I1  a callback that raises is logged once and hurts nothing.
            I2  the first report of a stage always gets through; while bytes move, ten a second do.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

from collector.integrations.gemini_errors import GeminiStreamBrokenError, GeminiTruncatedError
from collector.settings import PROGRESS_INTERVAL_S

GeminiStage = Literal[
    "reading",
    "uploading",
    "processing",
    "generating",
    "streaming",
    "finalizing",
    "done",
    "failed",
    "truncated",
    "cancelled",
]

_log = logging.getLogger("collector")


@dataclass(frozen=True, slots=True)
class GeminiStatus:
    """What a task is doing.

    Attributes:
        stage: `reading` or `uploading` and `processing`, `generating`, `streaming`, `finalizing`,
            `done`; else it ends with `failed`, `truncated` (a part of the answer came) or
            `cancelled` (Ctrl-C).
        bytes_done: Bytes of the file read, sent or processed; from `generating` on, of the answer.
        bytes_total: How many there will be; None while nobody knows.
        message: For people: the state of the remote file, the next attempt, the error.
    """

    stage: GeminiStage
    bytes_done: int = 0
    bytes_total: int | None = None
    message: str = ""


@final
class StatusReporter:
    """Passes statuses on to the user's callback, if there is one."""

    def __init__(self, on_status: Callable[[GeminiStatus], object] | None) -> None:
        self._on_status = on_status
        self._last = GeminiStatus("reading")
        self._last_s = 0.0
        self._stage: GeminiStage | None = None
        self._has_raised = False

    def report(
        self, stage: GeminiStage, done: int, total: int | None = None, message: str = ""
    ) -> None:
        """Report a stage, or news of it."""
        self._last = GeminiStatus(stage, done, total, message)
        self._stage = stage
        self._last_s = time.monotonic()
        if self._on_status is None:
            return
        try:
            self._on_status(self._last)
        except Exception:  # noqa: BLE001 - the user's code: reported once, and the task goes on (I1)
            if not self._has_raised:
                _log.warning("on_status raised; the task goes on", exc_info=True)
            self._has_raised = True

    def moved(self, stage: GeminiStage, done: int, total: int | None = None) -> None:
        """Report that bytes moved, unless a report of it is less than 0.1 s old (I2)."""
        if stage != self._stage or time.monotonic() - self._last_s >= PROGRESS_INTERVAL_S:
            self.report(stage, done, total)

    def retrying(self, message: str) -> None:
        """Report that the present stage is tried again."""
        self.report(self._last.stage, self._last.bytes_done, self._last.bytes_total, message)

    def ended(self, error: BaseException, done: int) -> None:
        """Report how a task ended that did not succeed."""
        if not isinstance(error, Exception):
            self.report("cancelled", done, None, type(error).__name__)
        elif isinstance(error, (GeminiStreamBrokenError, GeminiTruncatedError)):
            self.report("truncated", done, None, str(error))
        else:
            self.report("failed", done, None, str(error))
