"""What a person sees and may do while a command runs a batch, on a terminal."""

import os
import re
import signal
import termios
from pathlib import Path

import pytest

from tests.support import shows
from tests.support.person import Person

SCRIPT = Path(shows.__file__)
SIZES = ["1000", "1.95K", "2.93K", "3.91K", "4.88K", "5.86K", "6.84K", "7.81K"]
COOKED = termios.ICANON | termios.ECHO
RIGHT = re.compile(r" +(FAIL|TRY 1 FAIL|FLAKY 2/3|SLOW|RUNNING) \[[ >]*[\d.]+s\] +\S+B  (\S.*)")


def started(person: Person, scenario: str, directory: Path) -> None:
    """Start a scenario; its rows are seen."""
    person.run(SCRIPT, scenario, os.fspath(directory))
    person.wait_for(lambda: "<shown>" in person.lines and person.screen.margins)


def is_cooked(person: Person) -> bool:
    """Whether the terminal shows what is typed, and gives it line by line."""
    mode: int = person.mode[3]
    return mode & COOKED == COOKED


def assert_tidy(person: Person) -> None:
    """The terminal is as it was."""
    assert person.screen.margins is None
    assert not any(person.rows[person.screen.cursor.y :])
    assert is_cooked(person)


def test_the_rows_tell_of_the_batch_and_of_the_jobs_that_have_run_for_longest(
    tmp_path: Path,
) -> None:
    with Person(80, 24) as person:
        started(person, "rows", tmp_path)
        person.wait_for(lambda: sum("SLOW" in row for row in person.rows[-8:]) == 8)
        batch, waiting, *jobs = person.rows[-10:]
        assert re.fullmatch(
            r" +0%\|.*\| 0/12 \[00:0\d<\?, 0 jobs/s, 64\.5KB, .*, 0 failed\]", batch
        )
        assert waiting == "  waiting: 27 s for gate api: too many requests"
        for number, row in enumerate(jobs, 1):
            assert (
                re.fullmatch(rf"  job-{number}: \S+KB \[00:0\d, \S+B/s\] SLOW", row) or number == 1
            )
        (tmp_path / "go").touch()
        assert person.wait() == 0
        assert_tidy(person)


def test_lines_tell_what_happened_and_the_end_what_is_missing(tmp_path: Path) -> None:
    with Person(100, 50, SHOW="retry", FINAL="retry") as person:
        started(person, "rows", tmp_path)
        (tmp_path / "go").touch()
        assert person.wait() == 0
        lines = [line for line in person.lines if line]
        assert lines[1:5] == [
            "        FAIL [   1.500s]     0B  job-1: exit status 3",
            "  TRY 1 FAIL [   0.000s]     0B  job-2: killed by SIGKILL",
            "   FLAKY 2/3 [   0.000s] 1.95KB  job-2",
            " INTERRUPTED [   0.000s]     0B  job-12: Ctrl-C",
        ]
        assert lines[5] == "<said\\x1b[2J>"
        assert re.fullmatch(
            r" +Summary \[ +\d+\.\d+s\] 10\.7KB  12 jobs: 10 passed \(1 flaky\), 1 failed, "
            r"1 interrupted",
            lines[6],
        )
        assert lines[7:] == [
            "        FAIL [   1.500s]     0B  job-1: exit status 3",
            "    ::error::two",
            "            three",
            "    four",
            "    f\\xffve",
            "    six",
            "   FLAKY 2/3 [   0.000s] 1.95KB  job-2",
            "To run what is missing: collector run --retry batch",
            "<the end>",
        ]
        assert_tidy(person)


def test_twenty_columns_have_room_for_what_matters_most(tmp_path: Path) -> None:
    with Person(20, 12) as person:
        started(person, "rows", tmp_path)
        person.wait_for(lambda: sum("SLOW" in row for row in person.rows[-8:]) == 8)
        assert person.rows[-10:] == [
            "|      | 0/12 64.5KB",
            "  waiting: 27 s for…",
            *(f"  job-{n}: {size}B SLOW" for n, size in enumerate(SIZES, 1)),
        ]
        (tmp_path / "go").touch()
        assert person.wait() == 0
        assert "FAIL job-1: exit st…" in person.lines
        whole = "".join(line.ljust(20) for line in person.lines)
        assert "To run what is missing: collector run --retry batch" in whole, "it is never cut"
        assert_tidy(person)


@pytest.mark.slow
def test_a_resize_and_a_program_that_takes_the_screen_do_no_lasting_harm(tmp_path: Path) -> None:
    with Person(80, 24) as person:
        started(person, "held", tmp_path)
        person.resize(40, 10)
        person.wait_for(
            lambda: person.rows[-1].startswith("  job-1") and len(person.rows[-1]) <= 40
        )
        person.screen.reset()
        person.screen.cursor_position(10, 1)
        person.wait_for(lambda: person.screen.margins and person.rows[-1].startswith("  job-1"))
        (tmp_path / "go").touch()
        assert person.wait() == 0
        assert_tidy(person)


