"""Several programs finish texts under one name: what is there in the end belongs together."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector.integrations.postprocess import finalize_processing
from collector.store.output.publish import Publication
from tests.integrations.finished_texts import files_in, kept, manager_of


@pytest.fixture
def before_publish(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], None]:
    """Have a function called before each file gets its name."""
    publish = Publication.publish

    def hook(call: Callable[[Path], None]) -> None:
        def hooked(self: Publication, **options: Any) -> Any:
            call(Path(self.path))
            return publish(self, **options)

        monkeypatch.setattr(Publication, "publish", hooked)

    return hook


def is_locked(directory: Path) -> bool:
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@pytest.mark.parametrize("overwrite", [False, True])
def test_both_files_get_their_names_while_nobody_else_gives_any(
    source: Path, before_publish: Callable[..., None], overwrite: bool
) -> None:
    locked: dict[str, bool] = {}

    def look(path: Path) -> None:
        locked[path.name] = is_locked(path.parent)

    before_publish(look)
    finalize_processing(
        None, streaming_manager=manager_of(b"text"), file_path=source, overwrite=overwrite
    )
    assert locked == {"talk.txt": True, "talk.txt.json": True}
    assert not is_locked(source.parent)


def test_who_holds_the_directory_for_ever_stops_no_text(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.integrations.postprocess.finalize.PUBLISH_WAIT_S", 0.0)
    fd = os.open(source.parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        finalize_processing(None, streaming_manager=manager_of(b"text"), file_path=source)
    finally:
        os.close(fd)
    assert files_in(source.parent) == {"talk.mp4", "talk.txt", "talk.txt.json"}


@pytest.mark.parametrize("theirs", [True, False], ids=["replaced", "removed"])
def test_a_text_that_another_has_put_there_is_not_removed_with_ours(
    source: Path, before_publish: Callable[..., None], theirs: bool, aside: str
) -> None:
    text = source.with_suffix(".txt")

    def intrude(path: Path) -> None:
        if path.suffix == ".json":
            text.unlink()
            if theirs:
                text.write_text("another's")
            raise OSError(errno.EIO, "refused")

    before_publish(intrude)
    with pytest.raises(OSError, match="refused") as caught:
        finalize_processing(None, streaming_manager=manager_of(b"text"), file_path=source)
    assert kept(caught.value) == b"text"
    assert files_in(source.parent) == ({"talk.mp4", "talk.txt"} if theirs else {"talk.mp4"})
    assert not theirs or text.read_text() == "another's"
