"""Send requests to Gemini, again when that helps, and explain failures without the API key.

Runs in:    a worker, or any process.
Owns:       the client, unless the caller gave it.
Invariants: I1  no text that leaves this module holds the API key.
            I2  no error that leaves it has an exception of the SDK as cause or context.
Source:     google-genai 3.4: no retry and no time-out by default; a connection that is cut raises
            an error of httpx, not of the SDK; an HTTP time-out is also sent to the server as the
            deadline of the whole request, hence the hook in `_open_client`.
"""

import datetime as dt
import email.utils
import json
import math
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

from collector.errors import RetryLater
from collector.integrations.gemini.errors import (
    GeminiError,
    GeminiKeyError,
    GeminiNotInstalledError,
    GeminiRequestError,
)
from collector.settings import (
    GEMINI_PAUSE_LONGEST_S,
    GEMINI_REFUSALS,
    GEMINI_RETRY_LONGEST_S,
    GEMINI_RETRY_S,
    GEMINI_SILENCE_S,
)

if TYPE_CHECKING:
    from google import genai
    from google.genai import types

T = TypeVar("T")

_MESSAGE_CHARS: Final = 500
"""An explanation of the service's is cut to this length."""

_SECRET_CHARS: Final = 8
"""A shorter word, as "Bearer", is no secret: a text without it would say less."""

TOO_MANY: Final = 429
"""The HTTP status of a service that wants a pause."""

_HTTPX: Final = ("httpx2", "httpx")
_REQUESTS: Final = "requests.exceptions"
"""The libraries by which the SDK asks; the last where it shows a certificate of the machine's."""

_NO_QUOTA: Final = re.compile(r"\blimit: 0(?!\.?[0-9])")
"""In the message of a refusal: so the service names a quota of nothing."""

_RETRY_IN: Final = re.compile(r"\s*Please retry in [0-9][0-9.hms]*")

_refusals: Final = Counter[str]()
"""For each resource: how often jobs of this process were put off for it since its last answer."""

_KEY_NAMES: Final = ("GOOGLE_API_KEY", "GEMINI_API_KEY")


