"""A Gemini service on loopback: the wire format of the Files API and of generateContent.

Runs in:    threads of the test process; clients may be in any process.
Owns:       a listening socket and one thread a connection; both end with `close()`.
Invariants: I1  a request that the real service would refuse is refused, and noted in `violations`.
            I2  what was uploaded is known by its hash only: files of any size cost no memory.
"""

import base64
import contextlib
import hashlib
import json
import math
import re
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from tests.integrations.gemini_script import (
    BAD_KEY,
    NO_FILE,
    Cut,
    Drop,
    Fault,
    Hold,
    Question,
    Refuse,
    Say,
    Stall,
    Step,
    StoredFile,
    Upload,
    event_of,
    transcript,
)

KEY = "AIzaSy-sentinel-KEY-0123456789abcdefghi"
GRANULE = 256 * 1024
HEADER_SECONDS = 5
"""A limit over at least so many seconds is told of in Retry-After, else in RetryInfo."""


class Limit(NamedTuple):
    """How many questions are answered in how long; further ones are refused with 429.

    Windows are fixed ones: one begins with its first question and lasts for so many seconds,
    whatever came before; in each so many are answered.

    Attributes:
        most: Questions.
        seconds: How long a window lasts.
        waits: Whether its time begins only with the first question that is too many: then a slow
            machine meets the limit, too.
    """

    most: int
    seconds: float
    waits: bool = False


_FILE = re.compile(r"/v1(?:beta)?/(files/[a-z0-9-]+)")
_START = re.compile(r"/upload/v1(?:beta)?/files")
_PIECE = re.compile(r"/resumable/([0-9]+)")
_GENERATE = re.compile(
    r"/v1(?:beta)?/models/([^:/]+):(generateContent|streamGenerateContent)(?:[?]alt=sse)?"
)


