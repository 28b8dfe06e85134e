"""Gemini: one media file with a prompt goes to a model, the answer is collected while it comes."""

from collector.integrations.gemini.errors import (
    GeminiBlockedError,
    GeminiEmptyAnswerError,
    GeminiError,
    GeminiFileChangedError,
    GeminiFileEmptyError,
    GeminiFileMissingError,
    GeminiFileTooLargeError,
    GeminiFileTypeError,
    GeminiKeyError,
    GeminiNotInstalledError,
    GeminiProcessingError,
    GeminiProcessingTimeoutError,
    GeminiRequestError,
    GeminiSafetyError,
    GeminiStreamBrokenError,
    GeminiTruncatedError,
)
from collector.integrations.gemini.status import (
    GeminiStage,
    GeminiStatus,
)
from collector.integrations.gemini.task import (
    GeminiResult,
    run_gemini_media_task,
)

__all__ = [
    "GeminiBlockedError",
    "GeminiEmptyAnswerError",
    "GeminiError",
    "GeminiFileChangedError",
    "GeminiFileEmptyError",
    "GeminiFileMissingError",
    "GeminiFileTooLargeError",
    "GeminiFileTypeError",
    "GeminiKeyError",
    "GeminiNotInstalledError",
    "GeminiProcessingError",
    "GeminiProcessingTimeoutError",
    "GeminiRequestError",
    "GeminiResult",
    "GeminiSafetyError",
    "GeminiStage",
    "GeminiStatus",
    "GeminiStreamBrokenError",
    "GeminiTruncatedError",
    "run_gemini_media_task",
]
