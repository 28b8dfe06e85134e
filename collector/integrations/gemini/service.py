"""What one media task asks of Gemini: take a file, process it, answer a question, forget the file.

Runs in:    a worker, or any process.
Owns:       the remote files, by names of our own choosing.
Invariants: I1  a remote file has its name before the first byte is sent, so that it can be deleted
                whatever happens to the upload: by us, or by the keeper if we are killed.
            I2  the service gets the bytes that were announced, or the upload fails.
            I3  nothing that happens to a deletion hurts an answer that is there, or delays it for
                long: it is asked for once, and what fails then is left to the keeper.
"""

import contextlib
import io
import os
import secrets
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, cast, final

from collector.integrations.gemini.errors import (
    GeminiFileChangedError,
    GeminiProcessingError,
    GeminiProcessingTimeoutError,
    GeminiRequestError,
)
from collector.integrations.gemini.keeper import Keeper
from collector.integrations.gemini.requests import (
    GeminiRequests,
    let_interrupt_through,
    one_attempt,
)
from collector.logger import PackageLogger
from collector.settings import GEMINI_DELETION_S, GEMINI_POLL_LONGEST_S, GEMINI_POLL_S

if TYPE_CHECKING:
    from google.genai import types

_SECOND_LOOK_S: Final = 0.5
"""After an interrupted upload: how long the service may take to make a file of what it has."""

_GONE: Final = (403, 404)
"""How the service answers when a file does not exist (403: or it is somebody else's)."""

_log = PackageLogger()


@final
class GeminiService:
    """The service, for one media file. A context manager: leaving it deletes the remote files."""

    def __init__(self, requests: GeminiRequests, *, delete_remote: bool) -> None:
        self.requests = requests
        self._delete_remote = delete_remote
        self._uploads: dict[str, bool] = {}  # name of a remote file -> did its upload return?
        self._keeper = Keeper(*requests.address_and_headers()) if delete_remote else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        done = False
        with contextlib.closing(self.requests):
            try:
                done = self._delete_all()
            finally:
                if self._keeper is not None:
                    self._keeper.dismiss(done=done)

    @property
    def remote_file(self) -> str | None:
        """Name of the uploaded file, if there is one."""
        return next((f"files/{name}" for name, whole in self._uploads.items() if whole), None)

    def upload(self, size: int, mime_type: str, on_bytes: Callable[[int], None]) -> "types.File":
        """Send the media file through the Files API.

        Args:
            size: Size of the file in bytes, as it was when it was checked.
            mime_type: Its type.
            on_bytes: Told how many bytes have been read for sending, after each piece.

        Raises:
            GeminiFileChangedError: The file shrank meanwhile, or was rewritten in place.
            OSError: The file cannot be opened.
            GeminiKeyError, GeminiRequestError: The service refuses, or cannot be reached.
        """
        from google.genai import types

        if self.requests.client.vertexai:
            message = "Vertex AI takes no uploads: raise inline_limit, or use a Gemini API key"
            raise GeminiRequestError(message, self.requests.file_path)

        name = ""

        def about_to_send(read: int) -> None:
            self._uploads[name] = False  # I1; before, there is nothing to delete
            on_bytes(read)

        def send() -> "types.File":
            nonlocal name
            name = f"collector-{secrets.token_hex(8)}"
            if self._keeper is not None:
                self._keeper.watch(name)
            media.seek(0)  # the SDK sends what is behind the position
            remote = self.requests.client.files.upload(
                file=media,
                config=types.UploadFileConfig(
                    name=name,
                    mime_type=mime_type,
                    display_name=_as_text(os.path.basename(self.requests.file_path))[:512],
                    http_options=one_attempt(None),
                ),
            )
            self._uploads[name] = True
            return remote

        with MediaReader(self.requests.file_path, size, about_to_send) as media:
            return self.requests.send("the upload", send)

    def wait_until_active(
        self, remote: "types.File", timeout: float, on_look: Callable[[str], None]
    ) -> "types.File":
        """Wait until the service has processed an uploaded file.

        Args:
            remote: The file, as the upload returned it.
            timeout: Seconds.
            on_look: Told the file's state at each look.

        Raises:
            GeminiProcessingError: The service gave the file up.
            GeminiProcessingTimeoutError: It took longer than `timeout`.
        """
        requests = self.requests
        deadline = time.monotonic() + timeout
        delay = GEMINI_POLL_S
        while True:
            state = str(remote.state.name) if remote.state is not None else "unknown"
            on_look(state)
            if state == "ACTIVE":
                return remote
            if state == "FAILED":
                why = requests.redact(str(remote.error.message if remote.error else "no reason"))
                message = f"Gemini could not process {requests.file_path}: {why}"
                raise GeminiProcessingError(message, requests.file_path, state)
            left = deadline - time.monotonic()
            if left <= 0:
                message = (
                    f"Gemini was still processing {requests.file_path} after {timeout:g} s "
                    "(processing_timeout)"
                )
                raise GeminiProcessingTimeoutError(message, requests.file_path, state)
            time.sleep(min(delay, left))
            delay = min(delay * 1.5, GEMINI_POLL_LONGEST_S)
            look = partial(self._look, remote.name)
            left = max(0.0, deadline - time.monotonic())
            remote = requests.send("a look at the uploaded file", look, left)

    def generate(
        self,
        model: str,
        contents: "list[types.Part]",
        config: "types.GenerateContentConfig",
        *,
        streaming: bool,
        token: bytes | None,
    ) -> "Generator[types.GenerateContentResponse, None, None]":
        """Ask the model once. The request is sent, and may fail, at the first `next`.

        The SDK would keep the whole answer for automatic function calling, so that is off. It would
        send further requests for an answer that has more parts, so that is, too.
        """
        from google.genai import types

        changes: dict[str, Any] = {
            "automatic_function_calling": types.AutomaticFunctionCallingConfig(disable=True),
            "http_options": one_attempt(config.http_options),
        }
        if "automatic_continuation" in types.GenerateContentConfig.model_fields:  # not in 3.4
            changes["automatic_continuation"] = False
        if token is not None:
            changes["continuation_token"] = token
        config = config.model_copy(update=changes)
        models = self.requests.client.models
        whole = cast("types.ContentListUnionDict", list(contents))  # what it says depends on Pillow
        if streaming:
            yield from models.generate_content_stream(model=model, contents=whole, config=config)
        else:
            yield models.generate_content(model=model, contents=whole, config=config)

    def _look(self, name: str | None) -> "types.File":
        from google.genai import types

        return self.requests.client.files.get(
            name=str(name), config=types.GetFileConfig(http_options=one_attempt(None))
        )

    def _delete_all(self) -> bool:
        """Delete the remote files that are not to be kept; False if one may be there still."""
        names = [name for name, whole in self._uploads.items() if self._delete_remote or not whole]
        deleted = [self._delete(name, uploaded=self._uploads[name]) for name in names]
        return all(deleted)

    def _delete(self, name: str, *, uploaded: bool) -> bool:
        """Delete a remote file; False if it may be there still. Never raises (I3)."""
        failure = self._try_to_delete(name)
        if not uploaded and getattr(failure, "code", None) in _GONE:
            # 1. we sent the last piece, 2. were interrupted, 3. and asked for the deletion before
            # the service had made a file of the pieces: so ask a second time.
            time.sleep(_SECOND_LOOK_S)
            failure = self._try_to_delete(name)
        if failure is None or getattr(failure, "code", None) in _GONE:
            return True
        message = (
            "the deletion of the remote file %s failed: %s; Gemini keeps it for 48 hours at most"
        )
        _log.warning(message, name, self.requests.describe(failure))
        return False

    def _try_to_delete(self, name: str) -> Exception | None:
        """Ask once for the deletion; return why it was not done."""
        from google.genai import types

        soon = types.HttpOptions(timeout=int(GEMINI_DELETION_S * 1000))
        try:
            self.requests.client.files.delete(
                name=name, config=types.DeleteFileConfig(http_options=one_attempt(soon))
            )
        except Exception as error:  # noqa: BLE001 - the caller goes on whatever it was (I3)
            failure = error
        else:
            return None
        let_interrupt_through(failure)
        return failure


