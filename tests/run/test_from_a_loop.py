"""The lines of docs/how-to/from-a-loop.md, run as they stand there, where their tools are."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "from-a-loop.md"
LINES = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
NAMES = ["plain", "with space", "it's"]

PDF = (
    b"%PDF-1.1\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</Font<</F 5 "
    b"0 R>>>>>>endobj\n4 0 obj<</Length 37>>stream\nBT /F 12 Tf 10 100 Td (Hello) Tj ET\nendstream "
    b"endobj\n5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\n"
    b"trailer<</Root 1 0 R/Size 6>>\n%%EOF\n"
)


def line_with(word: str) -> str:
    found: list[str] = [line for line in LINES if word in line]
    (line,) = found
    return line


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory of a person's, with names as they come."""
    for name in ("small", "pages", "text", "src"):
        (tmp_path / name).mkdir()
    for number, name in enumerate(NAMES, 1):
        (tmp_path / f"{name}.txt").write_text("one two\nthree\n" * number)
        (tmp_path / f"{name}.log").write_text(f"fine\nERROR in {name}\n")
        (tmp_path / f"{name}.csv").write_text("1,a\n2,b\n3,b\n")
        (tmp_path / f"{name}.pdf").write_bytes(PDF)
        (tmp_path / "src" / f"{name}.py").write_text("x = 1\n")
        with wave.open(os.fspath(tmp_path / f"{name}.wav"), "wb") as sound:
            sound.setparams((1, 2, 8000, 800, "NONE", "none"))
            sound.writeframes(bytes(1600))
    (tmp_path / "lengths.py").write_text(
        "def longest_line(name):\n"
        "    with open(name) as file:\n"
        "        yield f'{max(map(len, file))} {name}\\n'\n"
    )
    return tmp_path


def typed(line: str, place: Path) -> str:
    """Type a line at a shell; returns what it prints on stdout."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=place,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def needs(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")


def test_every_line_of_the_page_is_run_here() -> None:
    words = ["convert", "grep", "curl", "wc -w", "tabnanny", "sox", "pdftotext", "--python"]
    words += ["cat <<END", "uniq"]
    assert sorted(map(line_with, words)) == sorted(LINES)


def test_convert_images(place: Path) -> None:
    needs("convert")
    version = subprocess.run(["convert", "-version"], capture_output=True, check=False).stdout
    if b"ImageMagick" not in version:
        pytest.skip("what is called convert is not ImageMagick's")
    for name in NAMES:
        subprocess.run(["convert", "-size", "8x8", "xc:red", f"{name}.jpg"], cwd=place, check=True)
    typed(line_with("convert"), place)
    assert sorted(os.listdir(place / "small")) == sorted(f"{name}.png" for name in NAMES)


def test_search_in_logs(place: Path) -> None:
    found = typed(line_with("grep"), place).splitlines()
    assert sorted(found) == sorted(f"{name}.log\tERROR in {name}" for name in NAMES)


@pytest.fixture
def address(place: Path) -> Iterator[str]:
    """A server on loopback that serves the directory."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=os.fspath(place))
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_fetch_pages(place: Path, address: str) -> None:
    needs("curl")
    (place / "urls.txt").write_text(f"{address}/plain.txt\n{address}/plain.csv\n")
    typed(line_with("curl"), place)
    assert (place / "pages" / "plain.txt").read_bytes() == (place / "plain.txt").read_bytes()
    assert (place / "pages" / "plain.csv").read_bytes() == (place / "plain.csv").read_bytes()


def test_count_words(place: Path) -> None:
    found = typed(line_with("wc -w"), place).splitlines()
    assert [int(line.split()[0]) for line in found] == [3, 6, 9]


def test_check_a_tree(place: Path) -> None:
    typed(line_with("tabnanny"), place)


def test_transcode(place: Path) -> None:
    needs("sox")
    typed(line_with("sox"), place)
    assert all((place / f"{name}.ogg").stat().st_size for name in NAMES)


def test_take_the_text_out_of_pdfs_and_again(place: Path) -> None:
    needs("pdftotext")
    for _ in range(2):
        typed(line_with("pdftotext"), place)
        assert sorted(os.listdir(place / "text")) == sorted(f"{name}.txt" for name in NAMES)


def test_call_a_function(place: Path) -> None:
    found = typed(line_with("--python"), place).splitlines()
    assert sorted(found) == sorted(f"8 {name}.txt" for name in NAMES)


def test_fill_in_a_here_document(place: Path) -> None:
    found = typed(line_with("cat <<END"), place)
    assert found == "".join(f"Dear {name},\nall is well.\n" for name in ("Ada", "O'Brien", "$(id)"))


def test_a_pipeline(place: Path) -> None:
    assert typed(line_with("uniq"), place).split() == ["2", "b"] * len(NAMES)
