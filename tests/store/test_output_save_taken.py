"""Output.save onto a name that is taken, or by many at once: one of them, whole."""

import errno
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from collector.integrations.postprocess import finalize_processing
from collector.settings import KIB, MIB
from collector.store.output import publish, target
from collector.store.output.output import Output
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.scratch import make_scratch_in
from tests.support.disks import fill
from tests.support.faultyos import FaultyOs
from tests.support.outputs import Maker, in_memory, on_disk
from tests.support.processend import end_of_process
from tests.support.rundirs import make_orphan, names

pytestmark = pytest.mark.usefixtures("process_ends")


# -- what is in the way --------------------------------------------------------------------------


def test_a_taken_name_is_refused_and_the_output_stays(make: Maker, tmp_path: Path) -> None:
    target = tmp_path / "taken"
    target.write_bytes(b"mine")
    output = make(b"abc")
    path = output.path
    with pytest.raises(FileExistsError) as caught:
        output.save(target)
    assert caught.value.errno == errno.EEXIST
    assert caught.value.filename == str(target)
    assert "pass overwrite=True" in str(caught.value)
    assert target.read_bytes() == b"mine"
    assert (output.path, output.read()) == (path, b"abc")
    assert names(tmp_path) == ["taken"]
    output.save(target, overwrite=True)
    assert target.read_bytes() == b"abc"
    assert names(tmp_path) == ["taken"]


def test_a_taken_name_is_told_before_anything_is_copied(make: Maker, disk: Path) -> None:
    (disk / "taken").write_bytes(b"mine")
    fill(disk)
    with pytest.raises(FileExistsError):
        make(bytes(MIB)).save(disk / "taken")


def test_a_dangling_link_is_a_taken_name_too(make: Maker, tmp_path: Path) -> None:
    target = tmp_path / "link"
    target.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        make(b"abc").save(target)
    make(b"abc").save(target, overwrite=True)
    assert names(tmp_path) == ["link"]
    assert not target.is_symlink()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_is_never_replaced(make: Maker, tmp_path: Path, overwrite: bool) -> None:
    output = make(b"abc")
    (tmp_path / "directory").mkdir()
    with pytest.raises((FileExistsError, IsADirectoryError)):
        output.save(tmp_path / "directory", overwrite=overwrite)
    assert output.read() == b"abc"
    assert names(tmp_path) == ["directory"]


def test_a_path_made_of_bytes_is_a_path(make: Maker, tmp_path: Path) -> None:
    (tmp_path / "t\xe4ken").touch()
    output = make(b"abc")
    (entry,) = os.scandir(os.fsencode(tmp_path))  # what it gives has a path of bytes
    output.save(entry, overwrite=True)  # type: ignore[arg-type]  # all the same, nothing is lost
    assert (output.path, output.read()) == (tmp_path / "t\xe4ken", b"abc")


@pytest.mark.parametrize("overwrite", [False, True])
def test_its_own_temporary_directory_is_no_place_to_save_it(
    tmp_path: Path, overwrite: bool
) -> None:
    """What is saved is never removed by us, and that goes with all that is in it."""
    output = on_disk(b"abc")
    own = os.fspath(output)
    (tmp_path / "link").symlink_to(Path(own).parent)
    taken = "own temporary directory" if overwrite else "is taken"
    for path, reason in (
        (own, taken),
        (tmp_path / "link" / Path(own).name, taken),
        (Path(own).with_suffix(".txt"), "own temporary directory"),
        (tmp_path / "link" / "new" / "out.txt", "own temporary directory"),
    ):
        with pytest.raises(OSError, match=reason):
            output.save(path, overwrite=overwrite)
        assert (output.path, output.read()) == (Path(own), b"abc")
    (tmp_path / "else").mkdir()
    target = tmp_path / "else" / Path(own).name
    os.link(own, target)
    output.save(target, overwrite=True)
    assert (output.path, output.read()) == (target, b"abc")


@pytest.mark.parametrize("below", [".", "new/deep"])
@pytest.mark.parametrize("life", ["live", "stale", "going"])
def test_nor_is_that_of_any_other_run(
    make: Maker, tmp_path: Path, temp_root: Path, below: str, life: str
) -> None:
    """It goes when that run ends, with all that is in it."""
    live = RunDirectory.create(temp_root)
    there = live.path if life == "live" else make_orphan(temp_root)
    if life == "going":
        there = there.rename(there.with_name("trash-" + "0" * 32))
    (tmp_path / "link").symlink_to(there)
    before = names(there)
    output = make(b"abc")
    for path in (there / below / "out.txt", tmp_path / "link" / below / "out.txt"):
        with pytest.raises(OSError, match="temporary directory of a Collector") as caught:
            output.save(path, overwrite=True)
        assert caught.value.filename == os.path.abspath(path)
        with pytest.raises(OSError, match="temporary directory of a Collector"):
            finalize_processing(
                None, streaming_manager=output, file_path="talk.mp4", output_path=path
            )
    assert names(there) == before
    assert output.read() == b"abc"
    live.dispose()


