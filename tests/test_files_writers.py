"""Whatever writes to a file writes to an output what it would write to an `io.BytesIO`.

Or it raises what it raises for a pipe, which cannot seek either.
"""

import io
import os
import threading
from collections.abc import Iterator
from typing import Final

import pytest

from collector import Collector, SpillManager, current_job
from collector.store.rundir.directory import process_run_directory
from tests.support.jobs import MIB
from tests.support.table_writers import WRITERS, meaning_of

pytestmark = pytest.mark.xdist_group("writers")
"""Not that they must not run beside others: pandas, pyarrow and polars are loaded once, not in each
process."""

CANNOT_BE: Final = {"truncated", "gone_back", "numpy_tofile", "pandas_stata"}
"""What these do cannot be done with a pipe, nor with an output."""
TAKES_LONG: Final = {"bzipped", "pandas_csv_xz", "pandas_pickle_gzip"}
"""To compress: `gzipped` and others are everyday ones."""


class Kept(io.BytesIO):
    """It keeps its bytes when it is closed."""

    def close(self) -> None:
        """Do nothing."""


def write_to_job(name: str) -> None:
    """Let a writer write to the running job."""
    WRITERS[name](current_job())


def error_for_a_pipe(name: str) -> Exception | None:
    """Let a writer write to a file that is a pipe."""
    read, write = os.pipe()
    thread = threading.Thread(
        target=lambda: [None for _ in iter(lambda: os.read(read, 65536), b"")]
    )
    thread.start()
    try:
        with open(write, "wb") as file:
            WRITERS[name](file)
    except Exception as error:  # noqa: BLE001 - it is what was asked for
        return error
    finally:
        thread.join()
        os.close(read)
    return None


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """One for all of them: its worker has pandas and the like loaded by then.

    These start threads and open descriptors of their own at first use, here too.
    """
    for name in WRITERS.keys() - CANNOT_BE:
        WRITERS[name](Kept())
    with Collector(1, temp_root=tmp_path_factory.mktemp("root"), progress=False) as collector:
        collector.submit(write_to_job, "printed").result()
        yield collector


@pytest.fixture(autouse=True)
def _no_directory_stays(collector: Collector) -> Iterator[None]:
    yield
    process_run_directory().dispose()  # what a SpillManager made; a Collector has one of its own


def written_to(place: str, name: str, collector: Collector) -> bytes:
    """What a writer has written there."""
    if place == "current_job()":
        job = collector.submit(write_to_job, name)
        job.result()
        with job.output() as output:
            return output.read()
    with SpillManager(memory_threshold=8 * MIB if place == "memory" else 1000) as manager:
        WRITERS[name](manager)
        assert not manager.closed
        with manager.finalize() as output:
            return output.read()


# From Python 3.13 on a buffer that is let go of after its close says that it cannot be flushed:
# what it wrote to is not closed, and so it takes itself to be open.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <_io.BufferedWriter:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("place", ["memory", "file", "current_job()"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in TAKES_LONG else name
        for name in sorted(WRITERS.keys() - CANNOT_BE)
    ],
)
def test_a_writer_writes_what_it_writes_into_a_bytesio(
    name: str, place: str, collector: Collector
) -> None:
    expected = Kept()
    WRITERS[name](expected)
    found = written_to(place, name, collector)
    assert found
    if found != expected.getvalue():
        assert meaning_of(name, found) == meaning_of(name, expected.getvalue())


@pytest.mark.parametrize("place", ["memory", "current_job()"])
@pytest.mark.parametrize("name", sorted(CANNOT_BE))
def test_what_cannot_be_done_with_a_pipe_is_the_same_error(
    name: str, place: str, collector: Collector
) -> None:
    assert isinstance(error_for_a_pipe(name), OSError)
    with pytest.raises(OSError, match=r"like a pipe|fileno|file position failed"):
        written_to(place, name, collector)
