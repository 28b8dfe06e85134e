"""Read one answer of a Gemini model while it comes, and judge whether it is whole.

Runs in:    a worker, or any process.
Invariants: I1  an answer that counts as whole ended with the finish reason STOP and has text; if
                its connection broke, STOP came once, and no text after it.
            I2  an attempt that wrote a byte is the last one: no answer is spliced from two. Where
                the service gives an answer in parts, that holds for the request of each part.
            I3  memory stays flat: an event is written and forgotten.
Source:     google-genai 3.6 asks for the next part by itself: at once, and after a break from a
            place behind which text has come already. Without streaming it forgets all parts if one
            fails. So that is off, and done here.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from collector.integrations.gemini.errors import (
    GeminiBlockedError,
    GeminiEmptyAnswerError,
    GeminiError,
    GeminiRequestError,
    GeminiSafetyError,
    GeminiStreamBrokenError,
    GeminiTruncatedError,
)
from collector.integrations.gemini.requests import (
    GeminiRequests,
    is_silence,
    let_interrupt_through,
)
from collector.integrations.gemini.service import GeminiService
from collector.integrations.gemini.status import StatusReporter
from collector.settings import PROGRESS_INTERVAL_S

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

_MORE: Final = "CONTINUATION"
"""The finish reason of a part that is not the last one."""

_MOST_TOKENS: Final = 10**15
"""No request has as many tokens."""


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
        token: From where the answer is to go on; None for its beginning.
    """

    model: str
    contents: "list[types.Part]"
    config: "types.GenerateContentConfig"
    streaming: bool
    token: bytes | None = None


@final
@dataclass(slots=True)
class Answer:
    """What has come of an answer."""

    sink: AnswerWriter
    reporter: StatusReporter
    count: Callable[[Mapping[str, int]], object]
    """Adds to the meters of the job."""
    written_bytes: int = 0
    finish_reason: str = ""
    finish_message: str = field(default="", repr=False)  # as the service sent it, not redacted
    finish_reasons: int = 0  # how many events of the present part had one
    blocked: str = ""
    token: bytes | None = None  # from where a further request goes on, if no text came behind that
    usages: list[dict[str, Any]] = field(default_factory=list)
    """What the service counted, by its own names, for each attempt."""
    _part_begins: int = 0  # byte
    _usage_before: dict[str, Any] = field(default_factory=dict)  # of the parts before
    _tokens: dict[str, int] = field(default_factory=dict)  # of this attempt, that are counted
    _count_again_s: float = -math.inf

    @property
    def usage(self) -> dict[str, Any]:
        """What it counted for the last attempt, and for those that gave the parts before."""
        return _added(self._usage_before, self.usages[-1] if self.usages else {})

    @property
    def part_has_come(self) -> bool:
        """Whether so much of the present part has come that it is not asked for again (I2)."""
        is_longer = self.written_bytes > self._part_begins
        return bool(is_longer or self.finish_reason or self.blocked)

    def begin_part(self) -> None:
        """Begin the answer, or go on with it by a further request."""
        self._usage_before = self.usage
        self._part_begins = self.written_bytes
        self.finish_reason = self.finish_message = ""
        self.finish_reasons, self.token = 0, None

    def begin(self) -> None:
        """Begin an attempt; a later event of the same one tells its sum anew."""
        self.usages.append({})
        self._tokens = {}
        self._count_again_s = -math.inf

    def count_tokens(self) -> None:
        """Count what the present attempt has used and is not counted."""
        tokens = _tokens_of(self.usages[-1])
        more = {name: tokens[name] - self._tokens.get(name, 0) for name in tokens}
        if any(more.values()):
            self.count(more)
        self._tokens = tokens
        self._count_again_s = time.monotonic() + PROGRESS_INTERVAL_S

    def take(self, event: "types.GenerateContentResponse") -> None:
        """Write the text of one event, and note what else it says."""
        feedback = event.prompt_feedback
        if feedback is not None and feedback.block_reason:
            self.blocked = str(feedback.block_reason.value)
            self.finish_message = feedback.block_reason_message or ""
        ours = (one for one in event.candidates or [] if not one.index)  # by its index: of several
        candidate = next(ours, None)  # each may have events of its own, in any order
        try:
            if candidate is not None:
                self._take_from(candidate)
        finally:  # it is paid for, too, if the disk is full
            self._take_usage(event.usage_metadata)

    def _take_usage(self, counted: "types.GenerateContentResponseUsageMetadata | None") -> None:
        if counted is not None:
            # What it does not tell holds still: the last event may tell another thing, or nothing.
            self.usages[-1].update(counted.model_dump(mode="json", exclude_none=True))
            if time.monotonic() >= self._count_again_s:  # now: the job may be killed
                self.count_tokens()

    def _take_from(self, candidate: "types.Candidate") -> None:
        parts = (candidate.content.parts if candidate.content else None) or []
        self._write("".join(part.text or "" for part in parts if not part.thought))
        self.token = getattr(candidate, "continuation_token", None) or self.token  # not in 3.4
        if candidate.finish_reason:
            self.finish_reason = str(candidate.finish_reason.value)
            self.finish_message = candidate.finish_message or ""
            self.finish_reasons += 1

    def _write(self, text: str) -> None:
        if text:
            self.finish_reason = self.finish_message = ""  # it was not the end
            self.token = None
            self.written_bytes += self.sink.write(text.encode())
            self.reporter.moved("streaming", self.written_bytes)


