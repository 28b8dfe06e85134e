"""What writes to a file: the writers of the standard library, and the list of all writers.

Each takes a binary file and writes the same into it each time. What it has written is compared byte
by byte, or by `meaning` where a name, a time or a seek may make a difference.
"""

import array
import base64
import bz2
import codecs
import configparser
import contextlib
import csv
import email.generator
import email.message
import gzip
import io
import json
import logging
import lzma
import marshal
import mmap
import pickle
import plistlib
import pprint
import shutil
import tarfile
import tempfile
import wave
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

Writer = Callable[[Any], object]
Meaning = Callable[[bytes], object]

WRITERS: Final[dict[str, Writer]] = {}
MEANINGS: Final[dict[str, Meaning]] = {}
TEXT: Final = "grüße, 世界 🎬\nend\n"
DATA: Final = bytes(range(256)) * 2000
NUMBERS: Final = np.arange(100_000, dtype=">i4").reshape(1000, 100)
SMALL: Final = np.arange(100, dtype="f2")


def writes(meaning: Meaning | None = None) -> Callable[[Writer], Writer]:
    """Add a writer to the list, with what tells the meaning of what it has written."""

    def add(writer: Writer) -> Writer:
        WRITERS[writer.__name__] = writer
        if meaning is not None:
            MEANINGS[writer.__name__] = meaning
        return writer

    return add


def meaning_of(name: str, data: bytes) -> object:
    """Return what is to be equal of what a writer has written."""
    return MEANINGS[name](data) if name in MEANINGS else data


# -- meanings --------------------------------------------------------------------------------------


def in_zip(data: bytes) -> object:
    """The members of an archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def in_tar(data: bytes) -> object:
    """The members of an archive."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]


def utf_16(data: bytes) -> str:
    """The text: into a pipe, and into anything else that cannot seek, Python writes no BOM."""
    return data.decode("utf-16")


# -- the standard library --------------------------------------------------------------------------


@writes()
def bytes_and_empty_ones(file: Any) -> None:
    assert [file.write(chunk) for chunk in (b"", DATA, b"x")] == [0, len(DATA), 1]


@writes()
def lines(file: Any) -> None:
    file.writelines(line for line in (b"a\n", b"b", bytearray(b"c\n")))


@writes()
def a_block_that_is_left(file: Any) -> None:
    file.write(b"before\n")
    file.flush()
    file.writelines([])
    assert file.tell() == len(b"before\n")
    file.write(b"after\n")


@writes()
def buffers_of_every_kind(file: Any) -> None:
    with tempfile.TemporaryFile() as backing:
        backing.write(DATA)
        backing.flush()
        with mmap.mmap(backing.fileno(), 0) as mapped:
            assert file.write(mapped) == len(DATA)
    buffers: list[Any] = [
        array.array("d", [1.5] * 20_000),
        memoryview(b"view"),
        memoryview(array.array("H", [1, 2])),
        pickle.PickleBuffer(DATA),
        NUMBERS,
        SMALL,
        np.zeros(5, dtype=[("a", "<i4"), ("b", ">f8")]),
        np.zeros((0, 3)),
        np.arange(5).astype("M8[s]"),
        np.zeros(5, dtype=[("a", "<i4"), ("when", "m8[D]")]),
        pa.py_buffer(DATA),
        pa.array([1, 2, 3]).buffers()[1],
    ]
    for buffer in buffers:
        assert file.write(buffer) == len(b"".join((buffer,)))


@writes()
def pickle_2(file: Any) -> None:
    pickle.dump({"text": TEXT, "data": DATA, "numbers": NUMBERS}, file, protocol=2)


@writes()
def pickle_5(file: Any) -> None:
    big = pickle.PickleBuffer(DATA * 2)
    pickle.dump([TEXT * 20_000, bytearray(DATA), NUMBERS, NUMBERS.T, big], file, protocol=5)


@writes()
def marshal_dump(file: Any) -> None:
    marshal.dump({"text": TEXT, "data": DATA}, file)


@writes()
def plist(file: Any) -> None:
    plistlib.dump({"text": TEXT, "n": [1, 2]}, file)


@writes()
def array_to_file(file: Any) -> None:
    array.array("d", [0.5] * 30_000).tofile(file)


@writes()
def copy(file: Any) -> None:
    shutil.copyfileobj(io.BytesIO(DATA), file)


@writes()
def base_64(file: Any) -> None:
    base64.encode(io.BytesIO(DATA), file)


@writes()
def mail(file: Any) -> None:
    message = email.message.EmailMessage()
    message.set_content(TEXT)
    email.generator.BytesGenerator(file).flatten(message)


@writes()
def xml_utf_8(file: Any) -> None:
    ET.ElementTree(ET.fromstring("<a><b>ü</b></a>")).write(file, encoding="utf-8")


