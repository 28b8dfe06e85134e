"""`current_job()` and a `SpillManager` in the place of a stream: for prints, handlers and wrappers.

And what an earlier job left in such a place says so.
"""

import contextlib
import copy
import io
import logging
import os
import pickle
import signal
import sys
import threading
from collections import Counter
from types import FrameType
from typing import Any, Final

import pytest

from collector import ClosedError, Collector, SpillManager, current_job
from collector.process.queue import chunk_queue as queue
from collector.process.queue import stream
from collector.process.worker import current_job as current
from collector.process.worker import job_pipe as jobpipe
from tests.support.jobs import KIB
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")


def everything_that_a_file_says(file: Any) -> dict[str, Any]:
    """Ask a file what it is."""
    asked = ("readable", "writable", "seekable", "isatty")
    said = {name: getattr(file, name)() for name in asked}
    said |= {name: getattr(file, name) for name in ("mode", "encoding", "errors", "closed")}
    assert file.buffer is file
    assert isinstance(file.name, str)
    assert isinstance(file, io.BufferedIOBase)
    for wrong in (file.read, file.readline, file.detach, lambda: file.seek(0), file.truncate):
        with pytest.raises(io.UnsupportedOperation):
            wrong()
    return said


SAID: Final = {
    "readable": False,
    "writable": True,
    "seekable": False,
    "isatty": False,
    "mode": "wb",
    "encoding": "utf-8",
    "errors": "strict",
    "closed": False,
}


def ask_the_job() -> dict[str, Any]:
    """Ask the running job."""
    return everything_that_a_file_says(current_job())


def test_both_say_of_themselves_what_a_file_says() -> None:
    with SpillManager() as manager:
        assert everything_that_a_file_says(manager) == SAID
        assert manager.name == "streaming-output"
    with Collector(1) as collector:
        assert collector.submit(ask_the_job).result() == SAID


def close_it_in_every_way(file: Any) -> None:
    """Give it to what closes it, and go on writing."""
    file.write("a")
    with io.TextIOWrapper(file) as text:
        text.write("b")
    io.TextIOWrapper(file).write("c")
    file.close()
    file.close()
    with contextlib.closing(file):
        file.write("d")
    assert not file.closed
    assert file.tell() == 4
    file.write("e")


def close_the_job() -> None:
    """Close the running job in every way."""
    close_it_in_every_way(current_job())
    with current_job() as file:
        file.write("f")
    current_job().write("g")


@each_method
def test_closing_ends_nothing(method: str) -> None:
    with SpillManager() as manager:
        close_it_in_every_way(manager)
        assert manager.finalize().read() == b"abcde"
    with Collector(1, method) as collector:
        assert collector.submit(close_the_job).output().read() == b"abcdefg"


def copies_of(file: Any) -> list[str]:
    """Try to make a second one of it, in every way; returns what was said."""
    said = []
    for use in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"cannot be pickled or copied: .* its bytes") as caught:
            use(file)
        said.append(str(caught.value))
    return said


def copies_of_the_job() -> list[str]:
    """As above, of the running job."""
    return copies_of(current_job())


def write_to(file: Any) -> None:
    """Write to what was given to the job."""
    file.write("lost")


@pytest.mark.usefixtures("process_ends")
@pytest.mark.parametrize("threshold", [1, 100])
def test_there_is_no_second_one_whose_bytes_would_be_lost(threshold: int) -> None:
    with Collector(1) as collector, SpillManager(threshold) as manager:
        manager.write("kept")
        copies_of(manager)
        with pytest.raises(TypeError, match="a SpillManager cannot be pickled or copied"):
            collector.submit(write_to, manager)
        assert manager.finalize().read() == b"kept"
        assert len(collector.submit(copies_of_the_job).result()) == 3


@pytest.mark.parametrize("how", ["finalized", "disposed"])
def test_a_manager_at_its_end_is_a_closed_file_and_says_how_it_ended(how: str) -> None:
    with SpillManager() as manager:
        text = io.TextIOWrapper(manager)
        text.write("kept")
        text.flush()
        output = manager.finalize() if how == "finalized" else None
        manager.dispose()
        assert manager.closed
        assert text.closed
        for ask in (manager.flush, manager.tell, lambda: manager.writelines(["x"])):
            with pytest.raises(ClosedError, match=how):
                ask()
        manager.close()
    assert output is None or output.read() == b"kept"


# -- what an earlier job left ----------------------------------------------------------------------


def leave_a_stdout() -> None:
    """Redirect what is printed, for good."""
    sys.stdout = current_job()
    print("mine")  # noqa: T201


def print_there() -> str:
    """Print where the job before has led it; return what that is told, and mend it."""
    try:
        print("not mine")  # noqa: T201
    except ClosedError as error:
        return str(error)
    finally:
        sys.stdout = sys.__stdout__
    return ""


def leave_a_handler() -> None:
    """Log to the output, for good."""
    logging.getLogger("left").addHandler(logging.StreamHandler(current_job()))
    logging.getLogger("left").warning("mine")


def log_there() -> str:
    """Log to what the job before has left; return what that prints about it."""
    with contextlib.redirect_stderr(io.StringIO()) as told:
        logging.getLogger("left").warning("not mine")
    logging.getLogger("left").handlers.clear()
    return told.getvalue()