def test_keys_and_a_signal_ask_for_the_running_jobs(tmp_path: Path) -> None:
    def running() -> int:
        return sum("RUNNING" in line for line in person.lines)

    with Person(80, 24) as person:
        started(person, "held", tmp_path)
        assert not is_cooked(person)
        person.press(b"t")
        person.wait_for(lambda: running() == 1)
        person.wait_for(lambda: "    second of 1 \\x1b[2J" in person.lines)
        os.kill(person.pid, signal.SIGUSR1)
        person.wait_for(lambda: running() == 2)
        person.press(b"x?")
        person.wait_for(lambda: any(line.startswith("keys: t  ") for line in person.lines))
        (tmp_path / "go").touch()
        assert person.wait() == 0
        assert not any("x?" in line for line in person.lines), "what is typed is not shown"
        assert_tidy(person)


@pytest.mark.slow
def test_a_forked_child_that_gets_the_signal_asks_for_nothing(tmp_path: Path) -> None:
    with Person(80, 24) as person:
        started(person, "forked", tmp_path)
        person.press(b"?")
        person.wait_for(lambda: any(line.startswith("keys: t  ") for line in person.lines))
        (tmp_path / "go").touch()
        assert person.wait() == 0
        assert not any("RUNNING" in line for line in person.lines)
        assert_tidy(person)


@pytest.mark.parametrize(
    ("way", "code"), [("raise", 1), pytest.param("exit", 3, marks=pytest.mark.slow)]
)
def test_the_terminal_is_given_back_at_every_exit(way: str, code: int, tmp_path: Path) -> None:
    with Person(80, 24, WAY=way) as person:
        started(person, "held", tmp_path)
        assert not is_cooked(person)
        (tmp_path / "go").touch()
        assert person.wait() == code
        assert any("Summary" in line for line in person.lines)
        assert_tidy(person)


@pytest.mark.slow
def test_the_terminal_is_given_back_while_the_program_goes_on(tmp_path: Path) -> None:
    with Person(80, 24, WAY="stay") as person:
        started(person, "held", tmp_path)
        (tmp_path / "go").touch()
        person.wait_for(lambda: "<left True>" in person.lines)
        assert_tidy(person)
        (tmp_path / "leave").touch()
        assert person.wait() == 0


@pytest.mark.slow
def test_the_interpreter_gives_the_terminal_back_if_nobody_else_does(tmp_path: Path) -> None:
    with Person(80, 24) as person:
        started(person, "never_left", tmp_path)
        assert not is_cooked(person)
        (tmp_path / "go").touch()
        assert person.wait() == 0
        assert_tidy(person)


def test_a_ctrl_c_gives_the_terminal_back(tmp_path: Path) -> None:
    with Person(80, 24) as person:
        started(person, "held", tmp_path)
        person.press(b"\x03")
        assert person.wait() == -signal.SIGINT
        assert [line for line in person.lines if line][-1] == "KeyboardInterrupt"
        assert_tidy(person)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_command_that_is_killed_gives_the_terminal_back_by_its_sink(
    number: int, tmp_path: Path
) -> None:
    with Person(80, 24) as person:
        person.run(SCRIPT, "with_collector", os.fspath(tmp_path))
        person.wait_for(lambda: "1000B" in person.rows[-1])
        assert not is_cooked(person)
        os.kill(person.pid, number)
        assert person.wait() == -number
        assert_tidy(person)


def test_a_collector_tells_of_starts_and_bytes(tmp_path: Path) -> None:
    with Person(80, 24) as person:
        person.run(SCRIPT, "with_collector", os.fspath(tmp_path))
        person.wait_for(lambda: sum(row.startswith("  hold-") for row in person.rows) == 2)
        person.wait_for(lambda: all("1000B" in row for row in person.rows[-2:]))
        (tmp_path / "go").touch()
        assert person.wait() == 0
        summary, _ = [line for line in person.lines if line]
        assert summary.endswith("4 jobs: 4 passed")
        assert_tidy(person)


@pytest.mark.slow
def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it_again(tmp_path: Path) -> None:
    with Person(80, 24) as person:
        person.run(SCRIPT, "as_a_shell", os.fspath(tmp_path))
        person.wait_for(lambda: "<shown>" in person.lines and person.screen.margins)
        person.wait_for(lambda: not is_cooked(person))
        person.press(b"\x1a")
        person.wait_for(lambda: any("<stopped" in line for line in person.lines))
        assert "<stopped True>" in "".join(person.lines)
        assert person.screen.margins is None
        (tmp_path / "fg").touch()
        person.wait_for(lambda: person.screen.margins)
        person.wait_for(lambda: not is_cooked(person))
        (tmp_path / "go").touch()
        assert person.wait() == 0
        assert "<ended True 0>" in person.lines
        assert_tidy(person)


@pytest.mark.slow
def test_in_the_background_the_terminal_is_left_alone(tmp_path: Path) -> None:
    with Person(80, 24) as person:
        person.run(SCRIPT, "as_a_shell_with_a_background", os.fspath(tmp_path))
        person.wait_for(lambda: "<shown>" in person.lines)
        person.press(b"t\n")
        person.wait_for(lambda: "<read t>" in person.lines)
        assert is_cooked(person)
        (tmp_path / "go").touch()
        assert person.wait() == 0
        assert_tidy(person)


@pytest.mark.slow
def test_a_terminal_that_is_closed_stops_no_batch(tmp_path: Path) -> None:
    with Person(80, 24, EVENTS=os.fspath(tmp_path / "events")) as person:
        started(person, "held", tmp_path)
        person.hang_up()
        (tmp_path / "go").touch()
        assert person.code() in (0, -signal.SIGHUP)
