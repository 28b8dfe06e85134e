"""What a person sees on a terminal while a batch runs, and what stays."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support import batches
from tests.support.leaks import wait_until
from tests.support.person import PATIENCE_S, ROOT, Person, environment, run_quietly

SCRIPT = Path(batches.__file__)
SIZES = [(80, 24), (20, 5), (0, 0)]
ONE_SIZE = [(80, 24), *(pytest.param(*size, marks=pytest.mark.slow) for size in SIZES[1:])]
SIZE = r"\d+(\.\d+)?[KMG]?B"
LAST = re.compile(r"(\w+: )?100%\|█+\| \d+/\d+ \[.*\]|(\|█+\| )?\d+/\d+( .*)?")
BATCH = re.compile(
    r"(\w+: )?( *\d+%\|[█▉▊▋▌▍▎▏ ]+\| \d+/\d+|0 jobs) \[(\d\d:\d\d(<(\d\d:\d\d|\?))?, )?"
    rf"{SIZE}(, {SIZE}/s)?(, \d+ spilled)?(, \d+ failed)?\]"
    rf"|(\|[█▉▊▋▌▍▎▏ ]+\| )?\d+/\d+( {SIZE})?( \d+ spilled)?( \d+ failed)?"
)
JOB = re.compile(
    rf"  [\w-]+: {SIZE} (\[\d\d:\d\d, {SIZE}/s, (memory|streaming)\]|memory|streaming)"
    rf"|…?[\w-]+ {SIZE}( memory| streaming)?"
)


FAIL = re.compile(rf" +FAIL \[ *[\d.]+s\] +{SIZE}  (?P<said>.*)")
LOOP = re.compile(r"loop: .* 1/12 .*")


class Watch:
    """Checks every picture of the bars: whole, at the end of the screen, the longest first."""

    def __init__(self) -> None:
        self.pictures = 0
        self.most = 0
        self._order: list[str] = []

    def __call__(self, person: Person) -> None:
        margins = person.screen.margins
        assert margins is not None
        first, *rest = person.rows[margins.bottom + 1 :]
        assert BATCH.fullmatch(first), first
        jobs = [row.split(":")[0].split(" 0")[0] for row in rest if row]
        for row in rest:
            assert not row or JOB.fullmatch(row), row
        if person.screen.columns == 80:
            stayed = [name for name in self._order if name in jobs]
            assert jobs[: len(stayed)] == stayed, "a job has overtaken another"
            self._order = jobs
        self.most = max(self.most, len(jobs))
        self.pictures += 1


def spoken(lines: Iterable[str]) -> Counter[str]:
    """What was said, without the bars."""
    return Counter(line for line in lines if line and not BATCH.fullmatch(line))


def assert_tidy(person: Person) -> None:
    """The whole screen is everybody's again, and nothing stands below the cursor."""
    assert person.screen.margins is None
    assert person.screen.cursor.x == 0
    assert not any(person.rows[person.screen.cursor.y :])


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_no_line_is_torn_while_everybody_talks(columns: int, rows: int, tmp_path: Path) -> None:
    watch = Watch()
    with Person(columns, rows, watch) as person:
        person.run(SCRIPT, "talk_to_the_end", os.fspath(tmp_path))
        assert person.wait() == 0
        said = Counter(word for number in range(batches.JOBS) for word in batches.words(number))
        for number in range(1, batches.JOBS + 1):
            said.update([f"<talk-{number} over>", f"<talk-{number} logged>"])
        said["<the end>"] += 1
        assert spoken(person.lines) == said
        last = [line for line in person.lines if line][-2:]
        assert LAST.fullmatch(last[0])
        assert f"{batches.JOBS}/{batches.JOBS}" in last[0]
        assert_tidy(person)
        if rows:
            assert watch.pictures > 3
            assert watch.most == (3 if rows == 24 else 2)
            assert len([line for line in person.lines if BATCH.fullmatch(line)]) == 1


