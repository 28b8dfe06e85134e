"""Why a Gemini media task failed: one class for each cause, none of which ever holds the API key.

Invariants: I1  every error pickles: its constructor arguments are positional and equal to `args`.
            I2  every error is also the built-in that a caller would already catch.
            I3  none carries an exception of the SDK, not as cause or context and not in a frame of
                its traceback: those hold the request.
"""

import errno
from typing import TYPE_CHECKING, Any

from collector.errors import CollectorError

if TYPE_CHECKING:
    from collector.store.output.output import Output


class GeminiError(CollectorError):
    """Base of every error of a Gemini media task.

    Attributes:
        file_path: The media file.
        reason: What the service gave as its reason ("SAFETY", "503 UNAVAILABLE"), or "".
        output: What had come until then; None inside a job, whose `output()` has it, and None if
            the caller gave the manager, which has it. It does not travel to another process.
    """

    output: "Output | None" = None

    def __init__(self, message: str, file_path: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.args = (message, file_path, reason)
        self.file_path = file_path
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), self.args


class GeminiNotInstalledError(GeminiError, ImportError):
    """The package google-genai is missing: `pip install 'collector[gemini]'`."""


class GeminiKeyError(GeminiError, PermissionError):
    """There is no API key, or the service refuses it, or what it asks for is not allowed to it."""


class GeminiFileMissingError(GeminiError, FileNotFoundError):
    """The media file does not exist, or is not a regular file."""

    def __init__(self, message: str, file_path: str = "", reason: str = "") -> None:
        super().__init__(message, file_path, reason)
        self.errno = errno.ENOENT
        self.filename = file_path


class GeminiFileEmptyError(GeminiError, ValueError):
    """The media file has no bytes."""


class GeminiFileTooLargeError(GeminiError, ValueError):
    """The media file is larger than the service takes (2 GiB)."""


class GeminiFileTypeError(GeminiError, ValueError):
    """The name of the media file does not tell a type that the models understand."""


class GeminiFileChangedError(GeminiError, OSError):
    """Somebody changed the media file while it was being sent."""


class GeminiProcessingError(GeminiError, RuntimeError):
    """The service could not process the uploaded file."""


class GeminiProcessingTimeoutError(GeminiError, TimeoutError):
    """The service did not finish processing the uploaded file in time."""


class GeminiRequestError(GeminiError, ConnectionError):
    """A request was refused, or failed as often as it was allowed to; nothing of the answer came.

    Attributes:
        code: The HTTP status, or None if there was no answer at all.
    """

    def __init__(
        self, message: str, file_path: str = "", reason: str = "", code: int | None = None
    ) -> None:
        super().__init__(message, file_path, reason)
        self.args = (message, file_path, reason, code)
        self.code = code


class GeminiStreamBrokenError(GeminiError, ConnectionError):
    """The answer broke off in the middle: the connection was lost, or the service sent an error."""


class GeminiTruncatedError(GeminiError, EOFError):
    """The answer ended before it was whole: without a finish reason, or at a limit of the model."""


class GeminiBlockedError(GeminiError, ValueError):
    """The service refused the prompt or the file; there is no answer."""


class GeminiSafetyError(GeminiError, ValueError):
    """The service stopped the answer for its content; what came before is kept."""


class GeminiEmptyAnswerError(GeminiError, ValueError):
    """The model finished without a word of text."""
