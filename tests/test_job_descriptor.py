"""`current_job().fileno()`: what programs and C code write to a descriptor is collected."""

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from collector import ClosedError, Collector, CurrentJob, WorkerCrashError, current_job
from tests.support.jobs import KIB, MIB, kill_self, sha256, wait_for
from tests.support.leaks import is_running, wait_until
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")

PROGRAM: Final = sys.executable


def run(script: str, *arguments: object, **options: Any) -> None:
    """Let a program write to the output of the running job."""
    command = [PROGRAM, "-c", script, *map(str, arguments)]
    subprocess.run(command, stdout=current_job(), check=True, **options)


def descriptors() -> set[str]:
    """The descriptors of this process, and where they lead to."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return {name for name in found if "/proc/" not in name and "/dev/null" not in name}


# -- what a program prints -------------------------------------------------------------------------


def many_pieces(count: int) -> str:
    """Let a program print pieces of many sizes."""
    script = """
import os, random, sys
chance = random.Random(7)
for _ in range(int(sys.argv[1])):
    os.write(1, chance.randbytes(chance.choice((1, 100, 5000, 200_000))))
"""
    run(script, count)
    return "done"


@each_method
def test_what_a_program_prints_is_the_output_to_the_last_byte(method: str) -> None:
    chance = random.Random(7)
    pieces = [chance.randbytes(chance.choice((1, 100, 5000, 200_000))) for _ in range(300)]
    with Collector(2, method) as collector:
        jobs = [collector.submit(many_pieces, 300) for _ in range(3)]
        for job in jobs:
            assert job.result() == "done"
            assert sha256(job.output()) == sha256(pieces)


def in_turn() -> int:
    """Write oneself and by programs, in turn."""
    job = current_job()
    job.write("one\n")
    run("print('two')")
    print("three", file=job)
    subprocess.run(["sh", "-c", "echo four; echo five >&2"], stdout=job, stderr=job, check=True)
    os.write(job.fileno(), b"six\n")
    job.writelines(["seven\n", b"eight\n"])
    return job.tell()


@each_method
def test_what_is_written_after_a_program_has_ended_comes_behind_it(method: str) -> None:
    with Collector(1, method) as collector:
        for _ in range(3):
            job = collector.submit(in_turn)
            assert job.result() == job.output().size
            words = job.output().text().split()
            assert words == ["one", "two", "three", "four", "five", "six", "seven", "eight"]


def as_an_image_library_does() -> None:
    """Write a head, the body by the descriptor, as C code does, and a tail."""
    file = current_job()
    for number in range(50):
        file.write(b"head %d " % number)
        file.flush()
        body = b"%d" % (number % 10) * 100_000
        while body:
            body = body[os.write(file.fileno(), body) :]
        file.write(b" tail\n")


def test_a_library_that_writes_its_body_by_the_descriptor_gets_its_order() -> None:
    expected = b"".join(b"head %d %b tail\n" % (n, b"%d" % (n % 10) * 100_000) for n in range(50))
    with Collector(1) as collector:
        assert collector.submit(as_an_image_library_does).output().read() == expected


def both_at_once(size: int) -> None:
    """Write, while a program and another thread write by the descriptor."""
    job = current_job()
    script = "import os; [os.write(1, b'p' * 1000) for _ in range(1000)]"
    program = subprocess.Popen([PROGRAM, "-c", script], stdout=job)
    other = threading.Thread(target=lambda: [job.write(b"t" * 1000) for _ in range(1000)])
    other.start()
    for _ in range(1000):
        job.write(b"w" * size)
    other.join()
    program.wait()


@each_method
@pytest.mark.parametrize("size", [100, 40_000])
def test_what_comes_both_ways_at_once_is_complete_and_no_chunk_is_cut(
    method: str, size: int
) -> None:
    with Collector(1, method) as collector:
        output = collector.submit(both_at_once, size).output()
        data = output.read()
    assert len(data) == 2_000_000 + size * 1000
    assert [data.count(letter) for letter in (b"p", b"t", b"w")] == [
        1_000_000,
        1_000_000,
        size * 1000,
    ]


def large(size: int) -> None:
    """Let a program print much."""
    subprocess.run(["head", "-c", str(size), "/dev/zero"], stdout=current_job(), check=True)


def test_any_size_is_taken_and_can_be_followed() -> None:
    with Collector(1) as collector:
        job = collector.submit(large, 300 * MIB)
        assert sum(map(len, job.follow())) == 300 * MIB == job.output().size
        assert not any(next(iter(job.output())))


def writes_last(size: int) -> None:
    """End right after a write to the descriptor."""
    os.write(current_job().fileno(), b"x" * size)


def test_what_was_written_just_before_the_end_is_there() -> None:
    with Collector(2) as collector:
        for job in [collector.submit(writes_last, size) for size in (1, 5000, 60_000) * 50]:
            assert job.result() is None
            assert job.output().size == job.args[0]


# -- its end ---------------------------------------------------------------------------------------


def leave_a_daemon(script: str, marks: str) -> int:
    """Start a program that goes on, and end when it has printed something."""
    command = [PROGRAM, "-c", script, marks]
    program = subprocess.Popen(command, stdout=current_job(), start_new_session=True)
    wait_for(f"{marks}/printed")
    return program.pid


TALKS_LATER: Final = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
marks = pathlib.Path(sys.argv[1])
os.write(1, b"in time\\n")
(marks / "printed").touch()
while not (marks / "over").exists():
    time.sleep(0.01)
try:
    os.write(1, b"too late\\n")
except OSError as error:
    (marks / "error.part").write_text(str(error.errno))
    (marks / "error.part").rename(marks / "error")
"""
FLOODS: Final = """
import os, pathlib, signal, sys
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
marks, written = pathlib.Path(sys.argv[1]), 0
try:
    while True:
        written += os.write(1, b"y" * 4096)
        if written == 40 * 4096:
            (marks / "printed").touch()
except OSError as error:
    (marks / "error.part").write_text(str(error.errno))
    (marks / "error.part").rename(marks / "error")
"""