def leave_a_wrapper() -> None:
    """Leave a text stream that leads to the output, and something in it."""
    wrappers.append(io.TextIOWrapper(current_job()))
    wrappers[0].write("mine\n")
    wrappers[0].flush()


def write_there() -> str:
    """Write to the text stream that the job before has left."""
    with pytest.raises(ValueError, match=r"over|closed file") as caught:
        wrappers.pop().write("not mine")
    return f"{caught.value}"


wrappers: Final[list[io.TextIOWrapper]] = []


@each_method
@pytest.mark.parametrize(
    ("leave", "use"), [(leave_a_stdout, print_there), (leave_a_handler, log_there)]
)
def test_what_an_earlier_job_left_says_that_this_one_is_over(
    method: str, leave: Any, use: Any
) -> None:
    with Collector(1, method) as collector:
        first = collector.submit(leave)
        assert first.output().text() == "mine\n"
        second = collector.submit(use)
        assert f"job {first.name} is over" in second.result()
        assert "a logging handler, a redirected sys.stdout, a thread" in second.result()
        assert second.output().size == 0


@pytest.mark.slow
def test_a_text_stream_that_an_earlier_job_left_is_a_closed_file() -> None:
    with Collector(1) as collector:
        first = collector.submit(leave_a_wrapper)
        assert first.output().text() == "mine\n"
        second = collector.submit(write_there)
        assert second.result()
        assert second.output().size == 0


def capture_after_that() -> None:
    """Print, where the job before has left a stdout of its own."""
    print("captured")  # noqa: T201


def test_a_stdout_that_was_left_does_not_hinder_capture() -> None:
    with Collector(1) as collector:
        collector.submit(leave_a_stdout).result()
        job = collector.with_options(capture=True).submit(capture_after_that)
        assert job.log().text() == "captured\n"
        collector.submit(print_there).result()


# -- signal handlers, while a descriptor is in use -------------------------------------------------


LARGE: Final = 20 * KIB
"""Bytes of a chunk that is published at once."""


class InterruptionError(Exception):
    """What a signal handler raises."""


def interrupted_at(line: int, *, raises: bool) -> tuple[int, int]:
    """Write both ways; at that line of ours comes an exception, or a handler that writes so too.

    Returns:
        How many lines there were, and how many writes were interrupted.
    """
    job, seen, interrupted = current_job(), 0, 0
    traced = [current.__file__, jobpipe.__file__]
    if not raises:  # an exception in the midst of publishing ends the worker
        traced += [queue.__file__, stream.__file__]

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in traced:
            return None
        seen += event == "line"
        if event == "line" and seen == line:
            if raises:
                raise InterruptionError
            os.write(job.fileno(), b"P" * LARGE)
            job.write(b"h")
        return trace

    for number in b"123":
        os.write(job.fileno(), b"p" * LARGE)
        sys.settrace(trace)
        try:
            job.write(bytes((number,)) * LARGE)
        except InterruptionError:
            interrupted += 1
        finally:
            sys.settrace(None)
    return seen, interrupted


@pytest.mark.slow
@pytest.mark.parametrize("raises", [False, True], ids=["writes", "raises"])
def test_a_handler_at_any_line_loses_nothing_of_what_came_by_the_descriptor(raises: bool) -> None:
    with Collector(1) as collector:
        lines, _ = collector.submit(interrupted_at, 0, raises=raises).result()
        assert lines > 20
        seen = 0
        for line in range(1, lines + 1):
            job = collector.submit(interrupted_at, line, raises=raises)
            _, interrupted = job.result(60)
            data = job.output().read()
            there = Counter(data)
            handlers = there.pop(ord("h"), 0)
            assert there.pop(ord("p")) == 3 * LARGE
            assert there.pop(ord("P"), 0) == handlers * LARGE
            assert set(there.values()) == {LARGE}
            assert len(there) in ((2, 3) if interrupted else (3,))
            seen += interrupted + handlers
        assert seen


def write_while_interrupted(rounds: int) -> int:
    """Write both ways while a signal handler writes every millisecond."""
    job, calls = current_job(), 0

    def write_too(_number: int, _frame: object) -> None:
        nonlocal calls
        calls += 1
        job.write(b"h" * 3)
        # Not by an interval: where a write takes longer, calls would pile up to a RecursionError.
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    before = signal.signal(signal.SIGALRM, write_too)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    other = threading.Thread(target=lambda: [job.write(b"t" * 500) for _ in range(rounds)])
    other.start()
    try:
        for _ in range(rounds):
            os.write(job.fileno(), b"p" * 700)
            job.write(b"w" * 300)
            job.flush()
        other.join()
    finally:  # else the handler ends the worker behind the job, and nobody hears what was wrong
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return calls


@pytest.mark.slow
@each_method
def test_all_is_there_while_a_handler_writes_each_millisecond(method: str) -> None:
    with Collector(1, method) as collector:
        job = collector.submit(write_while_interrupted, 2000)
        calls = job.result(120)
        data = job.output().read()
    assert calls
    counted = [data.count(letter) for letter in (b"p", b"t", b"w", b"h")]
    assert counted == [1_400_000, 1_000_000, 600_000, calls * 3]