def test_a_scratch_directory_of_a_job_is_a_place_to_save_to(
    make: Maker, tmp_path: Path, temp_root: Path
) -> None:
    live = RunDirectory.create(temp_root)
    scratch = live.path / "scratch-0123456789abcdef"
    make_scratch_in(live.fd, scratch.name)
    assert make(b"abc").save(scratch / "new" / "out.txt").read_bytes() == b"abc"
    live.dispose()
    assert not scratch.exists()


def test_a_directory_of_the_users_may_have_such_a_name(make: Maker, tmp_path: Path) -> None:
    """As that of an experiment may have."""
    path = tmp_path / "run-0123456789abcdef" / "out.txt"
    assert make(b"abc").save(path).read_bytes() == b"abc"


def test_of_many_that_save_to_one_name_one_wins(make: Maker, tmp_path: Path) -> None:
    outputs = [make(bytes([number]) * 100) for number in range(20)]
    start = threading.Barrier(len(outputs))
    won: list[Output] = []
    lost: list[Output] = []

    def work(output: Output) -> None:
        start.wait()
        try:
            output.save(tmp_path / "one")
            won.append(output)
        except FileExistsError:
            lost.append(output)

    threads = [threading.Thread(target=work, args=(output,)) for output in outputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 19)
    assert (tmp_path / "one").read_bytes() == won[0].read()
    assert sorted(output.read()[0] for output in won + lost) == list(range(20))
    assert names(tmp_path) == ["one"]


def test_one_output_may_be_saved_by_many_at_once(make: Maker, tmp_path: Path) -> None:
    output = make(b"abc" * KIB)
    start = threading.Barrier(10)

    def work(number: int) -> None:
        start.wait()
        output.save(tmp_path / str(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"abc" * KIB] * 10


def test_it_can_be_read_while_it_is_saved(make: Maker, tmp_path: Path) -> None:
    data = os.urandom(10 * KIB)
    output = make(data)
    start = threading.Barrier(5)
    found: list[bool] = []

    def work() -> None:
        start.wait()
        found.extend(output.read() == data == bytes(output.view()) for _ in range(200))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    for number in range(50):
        before = output.path
        output.save(tmp_path / str(number))
        if number:
            assert before is not None
            before.unlink()  # the one before: only the newest is left
    for thread in threads:
        thread.join()
    assert found == [True] * 800


def test_a_reader_that_comes_between_two_steps_of_a_rename_waits_for_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = on_disk(b"abc")
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.append(output.read()))
    asked = threading.Event()

    class Watched:
        lock = output._lock

        def __enter__(self) -> None:
            if threading.current_thread() is thread:
                asked.set()
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    class Between(FaultyOs):
        def unlink(self, *args: Any, **kwargs: Any) -> None:
            os.unlink(*args, **kwargs)
            thread.start()  # the old name is gone, and the output does not know the new one yet
            self.fired += asked.wait(60)

    monkeypatch.setattr(output, "_lock", Watched())
    faulty = Between(monkeypatch, target)
    output.save(tmp_path / "saved")
    thread.join()
    assert faulty.fired == 1
    assert read == [b"abc"]


# -- forks ---------------------------------------------------------------------------------------


def test_a_forked_child_saves_a_copy(make: Maker, tmp_path: Path) -> None:
    output = make(b"abc")
    pid = os.fork()
    if pid == 0:
        try:
            output.save(tmp_path / "saved")
            output.close()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert (tmp_path / "saved").read_bytes() == b"abc"
    assert output.read() == b"abc"


def test_a_child_forked_while_another_thread_saves_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = in_memory(b"abc")
    saving, forked = threading.Event(), threading.Event()

    class Held(FaultyOs):
        def fsync(self, fd: int) -> None:
            self.fired += 1
            saving.set()
            forked.wait()
            os.fsync(fd)

    faulty = Held(monkeypatch, publish)
    thread = threading.Thread(target=output.save, args=(tmp_path / "saved",))
    thread.start()
    saving.wait()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout's would have it wait on
        signal.alarm(60)
        try:
            with output:
                assert Path(output).read_bytes() == b"abc"
            end_of_process()
            os._exit(7)
        finally:
            os._exit(1)
    forked.set()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    thread.join()
    assert faulty.fired == 1
    assert (output.path, output.read()) == (tmp_path / "saved", b"abc")
