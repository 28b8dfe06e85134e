"""An output that is given to what asks for a file: `open()` passes for one, the rest says so."""

import asyncio
import codecs
import email
import gzip
import hashlib
import http.client
import http.server
import io
import os
import pickle
import random
import shutil
import socket
import tarfile
import threading
import urllib.request
import wave
import xml.dom.minidom
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest

from collector import Output, OutputLostError, SpillManager
from tests.support.processend import end_of_process

TABLE = b"a,b\n1,2\n"


@pytest.fixture(autouse=True)
def _process_ends() -> Iterator[None]:
    yield
    end_of_process()


def output_of(data: bytes, place: str) -> Output:
    """An output in memory or in a file."""
    with SpillManager(memory_threshold=20_000 if place == "memory" else 1) as manager:
        manager.write(data)
        return manager.finalize()


each_place = pytest.mark.parametrize("place", ["memory", "file"])


@pytest.fixture(scope="module", autouse=True)
def _polars_has_its_threads() -> None:
    pl.scan_csv(io.BytesIO(TABLE)).collect()


# -- how it is read --------------------------------------------------------------------------------


@each_place
def test_the_rest_is_read_in_one_piece(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RawIOBase would take 8 KiB at a time: three times as long as `Output.read`."""
    data = random.Random(7).randbytes(1_000_000)
    output = output_of(data, place)
    calls = list[int]()
    for name in ("read", "readv"):
        real = getattr(os, name)

        def counted(fd: int, wanted: Any, real: Any = real) -> Any:
            calls.append(fd)
            return real(fd, wanted)

        monkeypatch.setattr(os, name, counted)
    with output.open() as file:
        assert file.read(10) == data[:10]
        calls.clear()
        assert file.read() == data[10:]
        assert len(calls) <= 1
        assert (file.tell(), file.read()) == (len(data), b"")
        file.seek(len(data) + 5)
        assert (file.read(), file.tell()) == (b"", len(data) + 5)
        file.seek(-3, os.SEEK_END)
        assert file.read() == data[-3:]


def test_a_file_that_was_cut_is_not_read_as_a_whole_one() -> None:
    output = output_of(TABLE * 1000, "file")
    with output.open() as file:
        os.truncate(file.name, 4000)
        with pytest.raises(OutputLostError, match="ends at 4000 of"):
            file.read()


# -- what is open ----------------------------------------------------------------------------------


@each_place
def test_what_open_gives_passes_for_a_file_opened_with_rb(place: str, tmp_path: Any) -> None:
    output = output_of(TABLE, place)
    (tmp_path / "real").write_bytes(TABLE)
    with output.open() as file, open(tmp_path / "real", "rb") as real:
        assert isinstance(file, io.BufferedReader)
        assert file.mode == real.mode == "rb"
        assert isinstance(file.name, str)
        for ask in ("readable", "seekable", "writable", "isatty"):
            assert getattr(file, ask)() == getattr(real, ask)()
        assert os.fstat(file.fileno()).st_size == len(TABLE)
        assert file.read() == real.read()
    assert (file.name == os.fspath(output)) == (place == "file")


@pytest.fixture
def server() -> Iterator[tuple[int, list[tuple[dict[str, str], bytes]]]]:
    """A server on the loopback that keeps what is put there, and refuses what has no length."""
    taken: list[tuple[dict[str, str], bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            length = self.headers.get("Content-Length")
            data = self.rfile.read(int(length)) if length else b""
            taken.append((dict(self.headers.items()), data))
            self.send_response(200 if length else 411)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield listening.server_port, taken
        finally:
            listening.shutdown()
            thread.join()


@each_place
def test_requests_sends_its_length(
    place: str, server: tuple[int, list[tuple[dict[str, str], bytes]]]
) -> None:
    import requests

    port, taken = server
    data = os.urandom(900)
    with output_of(data, place).open() as file:
        answer = requests.put(f"http://127.0.0.1:{port}/", data=file, timeout=60)
    answer.raise_for_status()
    headers, sent = taken[0]
    assert headers["Content-Length"] == "900"
    assert "Transfer-Encoding" not in headers
    assert sent == data


@each_place
def test_the_standard_library_sends_it_with_the_length_of_the_output(
    place: str, server: tuple[int, list[tuple[dict[str, str], bytes]]]
) -> None:
    port, taken = server
    data = os.urandom(900)
    output = output_of(data, place)
    headers = {"Content-Length": str(len(output))}
    with output.open() as file:
        url = f"http://127.0.0.1:{port}/"
        request = urllib.request.Request(url, file, headers, method="PUT")
        urllib.request.urlopen(request, timeout=60).close()
    with output.open() as file:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("PUT", "/", file, headers)
        connection.getresponse().read()
        connection.close()
    assert [sent for _, sent in taken] == [data, data]


# -- what is not -----------------------------------------------------------------------------------


def npy() -> bytes:
    held = io.BytesIO()
    np.save(held, np.arange(3))
    return held.getvalue()


def sound() -> bytes:
    held = io.BytesIO()
    with wave.open(held, "wb") as written:
        written.setparams((1, 2, 8000, 3, "NONE", ""))
        written.writeframes(b"abcdef")
    return held.getvalue()


def sent(file: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendfile(file)


def sent_by_a_loop(file: Any) -> None:
    async def send() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            _, writer = await asyncio.open_connection(sock=ours)
            try:
                await asyncio.get_running_loop().sendfile(writer.transport, file)
            finally:
                writer.close()
                await writer.wait_closed()

    asyncio.run(send())


def of_a_tar(file: Any) -> None:
    with tarfile.open(fileobj=io.BytesIO(), mode="w") as tar:
        tar.gettarinfo(fileobj=file, arcname="x")


TAKERS: dict[str, tuple[Callable[[Any], object], bytes]] = {
    "copyfileobj": (lambda file: shutil.copyfileobj(file, io.BytesIO()), TABLE),
    "numpy.load": (np.load, npy()),
    "numpy.memmap": (lambda file: np.memmap(file, mode="r"), TABLE),
    "ElementTree": (ET.parse, b"<a/>"),
    "pickle": (pickle.load, pickle.dumps(3)),
    "TextIOWrapper": (io.TextIOWrapper, TABLE),
    "email": (email.message_from_binary_file, b"Subject: x\n\n"),
    "tarfile": (lambda file: tarfile.open(fileobj=file), bytes(10240)),  # noqa: SIM115
    "read": (lambda file: file.read(3), TABLE),
    "read nothing": (lambda file: file.read(0), TABLE),
    "seek": (lambda file: file.seek(0), TABLE),
    "readline": (lambda file: file.readline(), TABLE),
    "copyfileobj in one piece": (lambda file: shutil.copyfileobj(file, io.BytesIO(), -1), TABLE),
    "minidom in one piece": (lambda file: xml.dom.minidom.parse(file, bufsize=-1), b"<a/>"),
    "codecs read": (lambda file: codecs.getreader("utf-8")(file).read(), TABLE),
    "codecs readlines": (lambda file: codecs.getreader("utf-8")(file).readlines(), TABLE),
    "codecs some characters": (lambda file: codecs.getreader("utf-8")(file).read(-1, 3), TABLE),
    "codecs EncodedFile": (lambda file: codecs.EncodedFile(file, "utf-8").read(), TABLE),
    "gzip": (lambda file: gzip.GzipFile(fileobj=file).read(), gzip.compress(TABLE)),
    "wave": (wave.open, sound()),
    "socket": (sent, TABLE),
    "asyncio": (sent_by_a_loop, TABLE),
    "gettarinfo": (of_a_tar, TABLE),
}


@each_place
@pytest.mark.parametrize("name", TAKERS)
def test_what_takes_an_output_for_an_open_file_is_told_to_use_open(name: str, place: str) -> None:
    take, data = TAKERS[name]
    output = output_of(data, place)
    with pytest.raises((TypeError, AttributeError), match=r"[Uu]se open\(\)"):
        take(output)
    assert output.read() == data
    with output.open() as file:
        take(file)


def in_polars(source: Any) -> Any:
    return pl.scan_csv(source).collect().rows()


@each_place
@pytest.mark.parametrize(
    "take", [in_polars, lambda source: pl.read_csv(source).rows()], ids=["scan_csv", "read_csv"]
)
def test_polars_takes_the_output_and_what_open_gives(
    take: Callable[[Any], object], place: str
) -> None:
    output = output_of(TABLE, place)
    assert take(output) == [(1, 2)]
    with output.open() as file:
        assert take(file) == [(1, 2)]


def test_what_is_no_method_of_files_is_simply_missing() -> None:
    output = output_of(TABLE, "memory")
    with pytest.raises(AttributeError, match=r"^'Output' object has no attribute 'reed'$"):
        output.reed  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(output, "fileno")
    assert not hasattr(output, "__iter__")


def test_no_size_gives_all_as_often_as_it_is_asked_for() -> None:
    output = output_of(TABLE, "file")
    assert [output.read(None), output.read(-1), output.read(), output.read()] == [TABLE] * 4


def test_the_digest_of_what_open_gives_is_that_of_the_bytes() -> None:
    with output_of(TABLE, "file").open() as file:
        assert hashlib.file_digest(file, "sha256").digest() == hashlib.sha256(TABLE).digest()


def test_a_sound_is_read_from_what_open_gives() -> None:
    with SpillManager() as manager:
        with wave.open(manager, "wb") as written:
            written.setparams((1, 2, 8000, 3, "NONE", ""))
            written.writeframes(b"abcdef")
        with wave.open(manager.finalize().open(), "rb") as read:
            assert read.readframes(3) == b"abcdef"
