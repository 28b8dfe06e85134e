"""What the standard library and the data frame libraries make of an output, in both modes."""

import csv
import gzip
import io
import json
import mmap
import os
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.outputs import Maker

ROWS = [["name", "count"], ["grüße, welt", "1"], ['"quoted"\nline', "2"]]
TABLE = "name,count\na,1\nb,2\n"


pytestmark = pytest.mark.usefixtures("process_ends")


def test_csv(make: Maker) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(ROWS)
    output = make(text.getvalue().encode())
    with io.TextIOWrapper(output.open(), "utf-8", newline="") as file:
        assert list(csv.reader(file)) == ROWS


def test_json_and_json_lines(make: Maker) -> None:
    with make(json.dumps(ROWS).encode()).open() as file:
        assert json.load(file) == ROWS
    output = make("\n".join(json.dumps(row) for row in ROWS).encode())
    assert [json.loads(line) for line in output.lines()] == ROWS


def test_gzip(make: Maker) -> None:
    data = os.urandom(300_000)
    output = make(gzip.compress(data))
    with output.open() as file, gzip.open(file) as unpacked:
        assert unpacked.read() == data
    with gzip.open(output) as unpacked:
        assert unpacked.read() == data


def test_zipfile(make: Maker) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", "abc" * 1000)
    output = make(packed.getvalue())
    with output.open() as file, zipfile.ZipFile(file) as archive:
        assert zipfile.is_zipfile(file)
        assert archive.read("a.txt") == b"abc" * 1000
    with zipfile.ZipFile(output) as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize("compression", ["", "gz", "xz"])
def test_tarfile(make: Maker, compression: str) -> None:
    packed = io.BytesIO()
    mode: Any = f"w:{compression}"
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = 3000
        archive.addfile(info, io.BytesIO(b"abc" * 1000))
    output = make(packed.getvalue())
    with output.open() as file, tarfile.open(fileobj=file) as archive:
        member = archive.extractfile("a.txt")
        assert member is not None
        assert member.read() == b"abc" * 1000
    with tarfile.open(output) as archive:
        assert archive.getnames() == ["a.txt"]


def test_mmap(make: Maker) -> None:
    data = os.urandom(100_000)
    output = make(data)
    with output.open() as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[:] == data
        assert mapped.find(data[50_000:50_100]) == 50_000


def test_shutil(make: Maker, tmp_path: Path) -> None:
    data = os.urandom(100_000)
    output = make(data)
    with output.open() as source, (tmp_path / "copy").open("wb") as target:
        shutil.copyfileobj(source, target)
    shutil.copy(output, tmp_path / "other")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "other").read_bytes() == data


def test_a_view_is_a_buffer_for_whoever_takes_one(make: Maker) -> None:
    output = make(b"[1, 2]")
    assert json.loads(str(output.view(), "ascii")) == [1, 2]
    assert io.BytesIO(output.view()).read() == b"[1, 2]"


# These libraries start threads and open pipes of their own at first use, and keep them. So they are
# used once before the test begins.


@pytest.fixture(scope="module")
def pandas() -> Any:
    library = pytest.importorskip("pandas")
    library.read_csv(io.BytesIO(TABLE.encode()))
    return library


@pytest.fixture(scope="module")
def arrow() -> Any:
    library = pytest.importorskip("pyarrow.csv")
    library.read_csv(io.BytesIO(TABLE.encode()))
    return library


@pytest.fixture(scope="module")
def polars() -> Any:
    library = pytest.importorskip("polars")
    library.read_csv(io.BytesIO(TABLE.encode()))
    library.scan_csv(io.BytesIO(TABLE.encode())).collect()
    return library


@pytest.mark.parametrize("engine", ["c", "python"])
def test_pandas(pandas: Any, make: Maker, engine: str) -> None:
    expected = pandas.DataFrame({"name": ["a", "b"], "count": [1, 2]})
    for source in (make(TABLE.encode()), make(TABLE.encode()).open()):
        found = pandas.read_csv(source, engine=engine)
        pandas.testing.assert_frame_equal(found, expected, check_dtype=False)


def test_pyarrow(arrow: Any, make: Maker) -> None:
    for source in (make(TABLE.encode()), make(TABLE.encode()).open()):
        assert arrow.read_csv(source).to_pydict() == {"name": ["a", "b"], "count": [1, 2]}


def test_polars(polars: Any, make: Maker) -> None:
    output = make(TABLE.encode())
    for source in (os.fspath(output), output.open(), output.read()):  # it takes no path-like
        found = polars.read_csv(source)
        assert found.to_dict(as_series=False) == {"name": ["a", "b"], "count": [1, 2]}
        assert polars.scan_csv(source).collect().shape == (2, 2)