class FakeGemini:
    """The service. A context manager.

    Attributes:
        base_url: Where it listens.
        script: Makes the answer to a question.
        faults: For each endpoint (`start`, `piece`, `poll`, `generate`, `delete`): what happens
            to the next requests to it, one each, before all is well again.
        limit: How many questions are answered; None for all.
        refused: How many were refused for that.
        polls: How often an uploaded file is looked at before it is ready.
        final_state: The state that uploaded files come to.
        failure_message: Why, if that is FAILED.
        late: Whether an upload that broke off becomes a file after somebody tried to delete it.
        files: What it keeps now, by name.
        deleted: Names of the files that were deleted.
        questions: What the model was asked.
        calls: Endpoints in the order they were called.
        violations: Requests that the real service would have refused.
    """

    def __init__(self, *, key: str = KEY) -> None:
        self.key = key
        self.script: Callable[[Question], Iterable[Step]] = transcript
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.limit: Limit | None = None
        self.refused = 0
        self._answered = 0
        self._window_ends_s = math.inf
        self.polls = 0
        self.final_state = "ACTIVE"
        self.failure_message = "The file could not be decoded."
        self.late = False
        self.files: dict[str, StoredFile] = {}
        self.deleted: list[str] = []
        self.questions: list[Question] = []
        self.calls: list[str] = []
        self.violations: list[str] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.uploads: dict[str, Upload] = {}
        self._connections: set[socket.socket] = set()
        self._server = _Server(self)
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End every connection and thread."""
        self.closing.set()
        self._server.shutdown()
        with self.lock:
            for connection in self._connections:
                _shut(connection)
        self._server.server_close()
        self._thread.join()

    def opened(self, connection: socket.socket) -> None:
        """Remember a connection, to end it at `close()`."""
        with self.lock:
            self._connections.add(connection)

    def closed(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self.lock:
            self._connections.discard(connection)

    def next_fault(self, endpoint: str) -> Fault | None:
        """Note a call, and tell what is to go wrong with it."""
        with self.lock:
            self.calls.append(endpoint)
            waiting = self.faults[endpoint]
            return waiting.popleft() if waiting else None

    def over_limit(self) -> Refuse | None:
        """Count a question; returns what it is refused with if there are too many."""
        limit = self.limit
        if limit is None:
            return None
        with self.lock:
            now = time.monotonic()
            if self._window_ends_s <= now:
                self._answered, self._window_ends_s = 0, math.inf
            if self._answered < limit.most:
                self._answered += 1
                if not limit.waits:
                    self._window_ends_s = min(self._window_ends_s, now + limit.seconds)
                return None
            self.refused += 1
            self._window_ends_s = min(self._window_ends_s, now + limit.seconds)
            left_s = self._window_ends_s - now
        header = limit.seconds >= HEADER_SECONDS  # its number is a whole one
        left_s = math.ceil(left_s) if header else left_s
        return Refuse(429, "RESOURCE_EXHAUSTED", "Too many.", left_s, retry_header=header)

    def upload_of(self, name: str) -> Upload | None:
        """The upload that is to become the file of that name."""
        return next((upload for upload in self.uploads.values() if upload.name == name), None)

    def keep(self, upload: Upload) -> StoredFile:
        """Make a file of the pieces that came."""
        file = StoredFile(
            upload.name,
            upload.mime_type,
            upload.received,
            upload.hash.hexdigest(),
            upload.display_name,
            self.polls,
            self.final_state,
            self.failure_message,
        )
        with self.lock:
            self.files[file.name] = file
        return file

    def wait(self, event: threading.Event) -> None:
        """Wait for an event of the test's, or the end of the service."""
        while not event.wait(0.02) and not self.closing.is_set():
            pass


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close() joins them
    request_queue_size = 128

    def __init__(self, fake: FakeGemini) -> None:
        self.fake = fake
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news here; everything else is."""
        import sys

        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            self.fake.violations.append(f"the fake service failed: {error!r}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        assert isinstance(self.server, _Server)
        self.fake = self.server.fake
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fake.opened(self.connection)

    def finish(self) -> None:
        self.fake.closed(self.connection)
        super().finish()

    def log_message(self, _format: str, *args: object) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        if found := _FILE.fullmatch(self.path):
            self._answer("poll", partial(self._poll, found[1]))
        else:
            self._unknown()

    def do_DELETE(self) -> None:
        if found := _FILE.fullmatch(self.path):
            self._answer("delete", partial(self._delete, found[1]))
        else:
            self._unknown()

    def do_POST(self) -> None:
        if _START.fullmatch(self.path):
            self._answer("start", self._start)
        elif found := _PIECE.fullmatch(self.path):
            self._answer("piece", partial(self._piece, found[1]), needs_key=False)
        elif found := _GENERATE.fullmatch(self.path):
            streaming = found[2] == "streamGenerateContent"
            self._answer("generate", partial(self._generate, found[1], streaming=streaming))
        else:
            self._unknown()

    def _answer(self, endpoint: str, do: Callable[[], None], *, needs_key: bool = True) -> None:
        fault = self.fake.next_fault(endpoint)
        if isinstance(fault, Stall):
            if fault.after_doing:
                self.muted = True
                do()
            fault.reached.set()
            self.fake.wait(fault.until)
            fault = Drop()
        if isinstance(fault, Refuse):
            self._body()
            self._refuse(fault)
        elif isinstance(fault, Drop):
            if fault.after_doing:
                self.muted = True
                do()
            self._drop(reset=fault.reset)
        elif needs_key and self.headers.get("x-goog-api-key") != self.fake.key:
            self._body()
            self._refuse(BAD_KEY)
        else:
            do()

    muted = False

    def _start(self) -> None:
        announced = json.loads(self._body())["file"]
        size = int(self.headers["X-Goog-Upload-Header-Content-Length"])
        name = announced.get("name") or f"files/{len(self.fake.uploads)}"
        self._must(self.headers["X-Goog-Upload-Protocol"] == "resumable", "protocol")
        self._must(self.headers["X-Goog-Upload-Command"] == "start", "command")
        self._must(int(announced["size_bytes"]) == size, "sizes of header and body differ")
        self._must(
            re.fullmatch(r"files/[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", name) is not None, "name"
        )
        with self.fake.lock:
            number = str(len(self.fake.uploads) + 1)
            self.fake.uploads[number] = Upload(
                name, announced["mime_type"], size, announced.get("display_name", "")
            )
        url = f"{self.fake.base_url}/resumable/{number}"
        self._send({}, {"X-Goog-Upload-URL": url, "X-Goog-Upload-Status": "active"})

    def _piece(self, number: str) -> None:
        upload = self.fake.uploads[number]
        commands = self.headers["X-Goog-Upload-Command"].split(", ")
        self._must(int(self.headers["X-Goog-Upload-Offset"]) == upload.received, "offset")
        left = length = int(self.headers["Content-Length"])
        while left:
            block = self.rfile.read(min(left, 1024 * 1024))
            if not block:
                raise ConnectionResetError
            upload.hash.update(block)
            left -= len(block)
        upload.received += length
        if "finalize" not in commands:
            self._must(length % GRANULE == 0 and length > 0, f"a piece of {length} bytes")
            self._send({}, {"X-Goog-Upload-Status": "active"})
            return
        self._must(upload.received == upload.size, "more or fewer bytes than announced")
        file = self.fake.keep(upload)
        answer = {"file": file.as_json(self.fake.base_url)}
        self._send(answer, {"X-Goog-Upload-Status": "final"})

    def _poll(self, name: str) -> None:
        file = self.fake.files.get(name)
        if file is None:
            self._refuse(NO_FILE)
        else:
            self._send(file.as_json(self.fake.base_url))

    def _delete(self, name: str) -> None:
        with self.fake.lock:
            file = self.fake.files.pop(name, None)
        if file is None:
            self._refuse(NO_FILE)
            if self.fake.late and (upload := self.fake.upload_of(name)):
                self.fake.keep(upload)
        else:
            self.fake.deleted.append(name)
            self._send({})

    def _generate(self, model: str, *, streaming: bool) -> None:
        body = _in_camel_case(json.loads(self._body()))
        question = self.fake.over_limit() or self._question(model, body, streaming=streaming)
        if isinstance(question, Refuse):
            self._refuse(question)
            return
        with self.fake.lock:
            self.fake.questions.append(question)
        if streaming:
            self._stream(question)
        else:
            self._whole(question)

    def _question(self, model: str, body: dict[str, Any], *, streaming: bool) -> Question | Refuse:
        if "gemini" not in model:
            return Refuse(404, "NOT_FOUND", f"models/{model} is not found")
        parts = [part for content in body["contents"] for part in content["parts"]]
        media = next(part for part in parts if "text" not in part)
        prompt = " ".join(part["text"] for part in parts if "text" in part)
        config = body.get("generationConfig", {})
        if inline := media.get("inlineData"):
            data = base64.urlsafe_b64decode(inline["data"])
            sha256, size, mime_type = (
                hashlib.sha256(data).hexdigest(),
                len(data),
                inline["mimeType"],
            )
        else:
            address = media["fileData"]
            file = self.fake.files.get(
                address["fileUri"].removeprefix(f"{self.fake.base_url}/v1beta/")
            )
            if file is None:
                return NO_FILE
            if file.polls_left > 0 or file.final_state != "ACTIVE":
                return Refuse(400, "FAILED_PRECONDITION", "The File is not in an ACTIVE state")
            self._must(address["mimeType"] == file.mime_type, "the file has another type")
            sha256, size, mime_type = file.sha256, file.size, file.mime_type
        inline = inline is not None
        token = body.get("continuationToken", "")
        return Question(model, sha256, size, mime_type, prompt, streaming, inline, config, token)

    def _stream(self, question: Question) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        said = 0
        for step in self.fake.script(question):
            if isinstance(step, Hold):
                step.reached.set()
                self.fake.wait(step.until)
            elif isinstance(step, Cut):
                self.wfile.write(b"fff\r\ndata: {")  # in the middle of an event
                self._drop(reset=step.reset)
                return
            else:
                said += len(step.text) if isinstance(step, Say) else 0
                data = b"data: " + event_of(step, said) + b"\r\n\r\n"
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def _whole(self, question: Question) -> None:
        events = [json.loads(event_of(step, 7)) for step in self.fake.script(question)]
        parts = [
            part
            for event in events
            for candidate in event.get("candidates", [])
            for part in candidate.get("content", {}).get("parts", [])
        ]
        answer = events[-1]
        if "candidates" in answer:
            answer["candidates"][0]["content"] = {"role": "model", "parts": parts}
        self._send(answer)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _must(self, holds: bool, what: str) -> None:
        if not holds:
            self.fake.violations.append(f"{self.command} {self.path}: {what}")

    def _unknown(self) -> None:
        self.fake.violations.append(f"{self.command} {self.path}: no such address")
        self._body()
        self._refuse(Refuse(404, "NOT_FOUND", "no such address"))

    def _send(self, answer: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        if self.muted:
            return
        self._reply(200, answer, headers or {})

    def _refuse(self, fault: Refuse) -> None:
        details = list(fault.details)
        headers = {"X-Goog-Upload-Status": "final"} if _PIECE.fullmatch(self.path) else {}
        headers.update(fault.headers)
        if fault.retry_s is not None and fault.retry_header:
            headers["Retry-After"] = str(int(fault.retry_s))
        elif fault.retry_s is not None:
            kind = "type.googleapis.com/google.rpc.RetryInfo"
            details.append({"@type": kind, "retryDelay": f"{fault.retry_s:g}s"})
        error = {"code": fault.code, "message": fault.message, "status": fault.status}
        answer = {"error": {**error, "details": details}}
        self._reply(fault.code, answer, headers, fault.body)

    def _reply(
        self, code: int, answer: Any, headers: dict[str, str], body: bytes | None = None
    ) -> None:
        body = json.dumps(answer).encode() if body is None else body
        if "Date" in headers:
            self.send_response_only(code)
        else:
            self.send_response(code)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _drop(self, *, reset: bool) -> None:
        self.wfile.flush()
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.rfile.close()
            self.connection.close()
        else:
            _shut(self.connection)
        self.close_connection = True


def _in_camel_case(value: Any) -> Any:
    """Spell every name as the service's documentation does; it takes both spellings."""
    if isinstance(value, list):
        return [_in_camel_case(item) for item in value]
    if isinstance(value, dict):
        return {
            re.sub("_([a-z])", lambda found: found[1].upper(), name): _in_camel_case(item)
            for name, item in value.items()
        }
    return value


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client was faster
        connection.shutdown(socket.SHUT_RDWR)
