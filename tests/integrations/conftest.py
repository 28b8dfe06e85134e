"""What the tests of the integrations share: a fake Gemini and the environment that leads to it."""

import os
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest

from tests.integrations.fake_gemini import KEY, FakeGemini

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _ends_the_process(process_ends: None) -> None:
    """Each of these tests leaves outputs behind."""


@pytest.fixture(scope="session")
def one_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one root certificate, where the SDK finds more than a hundred by itself.

    Each client loads them twice, which takes longer than all that it asks a service on loopback.
    """
    first, end, _ = Path(certifi.where()).read_text("utf-8").partition("-----END CERTIFICATE-----")
    path = tmp_path_factory.mktemp("certificates") / "one.pem"
    path.write_text(f"{first}{end}\n", "utf-8")
    return path


@pytest.fixture
def gemini(monkeypatch: pytest.MonkeyPatch, one_root: Path) -> Iterator[FakeGemini]:
    """A fake service; the environment leads the SDK to it, and back after a failure at once."""
    for name in (*PROXIES, *map(str.upper, PROXIES), "GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("collector.integrations.gemini.requests.GEMINI_RETRY_S", 0.01)
    monkeypatch.setattr("collector.integrations.gemini.service.GEMINI_POLL_S", 0.01)
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(one_root))
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


@pytest.fixture(params=["without a name", "with a name"])
def aside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The two ways to write a file aside; the second is for file systems without the first."""
    if request.param == "with a name":
        monkeypatch.setattr("collector.store.output.publish._can_have_no_name", lambda: False)
    return str(request.param)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The file that the text is about."""
    path = tmp_path / "talk.mp4"
    path.write_bytes(b"moving pictures")
    return path
