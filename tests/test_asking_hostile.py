"""Those who ask a Collector and mean no good, or are many: nothing of it holds up the batch."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector import Collector, settings
from collector.cli.asking import AskError, ask
from collector.wire.questions import Question, QuestionError, read_question
from tests.support.asking import a_batch, command, connect, said_to_the_end, top
from tests.support.askingjobs import wait_for
from tests.support.inside import run_directory
from tests.support.jobs import square
from tests.support.leaks import wait_until
from tests.support.otheruser import become
from tests.support.rundirs import NOBODY, needs_root
from tests.support.tiers import each_method, each_method_but, each_method_in_one_tier

pytestmark = pytest.mark.usefixtures("one_server")


def answer(run: Path, question: bytes) -> dict[str, object]:
    """What is answered to these bytes."""
    with connect(run) as end:
        end.sendall(question)
        said: dict[str, object] = json.loads(said_to_the_end(end))
    return said


def test_each_of_many_questions_in_a_row_is_answered() -> None:
    with Collector(1) as collector:
        assert collector.submit(square, 3).result() == 9
        run = run_directory(collector)
        for _ in range(50):
            assert answer(run, b'{"kind": "top"}\n')["done"] == 1


@pytest.mark.parametrize(
    "question",
    [
        b"\n",
        b"garbage\n",
        b"[]\n",
        b'{"kind": "top", "job": 3}\n',
        b'{"kind": "nothing"}\n',
        b'{"kind": "kill"}\n',
        b"[" * 4000 + b"\n",
        b"\xff\x00\n",
        b"\x80\x05K\x01.\n",
        b"x" * 10_000,
    ],
)
def test_what_is_no_question_is_refused(question: bytes) -> None:
    if b"\n" in question:
        with pytest.raises(QuestionError):
            read_question(question)
    with Collector(1) as collector:
        collector.submit(square, 3).result()
        assert set(answer(run_directory(collector), question)) == {"error"}


def test_a_question_in_pieces_is_answered_and_half_a_one_holds_up_nobody() -> None:
    with Collector(1) as collector:
        collector.submit(square, 3).result()
        run = run_directory(collector)
        with connect(run) as half, connect(run) as end:
            half.sendall(b'{"kind":')
            for byte in b'{"kind": "top"}\n':
                end.sendall(bytes([byte]))
            assert json.loads(said_to_the_end(end))["done"] == 1
            assert collector.submit(square, 4).result() == 16
        assert len(top()) == 1


@each_method_in_one_tier
@pytest.mark.slow
def test_one_who_says_nothing_and_one_who_reads_nothing_are_dropped(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ASKING_DEADLINE_S", 0.5)
    with Collector(1, method) as collector:
        collector.submit(square, 3).result()
        run = run_directory(collector)
        with connect(run) as silent, connect(run) as endless:
            assert said_to_the_end(silent) == b""  # after the deadline
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                endless.sendall(bytes(100 << 20))
        assert wait_until(lambda: "collector-answer" not in [t.name for t in threading.enumerate()])


@each_method_but("spawn")
def test_a_thousand_at_once_keep_no_true_one_from_its_answer(method: str) -> None:
    with Collector(2, method) as collector:
        collector.submit(square, 3).result()
        run = run_directory(collector)
        silent: list[socket.socket] = []

        def crowd() -> None:
            silent.extend(connect(run) for _ in range(1000))

        crowding = threading.Thread(target=crowd)
        crowding.start()
        try:
            for number in range(200):
                assert collector.submit(square, number).result() == number * number
            assert ask(os.fspath(run), Question("top"))["done"] == 201
            crowding.join()
            assert ask(os.fspath(run), Question("top"))["done"] == 201
        finally:
            crowding.join()
            for end in silent:
                end.close()


@each_method
def test_of_those_who_say_nothing_no_more_than_the_limit_are_held(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ASKING_DEADLINE_S", 3600.0)  # it is not what drops them
    many = settings.ASKING_LIMIT + 50
    with Collector(1, method) as collector, contextlib.ExitStack() as ends:
        collector.submit(square, 3).result()
        run = run_directory(collector)
        silent = [ends.enter_context(connect(run)) for _ in range(many)]
        assert wait_until(lambda: sum(map(is_dropped, silent)) == many - settings.ASKING_LIMIT)
        assert not is_dropped(silent[-1])
        assert ask(os.fspath(run), Question("top"))["done"] == 1
        assert collector.submit(square, 4).result() == 16


def is_dropped(end: socket.socket) -> bool:
    try:
        return end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


@pytest.mark.slow
def test_a_deaf_follower_costs_neither_memory_nor_the_end(temp_root: Path, tmp_path: Path) -> None:
    body = """