def test_failed_jobs_are_counted_and_the_last_line_is_clean(tmp_path: Path) -> None:
    with Person(80, 24, Watch()) as person:
        person.run(SCRIPT, "fail_now_and_then", os.fspath(tmp_path))
        assert person.wait() == 0
        *said, last, end = [line for line in person.lines if line]
        two, killed = sorted(match["said"] for match in map(FAIL.fullmatch, said) if match)
        assert two == "fail-3: ValueError: two"
        assert killed.startswith("fail-5: WorkerCrashError: ")
        assert len(said) == 2
        assert LAST.fullmatch(last)
        assert last.endswith("0 spilled, 2 failed]")
        assert end == "<the end>"
        assert_tidy(person)


@pytest.mark.parametrize(("columns", "rows"), ONE_SIZE)
def test_a_ctrl_c_leaves_a_last_line_and_a_clean_screen(
    columns: int, rows: int, tmp_path: Path
) -> None:
    with Person(columns, rows, Watch()) as person:
        person.run(SCRIPT, "hold_all", os.fspath(tmp_path))
        person.wait_for(lambda: sum("<held" in line for line in person.lines) == 3)
        if rows:
            person.wait_for(lambda: person.screen.margins is not None)
        person.press(b"\x03")
        assert person.wait() == -signal.SIGINT
        lines = [line for line in person.lines if line]
        end = lines.index("^CTraceback (most recent call last):"[: columns or 80])
        assert BATCH.fullmatch(lines[end - 1])
        assert "0/6" in lines[end - 1]
        assert lines[-1] == "KeyboardInterrupt"
        assert_tidy(person)


def test_a_killed_worker_leaves_a_clean_screen(tmp_path: Path) -> None:
    with Person(80, 24, Watch()) as person:
        person.run(SCRIPT, "hold_all", os.fspath(tmp_path))
        held = re.compile(r"<held (\d+)>")
        person.wait_for(lambda: sum("<held" in line for line in person.lines) == 3)
        found = next(filter(None, map(held.fullmatch, person.lines)))
        os.kill(int(found[1]), signal.SIGKILL)
        person.wait_for(lambda: "1 failed" in "".join(person.rows))
        (tmp_path / "go").touch()
        (tmp_path / "leave").touch()
        assert person.wait() == 0
        fail, last, end = [line for line in person.lines if line and not held.fullmatch(line)]
        assert FAIL.fullmatch(fail)
        assert LAST.fullmatch(last)
        assert last.endswith("1 failed]")
        assert end == "<the end>"
        assert_tidy(person)


@pytest.mark.slow
def test_an_error_in_the_loop_is_printed_below_the_last_line(tmp_path: Path) -> None:
    with Person(80, 24, Watch()) as person:
        person.run(SCRIPT, "fail_outside", os.fspath(tmp_path))
        person.wait_for(lambda: any(LOOP.fullmatch(line) for line in person.lines))
        (tmp_path / "never").touch()
        assert person.wait() == 1
        lines = [line for line in person.lines if line]
        assert BATCH.fullmatch(lines[0])
        assert lines[1].startswith("Traceback")
        assert lines[-1] == "RuntimeError: the loop failed"
        assert_tidy(person)


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        (40, 10),
        pytest.param(120, 40, marks=pytest.mark.slow),
        pytest.param(30, 24, marks=pytest.mark.slow),
    ],
)
def test_the_bars_follow_a_resize(columns: int, rows: int, tmp_path: Path) -> None:
    with Person(80, 24) as person:
        person.run(SCRIPT, "hold_all", os.fspath(tmp_path))
        person.wait_for(lambda: sum("<held" in line for line in person.lines) == 3)
        person.wait_for(lambda: JOB.fullmatch(person.rows[-1]))
        person.resize(columns, rows)

        def at_the_end_of_the_screen_and_nowhere_else() -> bool:
            bars = [row for row in person.rows if BATCH.fullmatch(row) or JOB.fullmatch(row)]
            return bars == person.rows[-4:]

        person.wait_for(at_the_end_of_the_screen_and_nowhere_else)
        (tmp_path / "go").touch()
        (tmp_path / "leave").touch()
        assert person.wait() == 0
        last, end = [line for line in person.lines if line and "held" not in line]
        assert BATCH.fullmatch(last)
        assert end == "<the end>"
        assert_tidy(person)


