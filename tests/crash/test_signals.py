"""Faults 21, 22, 26 to 28, 31, 32 for a Collector: signals, ends, forks, and no place to print."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

from collector import Collector, Job, WorkerCrashError, current_job, reclaim
from collector.process.queue import chunk_queue as queue
from collector.process.queue import stream
from tests.support.inside import writer_of_this_worker
from tests.support.jobs import MIB, numbered, random_chunks, sha256, square
from tests.support.leaks import wait_until
from tests.support.person import Person, environment
from tests.support.tiers import each_method, each_method_in_one_tier, everyday_are
from tests.support.tree import script

# -- interrupted system calls ----------------------------------------------------------------------


def interrupt_every_ms() -> None:
    """Have every system call of this process interrupted, now and then."""
    signal.signal(signal.SIGALRM, _count)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)


def _count(_number: int, _frame: object) -> None:
    _interrupted.append(None)


_interrupted: Final[list[None]] = []


def interruptions() -> int:
    return len(_interrupted)


@pytest.fixture
def _interrupted_parent() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    timer = signal.getitimer(signal.ITIMER_REAL)  # pytest-timeout's
    interrupt_every_ms()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
@pytest.mark.timeout(300, method="thread")
@pytest.mark.usefixtures("_interrupted_parent")
@each_method_in_one_tier
def test_bytes_are_exact_while_every_process_is_interrupted_each_millisecond(method: str) -> None:
    with Collector(2, method, initializer=interrupt_every_ms) as collector:
        jobs = [collector.submit(random_chunks, seed, 40, MIB, 0.002) for seed in range(6)]
        for job in jobs:
            assert sha256(job.output(120)) == job.result()
            job.output().close()
        assert collector.submit(interruptions).result() > 0
    assert interruptions() > 0


# -- an exception in the midst of a write ----------------------------------------------------------


HANDLER: Final = 9


class InterruptionError(Exception):
    """What a signal handler raises."""


def interrupted_at(  # noqa: C901 - a job that traces itself
    line: int, size: int, *, raises: bool = True
) -> tuple[int, list[int], list[int]]:
    """Write chunks; at that line of a write comes an exception, or a handler that writes too.

    Returns:
        How many lines there were, the chunks that were taken, those whose write has raised.
    """
    seen = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in (queue.__file__, stream.__file__, threading.__file__):
            return None
        seen += event == "line"
        if event == "line" and seen == line:
            if raises:
                raise InterruptionError
            current_job().write(bytes((HANDLER,)) * size)
        return trace

    def act(number: int) -> None:
        current_job().write(bytes((number,)) * size)
        if number == 1:
            current_job().flush()

    writer = writer_of_this_worker()
    if not raises:
        wait_until(writer.stale.empty)  # so that the first write has to wake the flushing thread
    taken, raised = [], []
    for number in range(3):
        sys.settrace(trace)
        try:
            act(number)
        except InterruptionError:
            raised.append(number)
        else:
            taken.append(number)
        finally:
            sys.settrace(None)
    return seen, taken, raised


lines_between = pytest.mark.parametrize(
    "step",
    [pytest.param(4, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.campaign)],
    ids=["each fourth", "each"],
)


@lines_between
@pytest.mark.parametrize("size", [100, 300_000])
@each_method_in_one_tier
def test_an_exception_at_any_line_of_a_write_loses_no_other_chunk_or_ends_the_job(
    method: str, size: int, step: int
) -> None:
    with Collector(1, method) as collector:
        lines, _, _ = collector.submit(interrupted_at, 0, size).result()
        jobs = [collector.submit(interrupted_at, line, size) for line in range(1, lines + 1, step)]
        ended = Counter(_outcome(job, size) for job in jobs)
    assert ended["exact"]
    assert ended["ended"]


@lines_between
@pytest.mark.parametrize("size", [100, 300_000])
@each_method_in_one_tier
def test_a_handler_may_write_at_any_line_of_a_write(method: str, size: int, step: int) -> None:
    with Collector(1, method) as collector:
        lines, _, _ = collector.submit(interrupted_at, 0, size).result()
        interrupted = 0
        for line in range(1, lines + 1, step):
            job = collector.submit(interrupted_at, line, size, raises=False)
            assert job.result(60)[1:] == ([0, 1, 2], [])
            read = job.output().read()
            there = [read[at] for at in range(0, len(read), size)]
            assert read == b"".join(bytes((number,)) * size for number in there)
            assert [number for number in there if number != HANDLER] == [0, 1, 2]
            interrupted += there.count(HANDLER)
        assert interrupted


def _outcome(job: Job[tuple[int, list[int], list[int]]], size: int) -> str:
    error = job.exception()
    if error is not None:
        assert isinstance(error, WorkerCrashError)
        assert "breaks off a write" in str(error)
        return "ended"
    _, taken, raised = job.result()
    read = job.output().read()
    there = [read[at] for at in range(0, len(read), size)]
    assert read == b"".join(bytes((number,)) * size for number in there)
    assert there in (taken, sorted(taken + raised))
    return "exact" if raised else "not so many lines"


# -- no place to print -----------------------------------------------------------------------------

BATCH: Final = """
import os, sys
from collector import Collector
from tests.crash.test_signals import talk
from tests.support.jobs import sha256
with Collector(2, sys.argv[1]) as collector:
    digests = [sha256(job.output()) for job in collector.collect(talk, range(6))]
