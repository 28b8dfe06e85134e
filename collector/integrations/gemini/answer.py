"""Read one answer of a Gemini model while it comes, and judge whether it is whole.

Runs in:    a worker, or any process.
Invariants: I1  an answer that counts as whole ended with the finish reason STOP and has text; if
                its connection broke, STOP came once, and no text after it.
            I2  an attempt that wrote a byte is the last one: no answer is spliced from two.
            I3  memory stays flat: an event is written and forgotten.
"""

import contextlib
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from collector.integrations.gemini.errors import (
    GeminiBlockedError,
    GeminiEmptyAnswerError,
    GeminiError,
    GeminiSafetyError,
    GeminiStreamBrokenError,
    GeminiTruncatedError,
)
from collector.integrations.gemini.requests import GeminiRequests, let_interrupt_through
from collector.integrations.gemini.service import GeminiService
from collector.integrations.gemini.status import StatusReporter

if TYPE_CHECKING:
    from google.genai import types

_CONTENT_STOPS: Final = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "MODEL_ARMOR",
    }
)
"""Finish reasons that speak of the content; all others but STOP mean an answer cut short."""


class AnswerWriter(Protocol):
    """Where an answer goes: a job, or a SpillManager."""

    def write(self, chunk: bytes, /) -> int:
        """Take a chunk; return its length in bytes."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked.

    Attributes:
        model: Its name.
        contents: The media file and the prompt.
        config: Further settings of the request.
        streaming: Whether the answer is to come in pieces.
    """

    model: str
    contents: "list[types.Part]"
    config: "types.GenerateContentConfig"
    streaming: bool


@final
@dataclass(slots=True)
class Answer:
    """What has come of an answer."""

    sink: AnswerWriter
    reporter: StatusReporter
    written_bytes: int = 0
    finish_reason: str = ""
    finish_message: str = field(default="", repr=False)  # as the service sent it, not redacted
    finish_reasons: int = 0  # how many events had one
    blocked: str = ""
    _counted: "list[types.GenerateContentResponseUsageMetadata | None]" = field(
        default_factory=list
    )

    @property
    def usages(self) -> list[dict[str, Any]]:
        """What the service counted, by its own names, for each attempt."""
        known = [counted for counted in self._counted if counted is not None]
        return [dict(counted.model_dump(mode="json", exclude_none=True)) for counted in known]

    @property
    def usage(self) -> dict[str, Any]:
        """What it counted for the last attempt."""
        return self.usages[-1] if self._counted and self._counted[-1] is not None else {}

    def begin(self) -> None:
        """Begin an attempt; a later event of the same one tells its sum anew."""
        self._counted.append(None)

    def take(self, event: "types.GenerateContentResponse") -> None:
        """Write the text of one event, and note what else it says."""
        feedback = event.prompt_feedback
        if feedback is not None and feedback.block_reason:
            self.blocked = str(feedback.block_reason.value)
            self.finish_message = feedback.block_reason_message or ""
        self._counted[-1] = event.usage_metadata or self._counted[-1]
        ours = (one for one in event.candidates or [] if not one.index)  # by its index: of several
        candidate = next(ours, None)  # each may have events of its own, in any order
        if candidate is None:
            return
        parts = (candidate.content.parts if candidate.content else None) or []
        self._write("".join(part.text or "" for part in parts if not part.thought))
        if candidate.finish_reason:
            self.finish_reason = str(candidate.finish_reason.value)
            self.finish_message = candidate.finish_message or ""
            self.finish_reasons += 1

    def _write(self, text: str) -> None:
        if text:
            self.finish_reason = self.finish_message = ""  # it was not the end
            self.written_bytes += self.sink.write(text.encode())
            self.reporter.moved("streaming", self.written_bytes)


def ask(service: GeminiService, question: Question, answer: Answer) -> None:
    """Put a question to a model and have its answer written.

    Raises:
        GeminiError: The request failed, or the answer is not whole; `answer` tells what came.
        SpillError: The answer could not be written.
    """
    requests = service.requests
    for attempt in itertools.count(1):
        failure = _listen(service, question, answer)
        if failure is not None:
            let_interrupt_through(failure)
        else:
            requests.answered()
        has_come = answer.written_bytes or answer.finish_reason or answer.blocked
        if not has_come and failure is not None:
            requests.pause_or_raise("the request for an answer", failure, attempt)
        elif not has_come and attempt < requests.attempts:
            requests.pause("the stream ended before its first byte", attempt)
        else:  # I2
            complaint = _complaint(requests, answer, failure)
            if complaint is not None:
                raise complaint
            return


def _listen(service: GeminiService, question: Question, answer: Answer) -> Exception | None:
    """Read one stream to its end; return what broke it, if anything did."""
    answer.begin()
    events = service.generate(
        question.model, question.contents, question.config, streaming=question.streaming
    )
    with contextlib.closing(events):
        while True:
            try:
                event = next(events, None)
            except Exception as error:  # noqa: BLE001 - the SDK lets errors of four libraries through; judged by the caller
                return error
            if event is None:
                return None
            try:
                answer.take(event)
            except UnicodeEncodeError as error:  # half a character: the bytes would not be exact
                return error


def _complaint(
    requests: GeminiRequests, answer: Answer, failure: Exception | None
) -> GeminiError | None:
    """Say what is wrong with an answer that has come to its end, if anything is (I1)."""
    path, reason = requests.file_path, answer.finish_reason
    why = requests.redact(f" ({answer.finish_message})" if answer.finish_message else "")
    kept = f"{answer.written_bytes} bytes of the answer were kept"
    if answer.blocked:
        message = f"Gemini blocked the prompt or {path}: {answer.blocked}{why}"
        return GeminiBlockedError(message, path, answer.blocked)
    if reason in _CONTENT_STOPS:
        message = f"Gemini stopped its answer about {path} for its content: {reason}{why}; {kept}"
        return GeminiSafetyError(message, path, reason)
    if failure is not None and (not reason or (reason == "STOP" and answer.finish_reasons > 1)):
        what = requests.describe(failure)
        message = f"the answer about {path} broke off: {what}; {kept}"
        return GeminiStreamBrokenError(message, path)
    if reason != "STOP":
        what = reason or "the stream ended without a finish reason"
        hint = "; raise max_output_tokens in config" if reason == "MAX_TOKENS" else ""
        message = f"the answer about {path} is not whole: {what}{why}{hint}; {kept}"
        return GeminiTruncatedError(message, path, reason)
    if not answer.written_bytes:
        return GeminiEmptyAnswerError(f"the answer about {path} has no text", path, reason)
    return None