@pytest.mark.slow
def test_bars_come_back_after_another_program_has_had_the_screen(tmp_path: Path) -> None:
    with Person(80, 24) as person:
        person.run(SCRIPT, "hold_all", os.fspath(tmp_path))
        person.wait_for(lambda: sum("<held" in line for line in person.lines) == 3)
        person.wait_for(lambda: JOB.fullmatch(person.rows[-1]))
        person.screen.reset()
        person.screen.cursor_position(24, 1)
        person.wait_for(lambda: person.screen.margins is not None)
        margins = person.screen.margins
        assert margins is not None
        assert person.screen.cursor.y <= margins.bottom
        (tmp_path / "go").touch()
        (tmp_path / "leave").touch()
        assert person.wait() == 0
        assert_tidy(person)


@pytest.mark.slow
def test_a_stopped_terminal_stops_no_job(tmp_path: Path) -> None:
    (tmp_path / "quiet").touch()
    with Person(80, 24, Watch()) as person:
        person.run(SCRIPT, "hold_all", os.fspath(tmp_path))
        person.wait_for(lambda: JOB.fullmatch(person.rows[-1]))
        person.press(b"\x13")
        (tmp_path / "go").touch()
        assert wait_until((tmp_path / "done").exists, 60)
        person.press(b"\x11")
        person.wait_for(lambda: person.screen.margins is None)
        (tmp_path / "leave").touch()
        assert person.wait() == 0
        assert [line for line in person.lines if line][-1] == "<the end>"
        assert_tidy(person)


@pytest.mark.slow
def test_a_worker_that_dies_with_the_lock_of_tqdm_stops_nobody(tmp_path: Path) -> None:
    with Person(80, 24, Watch()) as person:
        person.run(SCRIPT, "share_a_lock", os.fspath(tmp_path))
        assert person.wait() == 0
        fail, lock, after, end = [line for line in person.lines if line]
        assert FAIL.fullmatch(fail)
        assert lock.startswith("lock: 100%")
        assert lock.endswith("1 failed]")
        assert after.startswith("after: 100%")
        assert end == "<the end>"


@pytest.mark.slow
def test_a_fork_does_not_come_while_a_bar_loads_tqdm(tmp_path: Path) -> None:
    with Person(80, 24) as person:
        person.run(SCRIPT, "load_tqdm_in_forks", os.fspath(tmp_path))
        assert person.wait() == 0
        assert [line for line in person.lines if line][-1] == "None None None None"


@pytest.mark.slow
def test_bars_of_the_user_are_left_alone(tmp_path: Path) -> None:
    with Person(80, 24) as person:
        person.run(SCRIPT, "leave_tqdm_alone", os.fspath(tmp_path))
        assert person.wait() == 0
        assert [line for line in person.lines if line][-1] == "<False 0 None>"


@pytest.mark.slow
def test_a_bar_of_the_user_runs_beside_ours(tmp_path: Path) -> None:
    watch = Watch()
    with Person(80, 24, watch) as person:
        person.run(SCRIPT, "beside_a_bar_of_the_user", os.fspath(tmp_path))
        assert person.wait() == 0
        lines = [line for line in person.lines if line]
        assert watch.pictures > 1
        assert sorted(line.partition("%")[0] for line in lines) == ["100", "<the end>", "ours: 100"]


