"""The words and pictures of the bars, and how they get to a terminal that may be in any state."""

import functools
import gc
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector import Collector, Mode, settings
from collector.progress import draw, screen
from collector.progress import text as words
from collector.progress.batch import Batch
from collector.progress.lines import BatchLines, Plain
from collector.progress.outlet import Outlet
from collector.progress.tally import Said
from collector.progress.terminal import Terminal
from collector.progress.text import BatchLine, columns_of, facts, job_line, printable, size_text
from collector.progress.view import ShownJob, View
from tests.support.leaks import wait_until
from tests.support.tiers import each_method

NAMES = st.text(max_size=40)
COLUMNS = st.integers(8, 200)
SIZES = st.integers(0, 10**15)


def job(number: int = 1, name: str = "job", size: int = 0, **changes: Any) -> ShownJob:
    """A running job."""
    told: dict[str, Any] = {"attempt": 1, "mode": Mode.MEMORY, "elapsed_s": 1.0} | changes
    return ShownJob(batch=1, id=number, name=name, size_bytes=size, **told)


def view(**changes: Any) -> View:
    """A batch."""
    told: dict[str, Any] = {
        "batch": 1,
        "desc": "",
        "done": 3,
        "total": 12,
        "failed": 0,
        "spilled": 0,
        "bytes_total": 1000,
        "elapsed_s": 2.0,
        "running": (),
    }
    return View(**(told | changes))


def batch_line(seen: View, columns: int) -> str:
    """The line of a batch."""
    with open(os.devnull, "w", encoding="utf-8") as stream:
        line = BatchLine(seen, stream)
    text = line.text(seen, columns)
    line.close()
    return text


# -- words -----------------------------------------------------------------------------------------


@given(
    desc=NAMES,
    done=st.integers(0, 10**6),
    total=st.none() | st.integers(0, 10**6),
    size=SIZES,
    failed=st.integers(0, 1000),
    columns=COLUMNS,
)
def test_a_batch_has_a_line_that_is_never_too_wide(
    desc: str, done: int, total: int | None, size: int, failed: int, columns: int
) -> None:
    total = total and max(total, done)
    seen = view(desc=desc, done=done, total=total, bytes_total=size, failed=failed)
    text = batch_line(seen, columns)
    assert columns_of(text) <= columns
    assert text == printable(text)
    assert text or columns < 14
    assert not text or str(done) in text


@given(name=NAMES, size=SIZES, attempt=st.integers(1, 3), columns=COLUMNS)
def test_a_job_has_a_line_that_is_never_too_wide(
    name: str, size: int, attempt: int, columns: int
) -> None:
    text = job_line(job(name=name, size=size, attempt=attempt), columns)
    assert columns_of(text) <= columns
    assert text == printable(text)
    assert not text or size_text(size) in text


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (80, " 25%|████▎            | 3/12 [00:02<00:06, 1.95KB, 1000B/s, 2 spilled, 0 failed]"),
        (60, " 25%|█▊     | 3/12 [00:02<00:06, 1.95KB, 1000B/s, 2 spilled]"),
        (40, " 25%|██▎      | 3/12 [1.95KB, 2 spilled]"),
        (30, "|█▌    | 3/12 1.95KB 2 spilled"),
        (20, "|█▌    | 3/12 1.95KB"),
        (10, "|▊  | 3/12"),
        (5, "3/12"),
        (3, ""),
    ],
)
def test_with_less_room_a_batch_tells_what_matters_most(columns: int, text: str) -> None:
    seen = view(bytes_total=2000, spilled=2)
    assert batch_line(seen, columns) == text


def test_failures_matter_more_than_bytes() -> None:
    assert batch_line(view(failed=1), 20) == "3/12 1000B 1 failed"
    assert batch_line(view(failed=1), 17) == "3/12 1 failed"


def test_a_batch_of_unknown_length_counts_its_jobs() -> None:
    text = batch_line(view(total=None, desc="lazy"), 80)
    assert text == "lazy: 3 jobs [00:02, 1000B, 500B/s, 0 spilled, 0 failed]"
    assert facts(view()) == ["1000B", "500B/s", "0 spilled", "0 failed"]


