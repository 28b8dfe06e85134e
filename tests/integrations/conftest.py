"""What the tests of the integrations share: a fake Gemini and the environment that leads to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integrations.fake_gemini import KEY, FakeGemini
from tests.support.processend import end_of_process

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _process_ends() -> Iterator[None]:
    yield
    end_of_process()


@pytest.fixture
def gemini(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGemini]:
    """A fake service; the environment leads the SDK to it, and back after a failure at once."""
    for name in (*PROXIES, *map(str.upper, PROXIES), "GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("collector.integrations.gemini_requests.GEMINI_RETRY_S", 0.01)
    monkeypatch.setattr("collector.integrations.gemini_service.GEMINI_POLL_S", 0.01)
    with FakeGemini() as fake:
        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", fake.base_url)
        yield fake
    assert fake.violations == []


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A media file of a few bytes."""
    path = tmp_path / "ein Vidéo.mp4"
    path.write_bytes(b"moving pictures" * 100)
    return path