@final
class GeminiRequests:
    """One client, used for one media file.

    Attributes:
        client: The client.
        file_path: The media file, for messages.
        attempts: How often a request is sent at most.
        resource: What has a gate that is closed while the service wants a pause, and the task is
            run later; empty where the task waits by itself.
    """

    def __init__(
        self,
        client: "genai.Client | None",
        *,
        file_path: str,
        attempts: int,
        on_retry: Callable[[str], None],
        patient: bool = False,
    ) -> None:
        self.file_path = file_path
        self.attempts = attempts
        self.resource = ""
        self.patient = patient
        self._refused = 0  # how often in a row, without a resource
        self._on_retry = on_retry
        self._owned = client is None
        self.client = client if client is not None else _open_client(file_path)
        self._secrets = _secrets_of(self.client)
        self._check_key()

    def close(self) -> None:
        """Close the client, unless the caller gave it."""
        if self._owned:
            self.client.close()

    def address_and_headers(self) -> tuple[str, dict[str, str]]:
        """Tell where the service is, with its version, and what each request must carry."""
        options = self.client._api_client._http_options  # noqa: SLF001 - no public way
        address = "/".join(filter(None, (str(options.base_url).rstrip("/"), options.api_version)))
        return address, dict(options.headers or {})

    def send(self, what: str, call: Callable[[], T], longest_s: float = math.inf) -> T:
        """Send a request as often as it is allowed to.

        Args:
            what: The request in words, for messages.
            call: Sends it once.
            longest_s: For so many seconds it may be put off, if that is less than for any request.
        """
        attempt, ends_s = 1, time.monotonic() + longest_s
        while True:
            try:
                return call()
            except GeminiError:
                raise
            except Exception as error:  # noqa: BLE001 - the SDK lets errors of four libraries through; judged below, outside of the block (I2)
                failure = error
            let_interrupt_through(failure)
            left_s = max(0.0, ends_s - time.monotonic())
            attempt += self.pause_or_raise(what, failure, attempt, left_s)

    def pause_or_raise(
        self,
        what: str,
        failure: Exception,
        attempt: int,
        longest_s: float = math.inf,
    ) -> int:
        """Wait before the next attempt, or raise what the failure means to the user.

        Returns:
            How many attempts the failure has used up: 1, or 0.

        Raises:
            GeminiKeyError: The service refuses the key.
            GeminiRequestError: It refuses the request, failed for the last time, or is to be left
                alone for longer than a task waits.
            RetryLater: It wants a pause, from all.
        """
        wished = wished_pause_s(failure)
        wants_pause = getattr(failure, "code", None) == TOO_MANY and is_transient(failure)
        refused = self._count_refusal() if wants_pause else 0
        if wished is None and refused > GEMINI_REFUSALS:
            wants_pause = False  # an account that is empty may be refused like this
        if self.resource and wants_pause:
            text = self.describe(failure)
            after = min(wished or _own_pause_s(refused), GEMINI_PAUSE_LONGEST_S)
            self._on_retry(f"{what} is put off for {after:g} s ({text})")
            raise RetryLater(after, self.resource, text)
        is_free = self.patient and wants_pause
        if not is_free and (attempt >= self.attempts or not is_transient(failure)):
            raise self.explained(what, failure, attempt)
        longest_s = min(longest_s, GEMINI_PAUSE_LONGEST_S)
        if wished is not None and wished > longest_s:
            longest = f"a task waits for {longest_s:.4g} s at most"
            more = f"; it is to be asked again in {wished:g} s, and {longest}"
            raise self.explained(what, failure, attempt, more)
        why = f"{what} failed ({self.describe(failure)})"
        if is_free:
            self._wait(f"{why}; again", wished or _own_pause_s(refused))
            return 0
        self.pause(why, attempt, wished)
        return 1

    def answered(self) -> None:
        """Note that the service has answered: a refusal after this is the first in a row."""
        _refusals.pop(self.resource, None)
        self._refused = 0

    def _count_refusal(self) -> int:
        """Count one more refusal in a row, and return how many there are."""
        if not self.resource:
            self._refused += 1
            return self._refused
        _refusals[self.resource] += 1
        return _refusals[self.resource]

    def pause(self, why: str, attempt: int, wished: float | None = None) -> None:
        """Wait before the next attempt: as long as the service wishes, else twice as long each."""
        delay = wished or _own_pause_s(attempt)  # a wish of no length would be asked again for ever
        self._wait(f"{why}; attempt {attempt + 1} of {self.attempts}", delay)

    def _wait(self, what: str, delay_s: float) -> None:
        self._on_retry(f"{what} in {delay_s:.1f} s")
        time.sleep(delay_s)

    def describe(self, failure: Exception) -> str:
        """Say in one line what went wrong, without the API key."""
        code = getattr(failure, "code", None)
        if code is None:
            text = f"{type(failure).__name__}: {failure}"
        else:
            status = getattr(failure, "status", None) or ""
            text = f"{code} {status}: {getattr(failure, 'message', None) or failure}"
        if code == TOO_MANY and not is_transient(failure):  # the time is another one each time
            text = _RETRY_IN.sub("", text)
        # Redacted first: a cut through the middle of the key would leave half of it.
        return " ".join(self.redact(text).split())[:_MESSAGE_CHARS]

    def redact(self, text: str) -> str:
        """Take every secret of the client out of a text (I1): the service may quote the key."""
        for secret in _longest_first([*self._secrets, _bearer_of(self.client)]):
            text = text.replace(secret, "[API key]")
        return text

    def keep_secret(self, options: "types.HttpOptions | None") -> None:
        """Take the secrets of one request's options out of texts, too."""
        self._secrets = _longest_first([*self._secrets, *_secret_headers(options)])

    def _check_key(self) -> None:
        """Refuse a key that cannot be sent: the HTTP layer would quote it in error and log (I1)."""
        key = getattr(self.client._api_client, "api_key", None)  # noqa: SLF001 - no public way
        if key is None or re.fullmatch("[!-~]+", key) is not None:
            return
        self.close()
        message = "the API key has a character that no key has (a space, a line end, an accent?)"
        raise GeminiKeyError(message, self.file_path)

    def explained(self, what: str, failure: Exception, attempt: int, more: str = "") -> GeminiError:
        """Make the error that says what a failure means to the user, and `more`."""
        code = getattr(failure, "code", None)
        text = self.describe(failure)
        if code in {401, 403} or "API_KEY" in str(getattr(failure, "details", "")):
            return GeminiKeyError(f"Gemini refused {what}: {text}", self.file_path, f"{code}")
        times = f" {attempt} times" if attempt > 1 else ""
        return GeminiRequestError(
            f"{what} for {self.file_path} failed{times}: {text}{more}",
            self.file_path,
            f"{code} {getattr(failure, 'status', None) or ''}".strip() if code else "",
            code,
        )