def _as_text(name: str) -> str:
    """Return the name of a file without half characters: the service takes none."""
    return name.encode("utf-8", "replace").decode()


@final
class MediaReader(io.FileIO):
    """The media file as it is sent: exactly the bytes that were announced (I2).

    Left alone the SDK sends empty pieces for ever when the file has shrunk, and more than it
    announced when it has grown.
    """

    def __init__(self, path: str, size: int, on_bytes: Callable[[int], None]) -> None:
        super().__init__(path, "rb")
        self._path = path
        self._size = size
        self._on_bytes = on_bytes
        self._modified_ns = os.fstat(self.fileno()).st_mtime_ns

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position; the end is where it was announced to be."""
        if whence == os.SEEK_END:  # how the SDK asks for the size
            return super().seek(self._size + offset)
        return super().seek(offset, whence)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read so many bytes, or up to the end that was announced.

        Raises:
            GeminiFileChangedError: The file has shrunk, or was rewritten since it was opened.
        """
        left = self._size - self.tell()
        wanted = left if size is None or size < 0 else min(size, left)
        data = super().read(wanted) or b""
        while len(data) < wanted and (more := super().read(wanted - len(data))):
            data += more
        if len(data) < wanted:
            message = f"{self._path} was cut short while it was being sent: send it again"
            raise GeminiFileChangedError(message, self._path)
        if self.tell() >= self._size:
            self._check_unchanged()
        self._on_bytes(self.tell())
        return data

    def _check_unchanged(self) -> None:
        """Refuse a file that has other bytes and no more of them: it was rewritten in place."""
        status = os.fstat(self.fileno())
        if status.st_size == self._size and status.st_mtime_ns != self._modified_ns:
            message = f"{self._path} was rewritten while it was being sent: send it again"
            raise GeminiFileChangedError(message, self._path)