with open(sys.argv[2], "w") as file:
    file.write(" ".join(sorted(digests)))
os._exit(0)  # what the interpreter says of a stdout that it cannot flush is its own affair
"""


def talk(number: int) -> Iterator[bytes]:
    """Write an output, and print where that may be impossible."""
    for place in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # as any program that goes on without
            print("one more line" * 1000, file=place, flush=True)
    yield from random_chunks(number, 10, MIB)


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["closed", "full", "pipe"])
@each_method_in_one_tier
def test_a_program_without_a_place_to_print_collects_all(
    method: str, broken: str, tmp_path: Path
) -> None:
    read, write = os.pipe()
    os.close(read)
    full = os.open("/dev/full", os.O_WRONLY)

    def break_it() -> None:
        for fd in (0, 1, 2):
            os.close(fd)
        if broken != "closed":
            os.open(os.devnull, os.O_RDONLY)
            for fd in (1, 2):
                os.dup2(full if broken == "full" else write, fd)

    result = tmp_path / "result"
    process = subprocess.Popen(
        [sys.executable, "-c", BATCH, method, os.fspath(result)],
        env=environment(),
        preexec_fn=break_it,  # noqa: PLW1509 - nothing else runs here
        pass_fds=(write, full),
    )
    os.close(write)
    os.close(full)
    assert process.wait() == 0
    expected = sorted(sha256(random_chunks(number, 10, MIB)) for number in range(6))
    assert result.read_text().split() == expected


# -- Ctrl-C ----------------------------------------------------------------------------------------

INTERRUPTED: Final = """
import os, sys
from collector import Collector
from tests.crash.test_signals import first_ends
from tests.support.jobs import MIB, numbered, sha256
kept = None
try:
    with Collector(2, sys.argv[1]) as collector:
        for job in collector.collect(first_ends, range(8), desc="long"):
            if kept is None:
                kept = job.output()
                print("<ready>", flush=True)
finally:
    print("<exact>" if sha256(kept) == sha256(numbered(6 * MIB)) else "<damaged>", flush=True)
    kept.close()
"""


def first_ends(number: int) -> Iterator[bytes]:
    """Only the first ever ends."""
    yield from numbered(6 * MIB)
    while number:
        threading.Event().wait()


@each_method
def test_one_ctrl_c_ends_a_batch_with_one_traceback_and_what_was_finished_stays(
    method: str, tmp_path: Path
) -> None:
    batch = tmp_path / "batch.py"
    batch.write_text(INTERRUPTED)
    with Person(100, 40) as person:
        person.run(batch, method)
        person.wait_for(lambda: any("<ready>" in line for line in person.lines))
        person.press(b"\x03")
        code = person.wait()
        text = "\n".join(person.lines)
        assert code in (-signal.SIGINT, 130), text
        assert text.count("Traceback") == 1, text
        assert text.count("KeyboardInterrupt") == 1, text
        assert "<exact>" in text
    assert not list(Path(os.environ["COLLECTOR_TMPDIR"]).glob("run-*"))


@pytest.mark.slow
def test_a_ctrl_c_at_a_prompt_long_ago_does_not_end_the_jobs_at_the_exit(tmp_path: Path) -> None:
    session = """
import pathlib, threading
from collector import Collector
from tests.support.jobs import wait_for
until, done = (pathlib.Path(name).absolute() for name in ("until", "done"))
collector = Collector(1)
job = collector.submit(lambda: (wait_for(until), done.touch()))
raise KeyboardInterrupt
leaving = threading.Timer(0.5, until.touch)
leaving.daemon = True
leaving.start()
exit()
"""
    subprocess.run(
        [sys.executable, "-i", "-q"],
        input=session,
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    assert (tmp_path / "done").exists()


@each_method
def test_a_second_ctrl_c_does_not_wait_for_a_callback_that_never_returns(method: str) -> None:
    source = """
import sys, threading, time
from collector import Collector
with Collector(2, sys.argv[1]) as collector:
    job = collector.submit(time.sleep, 1000)
    callback = lambda _: (print("held", flush=True), threading.Event().wait())
    collector.submit(abs, -1).add_done_callback(callback)
    job.result()
