"""Who may use a saved file: who may use a new file in that directory, whatever its size."""

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector import Collector, Output, SpillManager
from collector.integrations.postprocess import finalize_processing
from collector.settings import MIB
from collector.store.output import publish
from tests.support.child import in_child
from tests.support.otheruser import lose_privileges
from tests.support.outputs import in_memory, on_disk
from tests.support.processend import end_of_process
from tests.support.rundirs import NOBODY, names
from tests.support.tiers import each_method

DEFAULT_ACL = "system.posix_acl_default"
ACCESS_ACL = "system.posix_acl_access"
GROUP = 4242
"""A group that nobody is in but root."""


@pytest.fixture(autouse=True)
def _process_ends() -> Iterator[None]:
    yield
    end_of_process()


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Write down an ACL as Linux does: tag, permissions and id of each entry, in order."""
    packed = b"".join(struct.pack("<HHI", tag, bits, who) for tag, bits, who in entries)
    return struct.pack("<I", 2) + packed


NO_ID = 0xFFFFFFFF
CLOSED = acl((1, 6, NO_ID), (4, 0, NO_ID), (32, 0, NO_ID))
ONE_MORE_USER = acl((1, 6, NO_ID), (2, 4, 1234), (4, 0, NO_ID), (16, 4, NO_ID), (32, 0, NO_ID))
ONE_MORE_GROUP = acl((1, 7, NO_ID), (4, 5, NO_ID), (8, 6, GROUP), (16, 7, NO_ID), (32, 4, NO_ID))


def plain(place: Path) -> None:
    pass


def setgid(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a directory to another group needs root")
    os.chown(place, -1, GROUP)
    place.chmod(0o2775)


def with_acl(value: bytes) -> Callable[[Path], None]:
    def prepare(place: Path) -> None:
        try:
            os.setxattr(place, DEFAULT_ACL, value)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            pytest.skip("this file system has no ACLs")

    return prepare


def setgid_with_acl(place: Path) -> None:
    setgid(place)
    with_acl(ONE_MORE_GROUP)(place)


each_directory = pytest.mark.parametrize(
    "prepare",
    [
        plain,
        setgid,
        with_acl(CLOSED),
        with_acl(ONE_MORE_USER),
        with_acl(ONE_MORE_GROUP),
        setgid_with_acl,
    ],
    ids=["plain", "setgid", "closed", "one more user", "one more group", "setgid and ACL"],
)


@pytest.fixture(params=["without a name", "with a name"])
def aside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "with a name":
        monkeypatch.setattr(publish, "_can_have_no_name", lambda: False)
    return str(request.param)


def access(path: Path) -> tuple[object, ...]:
    """Tell everything that says who may use a file."""
    status = path.stat()
    lists = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return status.st_uid, status.st_gid, oct(stat.S_IMODE(status.st_mode)), lists


def new_file(place: Path) -> tuple[object, ...]:
    path = place / "control"
    path.touch()
    try:
        return access(path)
    finally:
        path.unlink()


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    place = tmp_path / "shared"
    place.mkdir()
    return place


@each_directory
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
@pytest.mark.parametrize("size", [0, 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1])
def test_the_size_of_an_output_does_not_matter(
    shared: Path, prepare: Callable[[Path], None], umask: int, size: int
) -> None:
    prepare(shared)
    before = os.umask(umask)
    try:
        with SpillManager() as manager:
            manager.write(bytes(size))
            output = manager.finalize()
        inode = None if output.path is None else output.path.stat().st_ino
        saved = output.save(shared / "saved")
        assert access(saved) == new_file(shared)
        assert inode in {None, saved.stat().st_ino}  # by a rename, as ever
        assert (inode is None) == (size < 5 * MIB)
    finally:
        os.umask(before)


@each_directory
@pytest.mark.parametrize("make", [in_memory, on_disk], ids=["memory", "disk"])
@pytest.mark.parametrize("older", [None, 0o640, 0o400])
def test_nor_does_the_way_nor_what_is_replaced(
    shared: Path,
    prepare: Callable[[Path], None],
    aside: str,
    make: Callable[[bytes], Output],
    older: int | None,
) -> None:
    prepare(shared)
    wanted = new_file(shared)
    if older is not None:
        (shared / "saved").touch(older)
    output = make(b"abc")
    first = output.save(shared / "saved", overwrite=older is not None)
    second = output.save(shared / "second")
    assert access(first) == access(second) == wanted
    assert names(shared) == ["saved", "second"]


@each_directory
def test_a_text_and_its_record_are_new_files_too(
    shared: Path, prepare: Callable[[Path], None], aside: str
) -> None:
    prepare(shared)
    finalize_processing(
        None, streaming_manager=on_disk(b"abc"), file_path=shared / "talk.mp4", overwrite=True
    )
    assert access(shared / "talk.txt") == access(shared / "talk.txt.json") == new_file(shared)


def much(size: int) -> Iterator[bytes]:
    yield bytes(size)


@each_method
def test_so_it_is_with_what_jobs_wrote(method: str, shared: Path) -> None:
    setgid_with_acl(shared)
    with Collector(1, method, progress=False) as collector:
        for job in collector.collect(much, [1, 6 * MIB]):
            job.output().save(shared / f"{job.args[0]}")
        late = collector.submit(much, 7 * MIB).output()
    late.save(shared / "after shutdown")
    assert len(names(shared)) == 3
    assert {repr(access(path)) for path in shared.iterdir()} == {repr(new_file(shared))}


def test_the_acl_of_the_temp_root_does_not_come_along(tmp_path: Path, shared: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o700)
    with_acl(ONE_MORE_USER)(root)
    output = on_disk(b"abc", temp_root=root)
    assert output.path is not None
    inode = output.path.stat().st_ino
    assert ACCESS_ACL in os.listxattr(output.path)
    saved = output.save(shared / "saved")
    assert access(saved) == new_file(shared)
    assert saved.stat().st_ino == inode


def test_a_group_that_one_may_not_give_is_that_of_a_copy(shared: Path) -> None:
    """One may make files in such a directory and so give them its group, but not by chown(2)."""
    setgid(shared)

    def work() -> bool:
        lose_privileges()
        output = on_disk(b"abc")
        assert output.path is not None
        inode = output.path.stat().st_ino
        with pytest.raises(PermissionError):
            os.chown(output.path, -1, GROUP)
        saved = output.save(shared / "saved")
        assert output.read() == b"abc"
        return saved.stat().st_ino != inode and access(saved) == new_file(shared)

    assert in_child(work)
    assert (shared / "saved").stat().st_gid == GROUP
    assert names(shared) == ["saved"]


def test_a_file_of_another_owner_is_copied(shared: Path) -> None:
    """As of a program that has become another user since."""
    if os.geteuid() != 0:
        pytest.skip("giving a file away needs root")
    output = on_disk(b"abc")
    assert output.path is not None
    os.chown(output.path, NOBODY, -1)
    saved = output.save(shared / "saved")
    assert access(saved) == new_file(shared)
    assert output.read() == saved.read_bytes() == b"abc"