@pytest.mark.parametrize(
    "for_good",
    [
        pytest.param(False, id="for a while"),
        pytest.param(True, id="for good", marks=pytest.mark.slow),
    ],
)
def test_a_stderr_that_is_silenced_costs_neither_bar_nor_screen(
    for_good: bool, tmp_path: Path
) -> None:
    if for_good:
        (tmp_path / "for good").touch()
    with Person(80, 24, Watch()) as person:
        person.run(SCRIPT, "silence_stderr", os.fspath(tmp_path))
        assert person.wait() == 0
        last, end = [line for line in person.lines if line]
        assert last.startswith("on: 100%")
        assert f" {batches.JOBS}/{batches.JOBS} " in last
        assert end == "<the end>"
        assert_tidy(person)


def test_a_user_who_wants_no_bars_of_tqdm_has_none(tmp_path: Path) -> None:
    with Person(80, 24, TQDM_DISABLE="1") as person:
        person.run(SCRIPT, "fail_now_and_then", os.fspath(tmp_path))
        assert person.wait() == 0
        assert [line for line in person.lines if line] == ["<the end>"]


@pytest.mark.slow
def test_tqdm_is_told_what_to_draw_with(tmp_path: Path) -> None:
    with Person(80, 24, TQDM_ASCII=" #", TQDM_MININTERVAL="abc") as person:
        person.run(SCRIPT, "silence_stderr", os.fspath(tmp_path))
        assert person.wait() == 0
        *refused, last, _ = [line for line in person.lines if line]
        assert "".join(refused).count("tqdm refuses the value of TQDM_MININTERVAL (") == 1
        assert re.match(r"on: 100%\|#+\| ", last), last


def test_progress_false_draws_nothing_on_a_terminal(tmp_path: Path) -> None:
    with Person(80, 24) as person:
        person.run(SCRIPT, "nothing", os.fspath(tmp_path))
        assert person.wait() == 0
        assert [line for line in person.lines if line] == ["<the end>"]


def test_names_cannot_move_the_cursor(tmp_path: Path) -> None:
    with Person(80, 24) as person:
        person.run(SCRIPT, "odd_names", os.fspath(tmp_path))
        assert person.wait() == 0
        last, end = [line for line in person.lines if line]
        assert last.startswith("?[5m??name: 100%")
        assert end == "<the end>"


@pytest.mark.slow
def test_long_names_hold_up_no_bar(tmp_path: Path) -> None:
    (tmp_path / "quiet").touch()
    with Person(80, 24) as person:
        person.run(SCRIPT, "long_names", os.fspath(tmp_path))
        person.wait_for(lambda: any(row.startswith("  …語") for row in person.rows))
        (tmp_path / "go").touch()
        assert person.wait() == 0
        last, end = [line for line in person.lines if line]
        assert last.startswith("names: 100%")
        assert end == "<the end>"
        assert_tidy(person)


@pytest.mark.parametrize("term", ["dumb", pytest.param("", marks=pytest.mark.slow)])
def test_a_terminal_without_a_cursor_gets_whole_lines(term: str, tmp_path: Path) -> None:
    with Person(80, 24, TERM=term) as person:
        person.run(SCRIPT, "fail_now_and_then", os.fspath(tmp_path))
        assert person.wait() == 0
        assert [line for line in person.lines if LAST.fullmatch(line)]
        assert person.lines[-1] != "\x1b"


def test_nothing_is_written_where_there_is_no_terminal(tmp_path: Path) -> None:
    done = run_quietly(SCRIPT, "be_silent", os.fspath(tmp_path))
    assert done.returncode == 0
    assert done.stderr == b""
    assert done.stdout == b"False ['MainThread']\n"


def test_the_log_gets_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    done = run_quietly(SCRIPT, "log_often", os.fspath(tmp_path))
    assert done.returncode == 0
    line = re.compile(
        rf"INFO:collector:logged: \d of 4 jobs done, {SIZE}, {SIZE}/s, 0 spilled, 0 failed"
    )
    assert done.stderr
    assert [text for text in done.stderr.decode().splitlines() if not line.fullmatch(text)] == []