def test_the_rate_is_that_of_the_last_seconds_and_at_the_end_that_of_all() -> None:
    line = BatchLine(view(), io.StringIO())
    for second in range(10):
        line.text(view(bytes_total=100 * second, elapsed_s=float(second)), 80)
    assert "1.95KB/s" in line.text(view(bytes_total=900 + 2000 * 3, elapsed_s=12.0), 80)
    assert "575B/s" in line.text(view(bytes_total=6900, elapsed_s=12.0), 80, final=True)
    line.close()


def test_one_character_for_a_bar_is_refused_and_a_bar_drawn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_7 = functools.partial(words.private_tqdm(), ascii="7")
    monkeypatch.setattr(words, "private_tqdm", lambda: with_7)
    for _ in range(2):
        assert "25%|##" in batch_line(view(), 100)
    assert caplog.messages == ["tqdm refuses the value of TQDM_ASCII (it needs two characters)"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1023, "1023B"),
        (1024, "1.00KB"),
        (10_240, "10.0KB"),
        (1_048_575, "1.00MB"),
        (5 * 2**20, "5.00MB"),
        (999 * 2**30, "999GB"),
        (2**50, "1024TB"),
    ],
)
def test_sizes_have_three_digits(size: int, text: str) -> None:
    assert size_text(size) == text


def test_names_keep_their_end_and_say_which_attempt_it_is() -> None:
    assert job_line(job(name="x" * 50 + "-12"), 30).startswith("  …")
    assert "-12: 0B memory" in job_line(job(name="x" * 50 + "-12"), 30)
    assert "job (attempt 2): " in job_line(job(attempt=2), 80)


# -- pictures --------------------------------------------------------------------------------------


class Watched:
    """A screen, and all that has scrolled away above it."""

    def __init__(self, columns: int, rows: int) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self.stream = pyte.Stream(self.screen)

    def write(self, text: str) -> None:
        """As a terminal does that ends a line for `\\n`."""
        self.stream.feed(text.replace("\n", "\r\n").replace("\r\r", "\r"))

    @property
    def lines(self) -> list[str]:
        """What was ever on the screen."""
        width = range(self.screen.columns)
        gone = ["".join(row[x].data for x in width).rstrip() for row in self.screen.history.top]
        return [line for line in gone + [row.rstrip() for row in self.screen.display] if line]


@given(
    columns=st.integers(10, 100),
    rows=st.integers(3, 40),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("say"), st.integers(1, 9)),
            st.tuples(st.just("draw"), st.integers(1, 40)),
            st.tuples(st.just("line"), st.just(0)),
        ),
        max_size=40,
    ),
)
def test_whatever_is_written_between_pictures_stays_whole_and_in_order(
    columns: int, rows: int, steps: list[tuple[str, int]]
) -> None:
    seen, said, drawn = Watched(columns, rows), list[str](), 0
    for step, (what, number) in enumerate(steps):
        if what == "say":
            said.append(f"{step}{'x' * number}"[: columns - 1])
            half = len(said[-1]) // 2
            seen.write(said[-1][:half])
            if drawn:  # a picture in the middle of a line
                seen.write(screen.picture(["#"] * drawn, rows, afresh=bool(number % 2)))
            seen.write(f"{said[-1][half:]}\n")
        elif what == "line":
            said.append(f"{step}line"[: columns - 1])
            seen.write(screen.line_above(said[-1]))
        else:
            lines = min(number, rows - screen.TEXT_ROWS)
            seen.write(screen.picture(["#"] * lines, rows, afresh=lines != drawn))
            drawn = lines
            assert seen.screen.display[-drawn:] == ["#".ljust(columns)] * drawn
    seen.write(screen.clear())
    assert seen.lines == said
    assert seen.screen.margins is None
    assert seen.screen.cursor.x == 0