def one_attempt(options: "types.HttpOptions | None") -> "types.HttpOptions":
    """The caller's options with the SDK's own retries off: they would multiply with ours."""
    from google.genai import types

    once = types.HttpRetryOptions(attempts=1)
    return (options or types.HttpOptions()).model_copy(update={"retry_options": once})


def let_interrupt_through(failure: Exception) -> None:
    """Raise the Ctrl-C that a failure was made of.

    The SDK's models are built at their first use, and what interrupts pydantic there comes out of
    it as a `SchemaError`, in its text alone.
    """
    if type(failure).__name__ == "SchemaError" and "KeyboardInterrupt" in str(failure):
        raise KeyboardInterrupt


def is_transient(failure: Exception) -> bool:
    """Tell whether the same request may succeed later: 408, 429, 5xx, a lost connection.

    A quota of 0, as a project without billing has for many models, is refused as one that is used
    up, with a time to wait: a 429 for it comes again for ever.
    """
    code = getattr(failure, "code", None)
    if isinstance(code, int):
        if code == TOO_MANY and _NO_QUOTA.search(str(getattr(failure, "details", ""))):
            return False
        return code in {408, 429} or 500 <= code < 600  # noqa: PLR2004 - the class of 5xx
    auth = sys.modules.get("google.auth.exceptions")
    if auth is not None and isinstance(failure, auth.GoogleAuthError):  # there was no token
        return isinstance(failure, auth.TransportError) or bool(failure.retryable)
    return _is_lost_connection(failure)


def _is_lost_connection(failure: Exception) -> bool:
    for module in filter(None, map(sys.modules.get, _HTTPX)):
        if isinstance(failure, (module.LocalProtocolError, module.UnsupportedProtocol)):
            return False
        if isinstance(failure, module.TransportError):
            return True
    other = sys.modules.get(_REQUESTS)
    if other is None:
        return False
    return isinstance(failure, (other.ConnectionError, other.Timeout, other.ChunkedEncodingError))


def is_silence(failure: Exception) -> bool:
    """Tell whether a request was sent and not answered in time: the service may be at it still."""
    modules = filter(None, map(sys.modules.get, (*_HTTPX, _REQUESTS)))
    return any(isinstance(failure, module.ReadTimeout) for module in modules)


def wished_pause_s(failure: Exception) -> float | None:
    """How many seconds the service asks to wait (RetryInfo, or Retry-After), if it does."""
    found = re.search("'retryDelay': '([^']*)s'", str(getattr(failure, "details", "")))
    headers = getattr(getattr(failure, "response", None), "headers", None) or {}
    for text in (found[1] if found is not None else "", str(headers.get("retry-after", ""))):
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) and math.isfinite(seconds := float(text)):
            return seconds
    return _seconds_until(str(headers.get("retry-after", "")), str(headers.get("date", "")))


def _seconds_until(date: str, now: str) -> float | None:
    """How many seconds it is from a date of HTTP to another, or from now if that one is none."""
    until = _time_of(date)
    if until is None:
        return None
    since = _time_of(now)
    return max(0.0, until - (time.time() if since is None else since))