@writes(utf_16)
def xml_utf_16(file: Any) -> None:
    ET.ElementTree(ET.fromstring("<a><b>ü</b></a>")).write(file, encoding="utf-16")


@writes()
def text_latin_1(file: Any) -> None:
    with io.TextIOWrapper(file, "latin-1", errors="xmlcharrefreplace", newline="\r\n") as text:
        text.write(TEXT * 3000)


@writes(utf_16)
def text_utf_16(file: Any) -> None:
    text = io.TextIOWrapper(file, "utf-16", write_through=True)
    print(TEXT, file=text)
    text.detach()


@writes()
def text_that_is_left_to_the_collector(file: Any) -> None:
    io.TextIOWrapper(file, "utf-8").write(TEXT)


@writes()
def codec(file: Any) -> None:
    codecs.getwriter("utf-32-le")(file).write(TEXT)


@writes()
def buffered(file: Any) -> None:
    with io.BufferedWriter(file, 1000) as writer:
        for size in (1, 999, 5, 3000):
            writer.write(DATA[:size])


@writes()
def gzipped(file: Any) -> None:
    with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        packed.write(DATA)


@writes(gzip.decompress)
def gzipped_as_it_is(file: Any) -> None:
    with gzip.open(file, "wt", encoding="utf-8") as packed:
        packed.write(TEXT)


@writes()
def bzipped(file: Any) -> None:
    with bz2.open(file, "wb") as packed:
        packed.write(DATA)


@writes()
def xz(file: Any) -> None:
    with lzma.open(file, "wb") as packed:
        packed.write(DATA)


@writes(in_zip)
def zip_archive(file: Any) -> None:
    file.write(b"a launcher before the archive\n")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("text.txt", TEXT)
        with archive.open("data.bin", "w") as member:
            member.write(DATA)
        archive.writestr(zipfile.ZipInfo("stored"), DATA)


@writes()
def tar_archive(file: Any) -> None:
    tar(file, "w")


@writes()
def tar_stream(file: Any) -> None:
    tar(file, "w|")


@writes(in_tar)
def tar_gz(file: Any) -> None:
    tar(file, "w:gz")


@writes()
def tar_xz(file: Any) -> None:
    tar(file, "w:xz")


def tar(file: Any, mode: Any) -> None:
    with tarfile.open("archive.tar", mode, fileobj=file) as archive:
        for name, data in {"text.txt": TEXT.encode(), "data.bin": DATA}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@writes()
def wave_of_known_length(file: Any) -> None:
    sound(file, len(DATA) // 2)


@writes()
def wave_of_unknown_length(file: Any) -> None:
    sound(file, 0)


def sound(file: Any, frames: int) -> None:
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        writer.setnframes(frames)
        writer.writeframes(DATA)


@writes()
def truncated(file: Any) -> None:
    file.write(b"12345")
    file.truncate(3)


@writes()
def gone_back(file: Any) -> None:
    file.write(b"12345")
    file.seek(2)
    file.write(b"x")


# -- text, for files that take it ------------------------------------------------------------------


def as_text(file: Any) -> Any:
    """A file for text: ours are, and to the others one is made."""
    return file if hasattr(file, "encoding") else TextOnly(file)


class TextOnly(io.TextIOBase):
    """UTF-8 into a binary file, at once."""

    def __init__(self, file: Any) -> None:
        self.buffer = file

    def write(self, text: str, /) -> int:
        self.buffer.write(text.encode())
        return len(text)

    def writable(self) -> bool:
        return True


@writes()
def printed(file: Any) -> None:
    print(TEXT, 3, file=as_text(file), flush=True)


@writes()
def redirected(file: Any) -> None:
    with contextlib.redirect_stdout(as_text(file)) as out:
        print(TEXT)  # noqa: T201
        assert not out.isatty()
        assert "utf-8" in (out.encoding or "utf-8")
        out.buffer.write(b"bytes\n")


@writes()
def logged(file: Any) -> None:
    handler = logging.StreamHandler(as_text(file))
    handler.emit(logging.makeLogRecord({"msg": TEXT}))
    handler.close()


@writes()
def json_text(file: Any) -> None:
    json.dump({"text": TEXT, "n": list(range(1000))}, as_text(file), ensure_ascii=False)


@writes()
def csv_text(file: Any) -> None:
    csv.writer(as_text(file)).writerows([["a", TEXT], [1, 2.5]])


@writes()
def settings_text(file: Any) -> None:
    settings = configparser.ConfigParser()
    settings.read_dict({"section": {"key": "ü"}})
    settings.write(as_text(file))


@writes()
def pretty(file: Any) -> None:
    pprint.pprint({"text": TEXT, "n": list(range(100))}, stream=as_text(file))


@writes()
def xml_text(file: Any) -> None:
    ET.ElementTree(ET.fromstring("<a><b>ü</b></a>")).write(as_text(file), encoding="unicode")