jobs = [collector.submit(flood, f"{here}/go", 64 << 20) for _ in range(2)]
print([len(job.result()) for job in jobs], flush=True)
print(max(collector.submit(tiny, n).result() for n in range(2000)), flush=True)
wait_for(f"{here}/end")
"""
    with a_batch(temp_root, tmp_path / "here", body) as batch:
        batch.runs(2)
        with connect(batch.run) as deaf:
            deaf.sendall(b'{"kind": "follow"}\n')
            before = _memory_kib(batch.process.pid)
            batch.let_go("go")
            assert batch.hear() == "[64, 64]"
            assert batch.hear() == "1999"
            assert _memory_kib(batch.process.pid) - before < 32 * 1024
            batch.let_go("end")
            assert batch.end() == 0  # and the deaf one is still there


@needs_root
def test_another_user_reaches_nobody() -> None:
    with Collector(1) as collector:
        collector.submit(square, 3).result()
        held = os.open(run_directory(collector), os.O_RDONLY)
        assert as_nobody(f"/proc/self/fd/{held}/ask") == "refused"
        os.close(held)


@needs_root
@each_method
def test_another_user_is_answered_nothing_were_everything_open(method: str) -> None:
    with Collector(1, method) as collector:
        collector.submit(square, 3).result()
        run = run_directory(collector)
        directories = [run, *run.parents[:2]]
        (run / "ask").chmod(0o777)
        for directory in directories:
            directory.chmod(0o755)
        assert as_nobody(os.fspath(run / "ask")) == "no answer"
        for directory in directories:
            directory.chmod(0o700)
        assert len(top()) == 1


def as_nobody(path: str) -> str:
    """What another user gets who asks there."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            become(NOBODY)
            os.write(write, asked_at(path))
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as said:
        result = said.read().decode()
    os.waitpid(pid, 0)
    return result


def asked_at(path: str) -> bytes:
    """What is answered at a path."""
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.settimeout(30)
            end.connect(path)
            end.sendall(b'{"kind": "top"}\n')
            return said_to_the_end(end) or b"no answer"
    except PermissionError:
        return b"refused"
    except BrokenPipeError:
        return b"no answer"


class TestTheSocketIsReplaced:
    @each_method
    def test_a_link_in_its_place_is_not_followed(self, method: str, tmp_path: Path) -> None:
        elsewhere = tmp_path / "s"
        with Collector(1, method) as collector, socket.socket(socket.AF_UNIX) as trap:
            collector.submit(square, 3).result()
            trap.bind(os.fspath(elsewhere))
            trap.listen()
            run = run_directory(collector)
            (run / "ask").unlink()
            (run / "ask").symlink_to(elsewhere)
            with pytest.raises(AskError, match="the name of its socket is none"):
                ask(os.fspath(run), Question("top"))
            status, said, error = command("top", "--json")
            assert (status, said) == (0, b"[]\n")
            assert b"the name of its socket is none" in error
            assert collector.submit(square, 4).result() == 16
        assert elsewhere.exists()

    def test_a_file_or_a_fifo_in_its_place_is_said(self, tmp_path: Path) -> None:
        with Collector(1) as collector:
            collector.submit(square, 3).result()
            run = run_directory(collector)
            for make in (Path.touch, os.mkfifo):
                (run / "ask").unlink()
                make(run / "ask")
                with pytest.raises(AskError, match="the name of its socket is none"):
                    ask(os.fspath(run), Question("top"))

    @needs_root
    def test_a_socket_of_another_user_is_not_asked(self) -> None:
        with Collector(1) as collector:
            collector.submit(square, 3).result()
            run = run_directory(collector)
            os.chown(run / "ask", NOBODY, NOBODY)
            with pytest.raises(AskError, match="it is another user's"):
                ask(os.fspath(run), Question("top"))


ANSWERS = [
    b"[]",
    b"{}",
    b'{"news": 1}',
    b'{"error": 5}',
    b'{"run": "run-x", "pid": 1}',
    b'{"job": [1]}',
    b'{"job": 1, "bytes": "x"}',
    b'{"job": 1, "name": 2, "file": true, "bytes": 3}',
    b'{"job": 1, "file": true, "bytes": 3}',
    b'{"job": 1, "error": 5, "ended": true}',
    b'{"job": 1}\n{"error": "no more"}',
    b'{"job": 1' + 400 * b"0" + b', "name": "n"}',
]