"""
    with script(source, method) as running:
        assert running.hear() == "held"
        os.kill(running.process.pid, signal.SIGINT)
        assert wait_until(lambda: running.tree() == [running.process.pid], 20)
        assert running.process.poll() is None  # it waits for the callback
        os.kill(running.process.pid, signal.SIGINT)
        assert running.process.wait(60) == -signal.SIGINT
        assert running.gone()
    root = Path(os.environ["COLLECTOR_TMPDIR"])
    assert not reclaim([root]).failures
    assert not list(root.iterdir())


# -- ends and forks --------------------------------------------------------------------------------

ENDS: Final = {
    "the script ends": "",
    "an exception in the block": "raise ZeroDivisionError",
    "sys.exit": "sys.exit(3)",
    "sys.exit in a callback": "jobs[0].add_done_callback(lambda job: sys.exit(3))",
}


@pytest.mark.parametrize(
    "how",
    everyday_are(["the script ends", "an exception in the block"], of=ENDS),
)
@each_method
def test_a_program_that_ends_without_shutdown_leaves_nothing(method: str, how: str) -> None:
    source = """
import sys
from collector import Collector
from tests.support.jobs import MIB, numbered
collector = Collector(2, sys.argv[1])
jobs = [collector.submit(numbered, 6 * MIB) for _ in range(3)]
assert jobs[0].output().size == 6 * MIB
print("begun", flush=True)
"""
    with script(source + ENDS[how], method) as running:
        assert running.hear() == "begun"
        status = running.process.wait()
        assert status == {"an exception in the block": 1, "sys.exit": 3}.get(how, 0) or (
            "callback" in how and status == 3  # the job was over: it was called at once, in line
        )
        assert running.gone()
    assert not list(Path(os.environ["COLLECTOR_TMPDIR"]).glob("run-*"))


@each_method
def test_a_collector_of_another_thread_works_and_installs_no_handler(method: str) -> None:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    results: list[int] = []

    def use() -> None:
        with Collector(1, method) as collector:
            results.append(collector.submit(square, 3).result())
            after = {number: signal.getsignal(number) for number in signal.valid_signals()}
            assert after == before
            results.append(0)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert results == [9, 0]


CHILDREN: Final = {
    "leaves": "os._exit(0)",
    "ends as a script does": "sys.exit(0)",
    "raises": "raise ZeroDivisionError",
    "shuts down": "collector.shutdown(); kept.close(); os._exit(0)",
    "submits": "assert_refused()",
}


@pytest.mark.parametrize("child", everyday_are(["leaves", "submits"], of=CHILDREN))
@each_method
def test_a_child_that_the_user_forks_touches_nothing_of_its_parents(
    method: str, child: str
) -> None:
    source = f"""
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from collector import Collector
from tests.support.jobs import MIB, begun_then_wait, numbered, sha256, square
def assert_refused():
    try:
        collector.submit(square, 1)
    except RuntimeError:
        os._exit(0)
    os._exit(9)
with Collector(2, sys.argv[1]) as collector:
    kept = collector.submit(numbered, 6 * MIB).output()
    begun, until = (os.environ["TMPDIR"] + "/" + name for name in ("begun", "until"))
    running = collector.submit(begun_then_wait, begun, until, 7)
    while not os.path.exists(begun):
        threading.Event().wait(0.002)
    child = os.fork()
    if not child:
        {CHILDREN[child]}
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == {1 if child == "raises" else 0}, status
    open(until, "w").close()
    assert running.result(60) == 7
    assert sha256(kept) == sha256(numbered(6 * MIB))
    assert sha256(collector.submit(numbered, 6 * MIB).output()) == sha256(kept)
    os.unlink(begun)
    os.unlink(until)
    kept.close()
print("fine", flush=True)
"""
    with script(source, method) as running:
        assert running.hear() == "fine"
        assert running.process.wait() == 0
        assert running.gone()


@pytest.mark.parametrize("used", everyday_are([True], of=[False, True]))
@each_method
def test_a_child_that_the_user_forks_loses_no_file_of_its_own(method: str, used: bool) -> None:
    """Neither when it forks again nor when it drops the Collector."""
    source = """
import gc, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from collector import Collector
from tests.support.jobs import square
def fork(then):
    child = os.fork()
    if not child:
        then()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
def open_some():
    return {os.open(os.devnull, os.O_RDONLY) for _ in range(40)}
def check(files):
    there = {int(name) for name in os.listdir("/proc/self/fd")}
    if not files <= there:
        print("lost", files - there, flush=True)
def child():
    files = open_some()
    fork(lambda: check(files))
    del globals()["collector"]
    gc.collect()
    check(files)
collector = Collector(1, sys.argv[1])
if sys.argv[2] == "True":
    assert collector.submit(square, 2).result(60) == 4
fork(child)
collector.shutdown()
print("fine", flush=True)
"""
    with script(source, method, str(used)) as running:
        assert running.hear() == "fine"
        assert running.process.wait() == 0
        assert running.gone()
