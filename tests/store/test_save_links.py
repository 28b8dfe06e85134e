"""Output.save onto a symbolic link that leads to what is never replaced."""

import os
import tempfile
from pathlib import Path

import pytest

from collector.integrations.postprocess import finalize_processing
from tests.support.outputs import Maker, in_memory, put
from tests.support.rundirs import names

pytestmark = pytest.mark.usefixtures("process_ends")

each_way = pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])


LINKS = {
    "fifo": "a link to a FIFO",
    "socket": "a link to a socket",
    "character device": "a link to a device",
    "link": "a link to a FIFO",
    "descriptor": "a link to a descriptor",
    "descriptor by way of a directory": "a link to a descriptor",
}


def link(kind: str, path: Path, fd: int) -> int:
    """Make a link to something that is no file, as /dev/stdout is one; its inode number."""
    there = path.parent / "there"
    there.mkdir()
    match kind:
        case "descriptor":  # of a file, as it is where a shell has sent the output to one
            path.symlink_to(f"/proc/self/fd/{fd}")
        case "descriptor by way of a directory":
            (there / "fd").symlink_to("/proc/self/fd")
            path.symlink_to(f"there/fd/{fd}")
        case "link":
            os.mkfifo(there / "fifo")
            (there / "link").symlink_to("fifo")
            path.symlink_to("there/link")
        case _:
            put(kind, there / "it")
            path.symlink_to("there/it")
    return path.lstat().st_ino


@pytest.mark.parametrize("kind", LINKS)
@each_way
def test_a_link_to_what_is_never_replaced_is_not_either(
    make: Maker, tmp_path: Path, kind: str, overwrite: bool
) -> None:
    """As root, it was /dev/stdout of the whole system that was a file then."""
    path, output = tmp_path / "name", make(b"abc")
    with tempfile.TemporaryFile() as file:
        before = link(kind, path, file.fileno())
        with pytest.raises(FileExistsError, match=LINKS[kind]) as caught:
            output.save(path, overwrite=overwrite)
        assert caught.value.filename == str(path)
        assert "overwrite" not in str(caught.value)
        with pytest.raises(FileExistsError, match=LINKS[kind]):
            finalize_processing(
                None,
                streaming_manager=output,
                file_path=tmp_path / "talk.mp4",
                output_path=path,
                overwrite=overwrite,
            )
    assert path.lstat().st_ino == before
    assert names(tmp_path) == ["name", "there"]
    assert output.read() == b"abc"


def test_a_descriptor_by_its_own_name_is_not_replaced(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        name = f"/proc/self/fd/{file.fileno()}"
        with pytest.raises(FileExistsError, match="a link to a descriptor"):
            in_memory(b"abc").save(name, overwrite=True)