def ask(service: GeminiService, question: Question, answer: Answer) -> None:
    """Put a question to a model and have its answer written, with all parts that it is given in.

    Raises:
        GeminiError: The request failed, or the answer is not whole; `answer` tells what came.
        SpillError: The answer could not be written.
    """
    requests = service.requests
    while True:
        failure = _ask_for_part(service, question, answer)
        complaint = _complaint(requests, answer, failure)
        if complaint is None:
            return
        further = _question_for_more(question, answer)
        if further is None:
            raise complaint
        question = further
        requests.resource = ""  # a job that is run later begins anew: what has come would be lost


def _ask_for_part(service: GeminiService, question: Question, answer: Answer) -> Exception | None:
    """Put one question until something comes; return what broke the answer off, if anything."""
    requests = service.requests
    answer.begin_part()
    attempt = 1
    while True:
        failure = _listen(service, question, answer)
        if failure is not None:
            let_interrupt_through(failure)
        else:
            requests.answered()
        if answer.part_has_come:
            return failure
        used = _waited_for_another(requests, question, answer, failure, attempt)
        if used is None:
            return failure
        attempt += used


def _waited_for_another(
    requests: GeminiRequests,
    question: Question,
    answer: Answer,
    failure: Exception | None,
    attempt: int,
) -> int | None:
    """Wait before a question is put once more.

    Returns:
        How many attempts are used up by the failure; None if it was the last one.
    """
    if failure is None:
        if attempt >= requests.attempts:
            return None
        requests.pause("the stream ended before its first byte", attempt)
        return 1
    what = "the request for an answer"
    try:
        if is_silence(failure) and not question.streaming:  # it is silent while it makes the answer
            raise requests.explained(what, failure, attempt, "; ask with use_streaming=True")
        return requests.pause_or_raise(what, failure, attempt)
    except GeminiRequestError:
        if not answer.written_bytes:
            raise
        return None  # the answer has broken off between two parts


def _question_for_more(question: Question, answer: Answer) -> Question | None:
    """Return what asks for the next part of an answer, if there is one and the caller wants it."""
    is_wanted = getattr(question.config, "automatic_continuation", None) is not False
    if answer.blocked or answer.finish_reason != _MORE or not is_wanted:
        return None
    if answer.token is None or answer.token == question.token:  # it would be the same part again
        return None
    return dataclasses.replace(question, token=answer.token)


def _tokens_of(usage: Mapping[str, Any]) -> dict[str, int]:
    """What a request has used, by the names of meters.

    Numbers that no count can be are brought within what a meter takes: they hurt no answer.
    """
    read, used, said, thought, total = (
        min(max(0, usage.get(f"{name}_token_count") or 0), _MOST_TOKENS)
        for name in ("prompt", "tool_use_prompt", "candidates", "thoughts", "total")
    )
    read += used  # what tools gave the model to read
    total = total or read + said + thought
    return {"tokens": total, "input_tokens": read, "output_tokens": max(0, total - read)}


def _added(before: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Add up what was counted for two requests."""
    sums = dict(before)
    for name, value in more.items():
        known = sums.get(name)
        is_sum = isinstance(known, (int, list)) and type(known) is type(value)
        sums[name] = known + value if is_sum else value
    return sums


def _listen(service: GeminiService, question: Question, answer: Answer) -> Exception | None:
    """Read one stream to its end; return what broke it, if anything did."""
    answer.begin()
    events = service.generate(
        question.model,
        question.contents,
        question.config,
        streaming=question.streaming,
        token=question.token,
    )
    with contextlib.closing(events), contextlib.ExitStack() as at_end:
        at_end.callback(answer.count_tokens)
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
