"""What a fake Gemini is told to do and to say, and what it notes down of its clients."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Refuse:
    """Answer with an HTTP error."""

    code: int
    status: str = "UNAVAILABLE"
    message: str = "The model is overloaded. Please try again later."
    retry_s: float | None = 0.0
    retry_header: bool = False
    details: tuple[dict[str, Any], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None  # of its own, which may say nothing


@dataclass(frozen=True)
class Drop:
    """Close the connection without an answer; with a reset if `reset`."""

    reset: bool = False
    after_doing: bool = False


@dataclass(frozen=True)
class Stall:
    """Say nothing until the event is set, then close the connection."""

    until: threading.Event
    after_doing: bool = False
    reached: threading.Event = field(default_factory=threading.Event)


Fault = Refuse | Drop | Stall


@dataclass(frozen=True)
class Say:
    """An event with text."""

    text: str
    thought: bool = False
    reason: str = ""
    index: int = 0
    token: str = ""  # base64, from which a further request goes on


@dataclass(frozen=True)
class Finish:
    """An event with a finish reason."""

    reason: str = "STOP"
    message: str = ""
    index: int = 0
    token: str = ""


@dataclass(frozen=True)
class Block:
    """An event that refuses the prompt."""

    reason: str = "PROHIBITED_CONTENT"


@dataclass(frozen=True)
class Raw:
    """An event of any content."""

    data: bytes


@dataclass(frozen=True)
class Cut:
    """Close the connection in the middle of the stream; with a reset if `reset`."""

    reset: bool = False


@dataclass(frozen=True)
class Hold:
    """Tell that the stream has come here, and wait for the word to go on."""

    until: threading.Event
    reached: threading.Event = field(default_factory=threading.Event)


Step = Say | Finish | Block | Raw | Cut | Hold


@dataclass(frozen=True)
class Question:
    """What a client asked the model."""

    model: str
    sha256: str
    size: int
    mime_type: str
    prompt: str
    streaming: bool
    inline: bool
    config: dict[str, Any]
    token: str = ""


@dataclass
class Upload:
    """A file that is coming in."""

    name: str
    mime_type: str
    size: int
    display_name: str
    hash: Any = field(default_factory=hashlib.sha256)
    received: int = 0


@dataclass
class StoredFile:
    """A file that the service keeps."""

    name: str
    mime_type: str
    size: int
    sha256: str
    display_name: str
    polls_left: int
    final_state: str
    failure_message: str

    def as_json(self, base_url: str) -> dict[str, Any]:
        """Look once: the state moves on."""
        state = "PROCESSING" if self.polls_left > 0 else self.final_state
        self.polls_left -= 1
        answer: dict[str, Any] = {
            "name": self.name,
            "displayName": self.display_name,
            "mimeType": self.mime_type,
            "sizeBytes": str(self.size),
            "sha256Hash": base64.b64encode(self.sha256.encode()).decode(),
            "uri": f"{base_url}/v1beta/{self.name}",
            "state": state,
            "source": "UPLOADED",
        }
        if state == "FAILED":
            answer["error"] = {"code": 3, "message": self.failure_message}
        return answer


def transcript(question: Question) -> Iterator[Step]:
    """The default script: lines that tell the file, then the end."""
    for number in range(50):
        yield Say(f"line {number} of {question.sha256}\n")
    yield Finish()


def expected_transcript(media: bytes) -> bytes:
    """What `transcript` says about a file with these bytes."""
    sha256 = hashlib.sha256(media).hexdigest()
    return "".join(f"line {number} of {sha256}\n" for number in range(50)).encode()


def event_of(step: Step, said: int) -> bytes:
    """The event as the service would send it, after so many tokens."""
    if isinstance(step, Raw):
        return step.data
    if isinstance(step, Block):
        return json.dumps({"promptFeedback": {"blockReason": step.reason}}).encode()
    assert isinstance(step, (Say, Finish))
    candidate: dict[str, Any] = {"index": step.index}
    if isinstance(step, Say):
        part = {"text": step.text, "thought": True} if step.thought else {"text": step.text}
        candidate["content"] = {"role": "model", "parts": [part]}
        if step.reason:
            candidate["finishReason"] = step.reason
    else:
        candidate["finishReason"] = step.reason
        if step.message:
            candidate["finishMessage"] = step.message
    if step.token:
        candidate["continuationToken"] = step.token
    usage = {"promptTokenCount": 7, "candidatesTokenCount": said, "totalTokenCount": said + 7}
    event = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "fake"}
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "backslashreplace")


NO_FILE = Refuse(
    403,
    "PERMISSION_DENIED",
    "You do not have permission to access the File or it may not exist.",
    retry_s=None,
)
BAD_KEY = Refuse(
    400,
    "INVALID_ARGUMENT",
    "API key not valid. Please pass a valid API key.",
    retry_s=None,
    details=(
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "API_KEY_INVALID",
            "domain": "googleapis.com",
        },
    ),
)
