"""Output.save on file systems with manners of their own: rclone, FAT, eCryptfs, full ones."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector import Output, reclaim
from collector.errors import OutputLostError, SpillError
from collector.integrations.postprocess import finalize_processing
from collector.settings import MIB
from collector.store.output import publish, spill_file, target
from tests.support.disks import fill, small_disk
from tests.support.faultyos import FaultyOs
from tests.support.fusedisk import FuseDisk, Manners, fuse_disk
from tests.support.leaks import wait_until
from tests.support.outputs import in_memory, on_disk
from tests.support.processend import end_of_process
from tests.support.rundirs import names

pytestmark = pytest.mark.slow  # a file system of its own is mounted for each

Maker = Callable[[bytes], Output]

DATA = os.urandom(300_000)

REFUSALS = [errno.EPERM, errno.EOPNOTSUPP, errno.EIO, errno.EACCES, errno.ENOSYS, errno.EMLINK]

each_way = pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])


@pytest.fixture(autouse=True)
def _process_ends() -> Iterator[None]:
    yield
    end_of_process()


@pytest.fixture(params=[in_memory, on_disk], ids=["memory", "disk"])
def make(request: pytest.FixtureRequest) -> Maker:
    maker: Maker = request.param
    return maker


def root_on(disk: FuseDisk) -> Path:
    """Make a temp root there, so that spill files are renamed within the disk."""
    root = disk.path / "root"
    root.mkdir(mode=0o700)
    return root


# -- links that are refused ----------------------------------------------------------------------


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("rename2", [False, True], ids=["", "renameat2"])
@each_way
def test_where_links_are_refused_it_is_saved_all_the_same(
    make: Maker, refusal: int, rename2: bool, overwrite: bool
) -> None:
    with fuse_disk(Manners(link=refusal, rename2=rename2, renumbers=True)) as disk:
        path = disk.path / "saved"
        if overwrite:
            path.write_bytes(b"older")
        output = make(DATA)
        assert output.save(path, overwrite=overwrite) == path
        assert path.read_bytes() == output.read() == DATA
        assert names(disk.path) == ["saved"]
        assert "renumbered" in disk.refused()
        assert ("rename2" if overwrite else "link") in disk.refused()
        with pytest.raises(FileExistsError, match="overwrite=True"):
            make(b"abc").save(path)
        assert path.read_bytes() == output.read() == DATA
        assert names(disk.path) == ["saved"]


def test_a_disk_may_have_the_device_number_of_another_that_is_gone(tmp_path: Path) -> None:
    """The kernel gives such a number out again at once: nothing may be remembered by it."""
    for _ in range(20):  # another process may mount something in between
        with small_disk(tmp_path, MIB) as local:
            number = local.stat().st_dev
            in_memory(DATA).save(local / "saved")
        with fuse_disk(Manners(link=errno.EIO, renumbers=True)) as disk:
            if disk.path.stat().st_dev != number:
                continue
            output = in_memory(DATA)
            output.save(disk.path / "saved")
            assert "renumbered" in disk.refused()
            assert output.read() == DATA
            return
    pytest.fail("the kernel has not given the number of the first disk out again")


@pytest.mark.parametrize("refusal", [errno.EIO, errno.EACCES])
@each_way
def test_a_spill_file_is_renamed_there_too(refusal: int, overwrite: bool) -> None:
    with fuse_disk(Manners(link=refusal, renumbers=True)) as disk:
        path = disk.path / "saved"
        if overwrite:
            path.write_bytes(b"older")
        output = on_disk(DATA, temp_root=root_on(disk))
        output.save(path, overwrite=overwrite)
        assert path.read_bytes() == output.read() == DATA
        assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
        assert ("rename2" if overwrite else "link") in disk.refused()
        end_of_process()
        assert names(disk.path) == ["root", "saved"]
        assert names(disk.path / "root") == []


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_a_text_and_its_record_are_published_there(tmp_path: Path) -> None:
    with fuse_disk(Manners(link=errno.EIO, fsync=errno.EINVAL, renumbers=True)) as disk:
        for text in (b"older", b"newer"):
            finalize_processing(
                text.decode(),
                streaming_manager=in_memory(text),
                file_path=tmp_path / "talk.mp4",
                output_path=disk.path / "talk.txt",
                overwrite=text == b"newer",
            )
        assert (disk.path / "talk.txt").read_bytes() == b"newer"
        assert '"newer"' in (disk.path / "talk.txt.json").read_text()
        assert names(disk.path) == ["talk.txt", "talk.txt.json"]


@pytest.mark.parametrize("rename2", [False, True], ids=["", "renameat2"])
def test_of_many_that_save_to_one_name_there_one_wins(make: Maker, rename2: bool) -> None:
    with fuse_disk(Manners(link=errno.EPERM, rename2=rename2)) as disk:
        outputs = [make(bytes([number]) * 100) for number in range(12)]
        start = threading.Barrier(len(outputs))
        won: list[Output] = []

        def work(output: Output) -> None:
            start.wait()
            try:
                output.save(disk.path / "one")
            except FileExistsError:
                return
            won.append(output)

        threads = [threading.Thread(target=work, args=(output,)) for output in outputs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert (disk.path / "one").read_bytes() == won[0].read()
        assert names(disk.path) == ["one"]


@each_way
def test_a_fifo_is_not_replaced_there(make: Maker, overwrite: bool) -> None:
    with fuse_disk(Manners(link=errno.EPERM)) as disk:
        os.mkfifo(disk.path / "fifo")
        with pytest.raises(FileExistsError, match="a FIFO"):
            make(b"abc").save(disk.path / "fifo", overwrite=overwrite)
        assert (disk.path / "fifo").is_fifo()
        assert names(disk.path) == ["fifo"]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (Debian: strace)")
@pytest.mark.parametrize("size", [100, 6 * MIB])
@each_way
def test_an_error_that_the_kernel_gives_for_each_link_is_no_end(
    tmp_path: Path, size: int, overwrite: bool
) -> None:
    log = tmp_path / "log"
    path = tmp_path / "place" / "saved"
    path.parent.mkdir()
    if overwrite:
        path.write_bytes(b"older")
    program = (
        "import sys; from collector import SpillManager\n"
        "manager = SpillManager(); manager.write(bytes(int(sys.argv[1])))\n"
        "output = manager.finalize(); output.save(sys.argv[2], overwrite=sys.argv[3] == 'True')\n"
        "assert output.read() == bytes(int(sys.argv[1]))"
    )
    inject = ["-e", "trace=link,linkat", "-e", "inject=link,linkat:error=EIO"]
    command = [sys.executable, "-c", program, str(size), str(path), str(overwrite)]
    subprocess.run(["strace", "-f", "-qq", "-o", log, *inject, *command], check=True)
    assert "INJECTED" in log.read_text()
    assert path.read_bytes() == bytes(size)
    assert names(path.parent) == ["saved"]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (Debian: strace)")
@pytest.mark.parametrize("size", [100, 6 * MIB])
def test_killed_while_it_replaces_a_file_the_name_has_the_old_one_or_the_new(
    tmp_path: Path, size: int
) -> None:
    path, log = tmp_path / "place" / "saved", tmp_path / "log"
    path.parent.mkdir()
    path.write_bytes(b"older")
    program = (
        "import sys; from collector import SpillManager\n"
        "manager = SpillManager(); manager.write(bytes(int(sys.argv[1])))\n"
        "manager.finalize().save(sys.argv[2], overwrite=True)"
    )
    kill = ["-e", "trace=renameat2", "-e", "inject=renameat2:signal=KILL"]
    command = [sys.executable, "-c", program, str(size), str(path)]
    done = subprocess.run(["strace", "-f", "-qq", "-o", log, *kill, *command], check=False)
    assert done.returncode in {-signal.SIGKILL, 128 + signal.SIGKILL}
    assert "RENAME_EXCHANGE" in log.read_text()
    assert path.read_bytes() in {b"older", bytes(size)}
    assert len(reclaim().reclaimed) == (size > 5 * MIB)
    left = [name for name in names(path.parent) if name != "saved"]
    assert len(left) <= 1
    assert all(name.startswith(".collector-") and name.endswith(".part") for name in left)


# -- inode numbers that change -------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2], ids=["first", "second"])
def test_what_was_saved_stays_readable_when_its_number_changes_later(
    make: Maker, tmp_path: Path, times: int
) -> None:
    with fuse_disk(Manners(link=errno.EIO, renumbers=True, cached_s=1)) as disk:
        output = make(DATA)
        path = output.save(disk.path / "saved")
        if times == 2:
            path = output.save(disk.path / "again")
        saved_as = path.stat().st_ino
        assert output.read() == DATA
        wait_until(lambda: path.stat().st_ino != saved_as)  # the kernel asks again after a second
        assert output.read() == DATA
        path.rename(disk.path / "away")
        (disk.path / "away").rename(path)  # its user may do so, and it gets new numbers
        with output.open() as reader:
            assert reader.read() == DATA
        assert output.save(tmp_path / "last").read_bytes() == DATA


def test_another_file_there_is_still_told_from_it(make: Maker) -> None:
    with fuse_disk(Manners(link=errno.EIO, renumbers=True)) as disk:
        output = make(DATA)
        path = output.save(disk.path / "saved")
        make(bytes(len(DATA))).save(path, overwrite=True)
        with pytest.raises(OutputLostError, match="replaced"):
            output.read()
        path.write_bytes(DATA[:-1])
        with pytest.raises(OutputLostError, match="bytes"):
            output.read()


# -- names, and the disk -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [129, 130, 136, 142, 143])
@each_way
def test_where_names_end_early_one_may_be_as_long_as_they_are(
    make: Maker, size: int, overwrite: bool
) -> None:
    with fuse_disk(Manners(name_bytes=143, link=errno.EPERM)) as disk:
        path = disk.path / ("n" * size)
        if overwrite:
            path.write_bytes(b"older")
        assert make(b"abc").save(path, overwrite=overwrite).read_bytes() == b"abc"
        assert names(disk.path) == [path.name]
        assert "name" not in disk.refused()


def test_a_name_that_is_too_long_is_named(make: Maker) -> None:
    with fuse_disk(Manners(name_bytes=143)) as disk:
        output = make(b"abc")
        with pytest.raises(OSError, match="too long") as caught:
            output.save(disk.path / ("n" * 144))
        assert caught.value.filename == str(disk.path / ("n" * 144))
        assert names(disk.path) == []
        assert output.read() == b"abc"


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EROFS, errno.EOPNOTSUPP])
def test_where_nothing_can_be_synced_it_is_not(make: Maker, refusal: int) -> None:
    with fuse_disk(Manners(fsync=refusal)) as disk:
        output = make(DATA)
        output.save(disk.path / "saved")
        assert "fsync" in disk.refused()
        assert output.read() == DATA


@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("told_by", ["fsync", "flush"])
def test_where_syncing_or_closing_fails_it_is_not_saved(
    make: Maker, failure: int, told_by: str
) -> None:
    manners = Manners(fsync=failure) if told_by == "fsync" else Manners(flush=failure)
    with fuse_disk(manners) as disk:
        output = make(DATA)
        with pytest.raises(SpillError) as caught:
            output.save(disk.path / "saved")
        assert told_by in disk.refused()
        assert caught.value.errno == failure
        assert caught.value.filename == str(disk.path / "saved")
        assert names(disk.path) == []
        assert output.read() == DATA


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk(Path(tempfile.gettempdir()), 2 * MIB) as mounted:
        yield mounted


def test_a_disk_that_may_only_be_read_is_named(make: Maker, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    output = make(b"abc")
    for path in (disk / "saved", disk / "new" / "saved"):
        with pytest.raises(OSError, match="Read-only") as caught:
            output.save(path)
        assert caught.value.filename == str(path)
    assert output.read() == b"abc"


def test_a_disk_without_room_for_one_more_file_is_full(make: Maker, disk: Path) -> None:
    (disk / "place").mkdir()
    fill(disk)
    subprocess.run(["mount", "-o", "remount,nr_inodes=4", disk], check=True)
    for number in range(2):
        try:
            (disk / str(number)).touch()
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - as many as there is room for
    output = make(b"abc")
    with pytest.raises(SpillError) as caught:
        output.save(disk / "place" / "saved")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(disk / "place" / "saved")
    assert names(disk / "place") == []
    assert output.read() == b"abc"


# -- an error at each step -----------------------------------------------------------------------


STEPS = ["open", "link", "rename", "unlink", "write", "fsync", "close", "fstat", "stat", "pread"]


@pytest.fixture(params=["with a name", "without a name"])
def aside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "with a name":
        monkeypatch.setattr(publish, "_can_have_no_name", lambda: False)
    return str(request.param)


@pytest.mark.usefixtures("aside")
@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("call", STEPS)
@each_way
def test_no_room_at_any_step_leaves_nothing_aside(
    make: Maker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    links: bool,
    overwrite: bool,
) -> None:
    """The k-th call fails, for each k: then it is saved, or all is as before and the path named."""
    for at in range(1, 30):
        place = tmp_path / str(at)
        place.mkdir()
        path = place / "saved"
        if overwrite:
            path.write_bytes(b"older")
        output = make(DATA)
        with monkeypatch.context() as patch:
            faulty = FaultyOs(patch, publish, target, spill_file)
            if not links:
                faulty.fail("link", times=1000, error=errno.EPERM)
                patch.setattr(
                    "collector.store.output.rename._renameat2", lambda: lambda *_: errno.ENOSYS
                )
            if links or call != "link":
                faulty.fail(call, at=at, done=call == "close")
            before = faulty.fired
            raised = _save(output, path, overwrite=overwrite)
        assert output.read() == DATA
        if raised is None:
            assert path.read_bytes() == DATA
        else:
            assert (raised.errno, raised.filename) == (errno.ENOSPC, str(path))
            assert not overwrite or path.read_bytes() == b"older"
            assert overwrite or not path.exists()
        left = [name for name in names(place) if name != "saved"]
        assert left == [] or call in {
            "unlink",
            "stat",
        }  # what cannot be removed stays, and nothing else
        if faulty.calls.get(call, 0) < at or faulty.fired == before == 0:
            return
    pytest.fail("it takes more than 30 calls")


def _save(output: Output, path: Path, *, overwrite: bool) -> OSError | None:
    try:
        output.save(path, overwrite=overwrite)
    except OSError as error:
        return error
    return None