def _time_of(date: str) -> float | None:
    try:
        found = email.utils.parsedate_to_datetime(date)
    except (TypeError, ValueError, LookupError, ArithmeticError):  # that is none
        return None
    return (found if found.tzinfo else found.replace(tzinfo=dt.UTC)).timestamp()


def _own_pause_s(times: int) -> float:
    """How many seconds to wait after so many refusals, where the service does not say."""
    grown = GEMINI_RETRY_S * 2.0 ** min(times - 1, 30) * random.uniform(1, 1.5)  # noqa: S311 - jitter
    return min(grown, GEMINI_RETRY_LONGEST_S)


def _open_client(file_path: str) -> "genai.Client":
    """Make a client from the environment, with a limit on silence."""
    try:
        from google import genai
        from google.genai import types
    except ImportError as error:
        message = "google-genai is not installed: pip install 'collector[gemini]'"
        raise GeminiNotInstalledError(message, file_path) from error

    hooks = {"request": [_limit_silence], "response": [_tell_status]}
    # A redirect would take the key, which is in a header of its own, to any host.
    options = types.HttpOptions(client_args={"event_hooks": hooks, "follow_redirects": False})
    try:
        return genai.Client(http_options=options)
    except Exception as error:  # noqa: BLE001 - explained below, outside of the block (I2)
        failure = error
    if any(map(os.environ.get, _KEY_NAMES)):
        # Not its text: it is not known what the SDK, or what it calls, would quote.
        message = f"a client for Gemini cannot be made ({type(failure).__name__}): pass client="
    else:
        message = (
            "there is no API key for Gemini: set GEMINI_API_KEY "
            "(https://aistudio.google.com/apikey makes one), or pass client="
        )
    raise GeminiKeyError(message, file_path)


def _limit_silence(request: Any) -> None:
    given = request.extensions.get("timeout") or {}
    request.extensions["timeout"] = {
        name: min(given.get(name) or GEMINI_SILENCE_S, GEMINI_SILENCE_S)
        for name in ("connect", "read", "write", "pool")
    }


def _tell_status(response: Any) -> None:
    """Raise the SDK's error for a refusal that it cannot read: it would raise what reading does."""
    if response.is_success:
        return
    try:
        response.read()
        response.json()
    except json.JSONDecodeError:  # some text: the SDK tells it
        return
    except Exception:  # noqa: BLE001 - whatever its body is like, its status says what to do
        unreadable = {"message": "its body cannot be read", "status": response.reason_phrase}
    else:
        return
    from google.genai import errors

    errors.APIError.raise_error(response.status_code, unreadable, response)


def _secrets_of(client: "genai.Client") -> list[str]:
    """Everything that must not be told: keys of the client and of the environment."""
    inner = getattr(client, "_api_client", None)
    found = {getattr(inner, "api_key", None)}
    found.update(map(os.environ.get, _KEY_NAMES))
    found.update(_secret_headers(getattr(inner, "_http_options", None)))
    return _longest_first(found)


def _bearer_of(client: "genai.Client") -> str | None:
    """What asks Vertex AI in the place of a key; another one each hour."""
    inner = getattr(client, "_api_client", None)
    token = getattr(getattr(inner, "_credentials", None), "token", None)
    return token if isinstance(token, str) else None


def _secret_headers(options: "types.HttpOptions | None") -> list[str]:
    """Values of headers that are secret, and their words: a scheme or a name may stand before."""
    headers = getattr(options, "headers", None) or {}
    values = [
        value
        for name, value in headers.items()
        if re.search("key|auth|token|cookie", name, re.IGNORECASE)
    ]
    words = (word for value in values for word in re.split(r"[\s;,=]+", value))
    return [*values, *(word for word in words if len(word) >= _SECRET_CHARS)]


def _longest_first(secrets: Iterable[str | None]) -> list[str]:
    """Sort them so that none is replaced in a part only."""
    known = {text.strip() for text in secrets if text and text.strip()}
    return sorted(known, key=len, reverse=True)