@each_method
def test_a_daemon_that_keeps_its_end_holds_up_nothing_and_reaches_no_later_job(
    method: str, tmp_path: Path
) -> None:
    with Collector(1, method) as collector:
        job = collector.submit(leave_a_daemon, TALKS_LATER, os.fspath(tmp_path))
        assert is_running(job.result())
        assert job.output().read() == b"in time\n"
        following = collector.submit(wait_for, tmp_path / "error")
        second = collector.submit(in_turn)
        (tmp_path / "over").touch()
        following.result()
        assert (tmp_path / "error").read_text() == str(errno.EPIPE)
        assert following.output().size == 0
        assert b"late" not in second.output().read()
    wait_until(lambda: not is_running(job.result()))


@each_method
def test_a_daemon_that_floods_it_ends_with_the_job(method: str, tmp_path: Path) -> None:
    with Collector(1, method) as collector:
        job = collector.submit(leave_a_daemon, FLOODS, os.fspath(tmp_path))
        job.result()
        wait_until((tmp_path / "error").exists)
        assert (tmp_path / "error").read_text() == str(errno.EPIPE)
        assert job.output().size >= 40 * 4096
        assert set(job.output().read()) == {ord("y")}
        assert collector.submit(in_turn).output().text().startswith("one\ntwo\n")


def closes_early() -> str:
    """Give the descriptor to programs that close it, and close it oneself."""
    run("import os; os.write(1, b'1'); os.close(1)")
    with open(current_job().fileno(), "wb") as file:
        file.write(b"2")
    run("import os; os.write(1, b'3')")
    os.close(current_job().fileno())
    current_job().write(b"4")
    taken = os.open(os.devnull, os.O_RDONLY)  # has its number now
    run("import os; os.write(1, b'5')")
    return os.readlink(f"/proc/self/fd/{taken}")


@each_method
def test_an_end_that_is_closed_early_costs_nothing(method: str) -> None:
    with Collector(1, method) as collector:
        job = collector.submit(closes_early)
        assert job.result() == os.devnull
        assert job.output().read() == b"12345"


def keeps_a_number() -> int:
    """Close the descriptor and open something else that gets its number; leave that open."""
    os.write(current_job().fileno(), b"data")
    number = current_job().fileno()
    os.close(number)
    other = os.open(os.devnull, os.O_RDONLY)
    assert other == number
    return other


def is_open(number: int) -> str:
    """Tell where a descriptor leads to, and close it."""
    where = os.readlink(f"/proc/self/fd/{number}")
    os.close(number)
    return where


def test_a_descriptor_of_the_jobs_own_with_its_number_is_not_closed() -> None:
    with Collector(1) as collector:
        job = collector.submit(keeps_a_number)
        assert collector.submit(is_open, job.result()).result() == os.devnull
        assert job.output().read() == b"data"


def closes_what_is_not_its_own(marks: str) -> None:
    """Close our end of the pipe, too, and put something else there."""
    job = current_job()
    job.write(b"before\n")
    os.write(job.fileno(), b"kept\n")
    job.flush()
    ours = [fd for fd in range(3, 1024) if leads_to_a_pipe_of(job.fileno(), fd)]
    for fd in ours:
        os.dup2(os.open(marks, os.O_RDONLY), fd)


def leads_to_a_pipe_of(fd: int, other: int) -> bool:
    try:
        return os.fstat(fd).st_ino == os.fstat(other).st_ino
    except OSError:
        return False


