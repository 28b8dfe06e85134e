"""What a Gemini media task tells about itself while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

from collector.integrations.gemini.errors import GeminiStreamBrokenError, GeminiTruncatedError
from collector.integrations.on_status import StatusCallback

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
    """Makes the statuses of one task for the user's callback."""

    def __init__(self, on_status: Callable[[GeminiStatus], object] | None) -> None:
        self._callback = StatusCallback(on_status)
        self._last = GeminiStatus("reading")

    def report(
        self, stage: GeminiStage, done: int, total: int | None = None, message: str = ""
    ) -> None:
        """Report a stage, or news of it."""
        self._last = GeminiStatus(stage, done, total, message)
        self._callback.tell(self._last)

    def moved(self, stage: GeminiStage, done: int, total: int | None = None) -> None:
        """Report that bytes moved; of many such reports ten a second are told."""
        if self._callback.is_due(stage):
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