# -- the way to the terminal -----------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """A pipe: the end to read, and a stream to write to."""
    read, write = os.pipe()
    with open(write, "w", encoding="utf-8", closefd=False) as stream:
        yield read, stream
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            continue  # the test has closed it


def fill(fd: int) -> None:
    """Write until there is no room."""
    os.set_blocking(fd, False)
    try:
        while True:
            os.write(fd, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(fd, True)


def test_a_full_pipe_is_given_up_quietly(pipe: tuple[int, io.TextIOWrapper]) -> None:
    outlet = Outlet(pipe[1], patience_s=0.05)
    fill(pipe[1].fileno())
    assert not outlet.write("dropped", wait=False)
    assert not outlet.gone
    assert not outlet.write("too late")
    assert outlet.gone


def test_a_broken_pipe_is_given_up_quietly(pipe: tuple[int, io.TextIOWrapper]) -> None:
    os.close(pipe[0])
    outlet = Outlet(pipe[1], patience_s=10)
    assert not outlet.write("nobody reads")
    assert outlet.gone


def test_what_was_begun_is_finished_when_there_is_room(
    pipe: tuple[int, io.TextIOWrapper],
) -> None:
    read, stream = pipe
    os.set_blocking(stream.fileno(), False)
    outlet, text = Outlet(stream, patience_s=None), "é" * 200_000
    got: list[bytes] = []

    def take() -> None:
        while sum(map(len, got)) < 2 * len(text):
            got.append(os.read(read, 65536))

    reader = threading.Thread(target=take)
    reader.start()
    assert outlet.write(text)
    reader.join()
    assert b"".join(got).decode() == text


def test_a_descriptor_that_has_become_another_file_is_left_alone(
    pipe: tuple[int, io.TextIOWrapper], tmp_path: Path
) -> None:
    outlet = Outlet(pipe[1], patience_s=None)
    with open(tmp_path / "precious", "wb") as other:
        os.dup2(other.fileno(), pipe[1].fileno())
    assert not outlet.write("not here")
    assert outlet.gone
    assert (tmp_path / "precious").read_bytes() == b""


def test_a_closed_descriptor_is_given_up_quietly(pipe: tuple[int, io.TextIOWrapper]) -> None:
    outlet = Outlet(pipe[1], patience_s=None)
    os.close(pipe[1].fileno())
    assert not outlet.write("nowhere")
    assert outlet.gone


def test_a_stream_without_descriptor_is_written_to_until_it_is_closed() -> None:
    stream = io.StringIO()
    outlet = Outlet(stream, patience_s=None)
    assert outlet.write("text")
    assert stream.getvalue() == "text"
    stream.close()
    assert not outlet.write("more")


def test_what_an_encoding_does_not_know_is_replaced(pipe: tuple[int, io.TextIOWrapper]) -> None:
    with open(pipe[1].fileno(), "w", encoding="ascii", closefd=False) as stream:
        assert Outlet(stream, patience_s=None).write("…é")
    assert os.read(pipe[0], 10) == b"??"


# -- painters and threads --------------------------------------------------------------------------


def test_plain_lines_come_at_growing_intervals() -> None:
    stream = io.StringIO()
    plain = Plain(Outlet(stream, None), BatchLines(stream))
    came = []
    for second in range(60):
        before = len(stream.getvalue())
        plain.paint([view(elapsed_s=float(second))])
        came += [second] if len(stream.getvalue()) > before else []
    assert came == [1, 2, 4, 8, 16, 26, 36, 46, 56]
    plain.finish(view(), last=True)
    assert stream.getvalue().count("\n") == 10


def test_its_descriptor_of_the_terminal_is_closed_with_who_draws_on_it() -> None:
    primary, side = os.openpty()
    with open(primary, "rb"), open(side, "w", encoding="utf-8") as stream:
        before = os.listdir("/proc/self/fd")
        gc.disable()  # whoever reads the terminal would wait for a collection
        try:
            terminal = Terminal(stream)
            terminal.paint([view()])
            terminal.finish(view(), last=True)
            assert len(os.listdir("/proc/self/fd")) == len(before) + 1
            del terminal
            assert os.listdir("/proc/self/fd") == before
        finally:
            gc.enable()


def test_the_jobs_that_have_run_for_longest_have_the_rows() -> None:
    _, side = os.openpty()
    with open(side, "w", encoding="utf-8") as stream:
        terminal = Terminal(stream)

        def seated(room: int, *numbers: int) -> Sequence[str]:
            running = tuple(
                job(number, name=f"j{number}", elapsed_s=100.0 - number) for number in numbers
            )
            lines = terminal._picture([view(running=running[::-1])], 80, room)
            return [line.split(":")[0].strip() for line in lines[1:]]

        assert seated(5, 1, 2, 3) == ["j1", "j2", "j3"]
        assert seated(5, 1, 3) == ["j1", "j3", ""], "the region keeps its height"
        assert seated(5, 1, 3, 4, 5, 6) == ["j1", "j3", "j4", "j5"]
        assert seated(1, 1, 3, 4, 5, 6) == []
        assert seated(50, *range(20)) == [f"j{number}" for number in range(8)]
    os.close(_)


class Broken:
    """A painter with a bug."""

    pause_s = 0.0

    def __init__(self) -> None:
        self.abandoned = 0

    def say(self, view: View, news: Sequence[Said]) -> None:
        """Say nothing."""

    def paint(self, views: Sequence[View]) -> None:
        raise ZeroDivisionError

    def finish(self, view: View, *, last: bool) -> None:
        raise ZeroDivisionError

    def abandon(self) -> None:
        self.abandoned += 1


def test_a_painter_that_fails_gives_its_place_back_and_nobody_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    painter = Broken()
    with caplog.at_level("DEBUG", "collector"):
        stop = draw._places.draw(Batch("", 1), "broken", lambda: painter)
        assert wait_until(lambda: painter.abandoned)
        stop()
    assert "cannot be drawn" in caplog.text
    assert wait_until(lambda: "broken" not in draw._places._places)


def test_a_place_that_takes_nothing_more_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "DRAW_PATIENCE_S", 0.05)
    go = threading.Event()

    class Stopped(Broken):
        def paint(self, views: Sequence[View]) -> None:
            go.wait()

        def finish(self, view: View, *, last: bool) -> None:
            go.wait()

    stop = draw._places.draw(Batch("", 1), "stopped", Stopped)
    stop()
    assert "stopped" in draw._places._places
    go.set()
    assert wait_until(lambda: "stopped" not in draw._places._places)