@contextlib.contextmanager
def answering(run: Path, line: bytes) -> Iterator[None]:
    """Listen in a run directory that has no socket, and say this to everybody who asks."""
    with socket.socket(socket.AF_UNIX) as end, contextlib.chdir(run):
        end.bind("ask")
        os.chmod("ask", 0o600)
        end.listen()

        def answer_all() -> None:
            with contextlib.suppress(OSError):  # how the end is told
                while True:
                    with end.accept()[0] as asked:
                        asked.recv(4096)
                        asked.sendall(line + b"\n")

        thread = threading.Thread(target=answer_all)
        thread.start()
        try:
            yield
        finally:
            end.shutdown(socket.SHUT_RDWR)
            thread.join()
            os.unlink("ask")


def test_an_answer_of_another_form_is_said_and_hides_no_other_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("collector.cli.top._RATE_OVER_S", 0.01)  # of what is told by the others
    with Collector(1) as true, Collector(1, ask=False) as strange:
        assert [true.submit(square, 3).result(), strange.submit(square, 3).result()] == [9, 9]
        run, honest = run_directory(strange), run_directory(true).name
        for line in ANSWERS:
            with answering(run, line):
                status, said, error = command("top")
                assert (status, said.count(honest.encode())) == (0, 1), line
                assert error.count(b"answers what nobody understands") == 1, line
                status, said, _ = command("ls")
                assert (status, said.count(b"1 done, 0 running")) == (0, 1), line
                for words in (["follow", run.name, "1"], ["follow", run.name]):
                    status, _, error = command(*words)
                    assert (status, error.count(b"answers what nobody understands")) == (1, 1), line
                status, _, error = command("kill", run.name, "1")
                assert (status, error.count(b"answers what nobody understands")) == (1, 1), line


@each_method_in_one_tier
@pytest.mark.slow
@pytest.mark.usefixtures("own_server")
def test_neither_the_workers_nor_a_forked_child_have_the_socket(
    method: str, tmp_path: Path
) -> None:
    with Collector(2, method) as collector:
        run = run_directory(collector)
        gate = os.fspath(tmp_path / "gate")
        job = collector.submit(sockets_while_waiting, gate)
        assert wait_until(lambda: (run / "ask").exists() and len(top()) == 1)
        with connect(run) as end:
            end.sendall(b'{"kind": "follow"}\n')
            listening = listening_inode(run)
            pid = os.fork()
            if pid == 0:
                os._exit(listening in socket_inodes(os.getpid()))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            other = collector.submit(square, 5)  # by fork: its worker may be forked meanwhile
            assert other.result() == 25
            Path(gate).touch()
            assert listening not in job.result()


def sockets_while_waiting(gate: str) -> list[str]:
    """The sockets of this process, once the gate is open."""
    wait_for(gate)
    return socket_inodes(os.getpid())


def socket_inodes(pid: int) -> list[str]:
    """The numbers of the sockets that a process has open."""
    names = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            names.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            continue
    return [name[8:-1] for name in names if name.startswith("socket:")]


def listening_inode(run: Path) -> str:
    """The number of the socket that listens in a run directory."""
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[7].endswith("/ask") and fields[3] == "00010000":
            return fields[6]
    raise AssertionError(run)


def test_a_run_directory_that_moves_takes_the_socket_along(tmp_path: Path) -> None:
    with Collector(1) as collector:
        collector.submit(square, 3).result()
        first = run_directory(collector)
        first.rename(tmp_path / "moved")
        output = collector.submit(large).output()
        assert output.size == 6 << 20
        second = run_directory(collector)
        assert second != first
        assert wait_until((second / "ask").exists)
        assert ask(os.fspath(second), Question("top"))["run"] == second.name
        output.close()


def large() -> Iterator[bytes]:
    """Write more than is held in memory."""
    yield bytes(6 << 20)


def test_a_umask_takes_nothing_from_the_socket() -> None:
    before = os.umask(0o777)
    try:
        with Collector(1) as collector:
            collector.submit(square, 3).result()
            assert (run_directory(collector) / "ask").stat().st_mode & 0o7777 == 0o600
            os.umask(before)
    finally:
        os.umask(before)


def _memory_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0