@each_method
def test_a_job_that_closes_our_end_fails_and_no_file_of_its_own_is_read(
    method: str, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("not for the output")
    with Collector(1, method) as collector:
        job = collector.submit(closes_what_is_not_its_own, os.fspath(tmp_path / "secret"))
        assert isinstance(job.exception(), OSError)
        assert "not its own" in str(job.exception())
        assert job.output().read() == b"before\nkept\n"
        assert not job.output().complete
        assert collector.submit(in_turn).output().text().startswith("one\n")


# -- failures --------------------------------------------------------------------------------------


def print_then(end: Callable[[], object]) -> None:
    """Let a program print, then end as told."""
    run("print('a program')")
    end()


def fail() -> None:
    """Fail."""
    raise ValueError("after the program")


def flush_and_die() -> None:
    """Hand over, and be killed."""
    current_job().flush()
    kill_self()


@each_method
@pytest.mark.parametrize(("end", "kind"), [(fail, ValueError), (flush_and_die, WorkerCrashError)])
def test_what_came_before_a_failure_is_kept(
    method: str, end: Callable[[], object], kind: type[Exception]
) -> None:
    with Collector(1, method) as collector:
        job = collector.submit(print_then, end)
        assert isinstance(job.exception(), kind)
        assert job.output().read() == b"a program\n"
        assert not job.output().complete


def killed_while_a_program_prints(after: int) -> None:
    """Be killed once the program has printed so much, or somewhat more."""
    script = "import os\nfor n in range(10**9): os.write(1, b'%015d\\n' % n)"
    subprocess.Popen([PROGRAM, "-c", script], stdout=current_job())
    while current_job().tell() < after:
        pass
    current_job().flush()
    os.kill(os.getpid(), signal.SIGKILL)


@each_method
def test_a_worker_that_is_killed_while_a_program_prints_leaves_a_true_prefix(method: str) -> None:
    with Collector(1, method) as collector:
        job = collector.submit(killed_while_a_program_prints, 300 * KIB)
        assert isinstance(job.exception(), WorkerCrashError)
        data = job.output().read()
    assert len(data) >= 300 * KIB
    expected = b"".join(b"%015d\n" % n for n in range(len(data) // 16 + 1))
    assert data == expected[: len(data)]


# -- who has it ------------------------------------------------------------------------------------


def asks_for_it(times: int) -> None:
    """Ask again and again."""
    assert len({current_job().fileno() for _ in range(times)}) == 1
    assert not os.get_inheritable(current_job().fileno())


def test_nothing_is_open_that_nobody_asked_for_and_nothing_stays_open() -> None:
    with Collector(1) as collector:
        collector.submit(asks_for_it, 1).result()
        before = collector.submit(descriptors).result()
        for _ in range(20):
            collector.submit(asks_for_it, 3).result()
        assert collector.submit(descriptors).result() == before
        assert collector.submit(threading.active_count).result() == 3


def asks_from_many_threads() -> set[int]:
    """Ask in many threads at once; write what was given, and return it."""
    start, found = threading.Barrier(8), []

    def ask() -> None:
        start.wait()
        found.append(current_job().fileno())
        os.write(found[-1], b"x")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return set(found)


def test_threads_that_ask_at_once_are_given_the_same() -> None:
    with Collector(1) as collector:
        for _ in range(10):
            job = collector.submit(asks_from_many_threads)
            assert len(job.result()) == 1
            assert job.output().read() == b"x" * 8


def forks() -> list[str]:
    """Write in a forked child by each way; return what that is told."""
    job, (read, write) = current_job(), os.pipe()
    fd = job.fileno()
    job.write("parent\n")
    if not (child := os.fork()):
        os.write(fd, b"child\n")
        for ask in (lambda: job.write("no"), job.fileno, job.flush, job.tell):
            try:
                ask()
            except ClosedError as error:
                os.write(write, f"{error}\n".encode())
        os._exit(0 if job.closed else 1)
    os.close(write)
    with open(read) as told:
        errors = told.read().splitlines()
    assert os.waitpid(child, 0)[1] == 0
    job.write("parent\n")
    return errors


@each_method
def test_a_child_that_a_job_forks_may_use_the_descriptor_and_nothing_else(method: str) -> None:
    with Collector(1, method) as collector:
        job = collector.submit(forks)
        errors = job.result()
        assert job.output().text() == "parent\nchild\nparent\n"
    assert len(errors) == 4
    assert all(f"{job.name} runs in another process" in error for error in errors)


def prepares_its_program() -> None:
    """Run a program by way of a fork of this process."""
    run("print('it runs')", preexec_fn=os.getpid)


@each_method
def test_a_program_that_is_started_by_fork_gets_it_too(method: str) -> None:
    with Collector(1, method) as collector:
        assert collector.submit(prepares_its_program).output().text() == "it runs\n"


LEFT: Final[list[CurrentJob]] = []


def leave_the_job() -> None:
    """Leave what leads to the output where the next job finds it."""
    current_job().fileno()
    LEFT.append(current_job())


def ask_the_left_one() -> list[str]:
    """Ask the job before for its descriptor, and tell what it said."""
    job, errors = LEFT.pop(), []
    assert job.closed
    job.close()
    for ask in (job.fileno, job.flush, job.tell, lambda: job.write("x"), lambda: print(file=job)):
        with pytest.raises(ClosedError) as caught:
            ask()
        errors.append(str(caught.value))
    return errors


@each_method
def test_the_job_before_gives_no_descriptor_any_more_and_says_why(method: str) -> None:
    with Collector(1, method) as collector:
        first = collector.submit(leave_the_job)
        first.result()
        second = collector.submit(ask_the_left_one)
        for error in second.result():
            assert f"job {first.name} is over" in error
            assert "a logging handler, a redirected sys.stdout, a thread" in error
        assert second.output().size == 0