@pytest.mark.parametrize("stream", [None, "closed"])
@each_method
def test_jobs_run_where_stderr_is_closed_or_missing(
    method: str, stream: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = io.StringIO()
    broken.close()
    monkeypatch.setattr(sys, "stderr", broken if stream else None)
    for progress in (None, True):
        with Collector(1, method, progress=progress) as collector:
            assert [job.result() for job in collector.collect(abs, [1])] == [1]
            assert collector.submit(abs, -2).result() == 2


def no_number() -> int:
    raise NotImplementedError("a stream without a number")


def not_open() -> int:
    return 2**30


def negative() -> int:
    return -1


@pytest.mark.parametrize("fileno", [no_number, not_open, negative, mock.Mock()])
@pytest.mark.parametrize("progress", [None, True])
def test_what_stands_for_stderr_may_say_anything_of_its_descriptor(
    progress: bool | None, fileno: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "fileno", fileno, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    with Collector(1, progress=progress) as collector:
        assert [job.result() for job in collector.collect(abs, [1])] == [1]
    drawn = "1/1" in stream.getvalue()
    assert drawn == (progress is True and fileno is not not_open)


def test_a_forked_child_draws_nothing_and_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    batch = Batch("", 1)
    stop = draw.draw(batch, always=True)
    child = os.fork()
    if not child:
        stop()
        batch.leave()
        draw._places.end_all()
        os._exit(len(stream.getvalue()))
    assert os.waitpid(child, 0)[1] == 0
    stop()
    assert stream.getvalue().count("\n") == 1
