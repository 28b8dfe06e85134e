"""A client of Vertex AI asks for a token first, and may ask by another library."""

from pathlib import Path
from typing import Any

import pytest
import requests.exceptions
from google import genai
from google.auth import exceptions
from google.auth.credentials import Credentials
from google.genai import types

from collector.integrations.gemini import GeminiRequestError
from collector.integrations.gemini.requests import GeminiRequests, is_silence, is_transient
from tests.integrations.fake_gemini import FakeGemini
from tests.integrations.gemini_calls import run

errors: Any = exceptions  # of functions without types
GRANT = errors.RefreshError("invalid_grant: Token has been expired or revoked.")


class Refused(Credentials):
    """Credentials for which no token is to be had."""

    def __init__(self, failure: Exception) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.failure = failure
        self.asked = 0

    def refresh(self, request: object) -> None:
        """Ask for a token."""
        self.asked += 1
        raise self.failure


def client_with(credentials: Credentials, gemini: FakeGemini) -> genai.Client:
    """A client of Vertex AI."""
    options = types.HttpOptions(base_url=gemini.base_url)
    return genai.Client(
        vertexai=True, credentials=credentials, project="p", location="l", http_options=options
    )


@pytest.mark.parametrize(
    ("failure", "asked"),
    [
        (errors.TransportError("Connection reset by peer"), 3),
        (errors.RefreshError("internal_failure", retryable=True), 3),
        (GRANT, 1),
    ],
)
def test_a_token_is_asked_for_again_where_that_helps(
    gemini: FakeGemini,
    video: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    asked: int,
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY")
    credentials = Refused(failure)
    client = client_with(credentials, gemini)
    with pytest.raises(GeminiRequestError, match=str(failure)):
        run(video, client=client)
    client.close()
    assert credentials.asked == asked
    assert gemini.calls == []


@pytest.mark.parametrize(
    ("failure", "transient", "silent"),
    [
        (requests.exceptions.ConnectionError("reset"), True, False),
        (requests.exceptions.ConnectTimeout("timed out"), True, False),
        (requests.exceptions.ChunkedEncodingError("cut"), True, False),
        (requests.exceptions.ReadTimeout("timed out"), True, True),
        (requests.exceptions.InvalidURL("no host"), False, False),
        (requests.exceptions.TooManyRedirects("30"), False, False),
    ],
)
def test_a_lost_connection_of_requests_is_one(
    failure: Exception, transient: bool, silent: bool
) -> None:
    """By that library a client asks that shows a certificate of its own."""
    assert is_transient(failure) is transient
    assert is_silence(failure) is silent


def test_a_token_is_not_told_where_the_service_quotes_it(
    gemini: FakeGemini, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY")
    credentials = Refused(GRANT)
    client = client_with(credentials, gemini)
    task = GeminiRequests(client, file_path="talk.mp4", attempts=1, on_retry=lambda _: None)
    for token in ("ya29.first", "ya29.second-and-longer"):
        credentials.token = token  # a new one each hour
        failure = ConnectionError(f"Authorization: Bearer {token} is not known here")
        assert task.describe(failure).endswith("Bearer [API key] is not known here")
    client.close()