def test_progress_true_draws_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    done = run_quietly(SCRIPT, "everything", os.fspath(tmp_path))
    assert done.returncode == 0
    *lines, last = done.stderr.decode().splitlines()
    assert all(BATCH.fullmatch(line) for line in lines)
    assert LAST.fullmatch(last)
    assert "8/8" in last


def test_progress_true_has_one_bar_for_submit_and_map(tmp_path: Path) -> None:
    with Person(80, 24, Watch()) as person:
        person.run(SCRIPT, "everything", os.fspath(tmp_path))
        assert person.wait() == 0
        (last,) = [line for line in person.lines if line]
        assert "8/8" in last
        assert_tidy(person)


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_a_script_that_is_killed_leaves_the_whole_screen(number: int, tmp_path: Path) -> None:
    with Person(80, 24, Watch()) as person:
        person.run(SCRIPT, "hold_all", os.fspath(tmp_path))
        person.wait_for(lambda: sum("<held" in line for line in person.lines) == 3)
        person.wait_for(lambda: JOB.fullmatch(person.rows[-1]))
        os.kill(person.pid, number)
        assert person.wait() == -number
        assert len([line for line in person.lines if line]) == 3
        assert_tidy(person)


def documented() -> list[str]:
    """The programs of the page about progress."""
    text = (ROOT / "docs" / "how-to" / "progress.md").read_text()
    return list(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def test_the_documented_batch_has_a_bar(tmp_path: Path) -> None:
    script = tmp_path / "batch.py"
    script.write_text(documented()[0])
    watch = Watch()
    with Person(80, 24, watch) as person:
        person.run(script)
        assert person.wait() == 0
        *jobs, last = [line for line in person.lines if line]
        assert sorted(jobs) == sorted(f"convert-{number} 20000000" for number in range(1, 13))
        assert last.startswith("convert: 100%|")
        assert watch.pictures


def test_the_documented_callback_tells_the_end(tmp_path: Path) -> None:
    script = tmp_path / "callback.py"
    script.write_text(documented()[2])
    assert run_quietly(script).stdout == b"bytes-1 ended with 0 bytes in memory\n"


@pytest.mark.slow
def test_the_documented_rich_bars_are_drawn(tmp_path: Path) -> None:
    script, seen = tmp_path / "rich_bars.py", tmp_path / "seen"
    job = "def convert(number):\n"
    before, after = documented()[3].split(job)
    waits = f"    while not os.path.exists({os.fspath(seen)!r}): time.sleep(0.01)\n"
    script.write_text(f"import os, time\n{before}{job}{waits}{after}")
    with Person(80, 24) as person:
        person.run(script)
        person.wait_for(lambda: any(row.startswith("  convert-") for row in person.rows))
        seen.touch()
        assert person.wait() == 0
        (last,) = [line for line in person.lines if line]
        assert last.startswith("convert ━")
        assert last.endswith("12/12 24,000,000 bytes, 0 spilled, 0 failed")


@pytest.mark.parametrize(
    "closed",
    [
        "2>&-",
        pytest.param(">&- 2>&-", marks=pytest.mark.slow),
        pytest.param("<&- >&- 2>&-", marks=pytest.mark.slow),
    ],
)
def test_closed_descriptors_stop_no_job(closed: str, tmp_path: Path) -> None:
    script = f'exec "$0" "$1" everything "$2" {closed}'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, SCRIPT, tmp_path],
        env=environment(),
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("reader", ["gone", pytest.param("asleep", marks=pytest.mark.slow)])
def test_a_pipe_that_nobody_reads_stops_no_job(reader: str, tmp_path: Path) -> None:
    read, write = os.pipe()
    with open(read, "rb") as readable, open(write, "wb", buffering=0) as writable:
        if reader == "gone":
            readable.close()
        else:
            os.set_blocking(write, False)
            while writable.write(b"x" * 4096) is not None:
                pass
            os.set_blocking(write, True)
        done = subprocess.run(
            [sys.executable, SCRIPT, "everything", tmp_path],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=writable,
            timeout=PATIENCE_S,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, b"")
