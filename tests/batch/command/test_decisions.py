"""Amounts, halts, names of saved files, the log of jobs: what is decided without any process."""

import itertools
from pathlib import Path

import pytest

from collector.batch.command import amounts
from collector.batch.command.exit_status import Died, exit_status
from collector.batch.command.joblog import Entry, JobLog
from collector.batch.command.printing import tagged
from collector.batch.command.run_states import TABLE, Event, State
from collector.batch.command.saving import SaveName
from collector.batch.command.template import Finder, Inputs
from collector.executor.halting import Halt, Halting


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("4096", 4096), ("64K", 65536), ("64KiB", 65536), ("1k", 1000), ("1kB", 1000),
        ("5MiB", 5 * 2**20), ("5M", 5 * 2**20), ("1MB", 10**6), ("1.5G", 3 * 2**29),
        ("1TiB", 2**40), ("1g", 10**9), ("5m", 5 * 10**6), ("2t", 2 * 10**12),
    ],
)  # fmt: skip
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert amounts.size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "5Q", "1 2", "MiB", "1e3", "٣"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="5MiB"):
        amounts.size(text)


@pytest.mark.parametrize("text", ["9" * 400, "2000000T", "1048577TiB"])
def test_a_size_that_no_machine_has_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="more than 1048576 TiB"):
        amounts.size(text)


def test_times_and_shares() -> None:
    assert [amounts.duration_s(text) for text in ("10", "0.5", "90s", "5m", "2h", "1d")] == [
        10, 0.5, 90, 300, 7200, 86400,
    ]  # fmt: skip
    assert amounts.time_limit("200%").of(3) == 6
    assert amounts.time_limit("2m").of(3) == 120
    for wrong in ("0", "-1", "x", "0%", "1w", "9" * 400 + "%"):
        with pytest.raises(ValueError, match=r"time|percentage|than 0|too large"):
            amounts.time_limit(wrong)


def test_numbers_of_jobs() -> None:
    assert [amounts.jobs(text, 8) for text in ("3", "50%", "+2", "-6", "-20", "1%")] == [
        3, 4, 10, 2, 1, 1,
    ]  # fmt: skip
    for wrong in ("0", "", "x", "+", "1.5", "%", "9" * 400 + "%", "9" * 400):
        with pytest.raises(ValueError, match="write"):
            amounts.jobs(wrong, 8)


def ended(halt_text: str | None, codes: list[int], total: int | None = None) -> tuple[int, int]:
    """Return how many jobs have ended before it stops, and the exit status."""
    halt = Halt.parse(halt_text) if halt_text else None
    halting, last = Halting(halt), None
    halting.total = total
    for code in codes:
        if not halting.reason:
            last = None if not code else Died(code) if code > 0 else Died(None, -code)
            halting.ended(f"exit status {code}" if code else None)
    return halting.done, exit_status(halting, halt, last)


@pytest.mark.parametrize(("failed", "status"), [(0, 0), (3, 3), (100, 100), (101, 101), (130, 101)])
def test_the_exit_status_counts_failures_up_to_a_hundred(failed: int, status: int) -> None:
    assert ended(None, [1] * failed + [0])[1] == status


@pytest.mark.parametrize(
    ("halt", "codes", "total", "done", "status"),
    [
        ("now,fail=1", [0, 7, 0], 3, 2, 7),
        ("soon,fail=1", [0, 7, 0], None, 2, 7),
        ("now,fail=1", [-9, 0], None, 1, 137),
        ("soon,fail=2", [7, 5, 3], None, 2, 2),
        ("now,success=1", [7, 5, 0, 3], None, 3, 0),
        ("now,done=2", [7, 5, 0], None, 2, 2),
        ("soon,same=2", [7, 5, 7, 0, 7, 7, 1], None, 6, 5),
        ("soon,same=3", [7, 7, 5, 7, 7], None, 5, 5),  # never so many
        ("soon,fail=30%", [7, 5, 0, 3, 1], 10, 4, 30),
        ("now,fail=1%", [7, 0, 0, 0, 0], 5, 1, 20),
        ("soon,fail=30%", [7, 5, 3], None, 3, 3),  # of how many is not known
        ("soon,success=1", [7, 5, 3], 3, 3, 3),  # never reached
        ("soon,fail=90%", [7, 0, 3, 0, 5, 0, 1], 7, 7, 58),  # so, but a percentage all the same
        ("soon,success=50%", [7, 5, 3], 3, 3, 100),
        ("soon,success=50%", [7, 0, 0], 3, 3, 0),
        ("soon,fail=50%", [], 0, 0, 0),
    ],
)
def test_a_halt_comes_when_its_bound_is_reached(
    halt: str, codes: list[int], total: int | None, done: int, status: int
) -> None:
    assert ended(halt, codes, total) == (done, status)


@pytest.mark.parametrize("text", ["", "now", "fail=1", "now,fail=0", "later,fail=1", "now,fail=x"])
def test_what_is_no_halt_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"soon,fail=10%"):
        Halt.parse(text)


def test_every_move_of_a_run_is_in_its_table_but_one() -> None:
    missing = [(state, event) for state in State for event in Event if event not in TABLE[state]]
    assert missing == [(State.RUNNING, Event.GRACE_OVER), (State.DRAINING, Event.GRACE_OVER)]


@pytest.mark.parametrize(
    ("template", "value", "name"),
    [
        ("out/{/.}.txt", "a/b.c", "out/b.txt"),
        ("{}.txt", "a/b", "a/b.txt"),
        ("out/{}", "x/../y", "out/y"),
        ("l/../{}", "x/../y", "l/../y"),
        ("/tmp/o/{#}", "x", "/tmp/o/3"),
    ],
)
def test_outputs_are_saved_under_names_below_the_directory(
    template: str, value: str, name: str
) -> None:
    assert SaveName(template, Finder()).name(Inputs((value,), 3)) == name


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("out/{}", "../x"), ("out/{}", ".."), ("out/{}", "a/../../x"), ("{}", "/etc/x"),
        ("{}", "../x"), ("out/{}", "a\0b"), ("out/{}", ""), ("out/{}", "a/"), ("/tmp/o/{}", "../p"),
        ("out/{}x", "../"),
    ],
)  # fmt: skip
def test_no_input_leads_out_of_the_directory_of_a_template(template: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"leads out|names no file"):
        SaveName(template, Finder()).name(Inputs((value,), 1))


@pytest.mark.parametrize("template", ["", "out/", "out/{}/", "same.txt"])
def test_a_template_that_names_no_file_or_one_for_all_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="names"):
        SaveName(template, Finder())


def test_a_line_of_the_log_of_jobs_is_one_line_of_nine_columns(tmp_path: Path) -> None:
    log = JobLog(str(tmp_path / "log"))
    log.add(Entry(1, 1.5, 0.25, 10, 3, 0, "echo a\tb\nc\\"))
    log.close()
    head, line = (tmp_path / "log").read_text().splitlines()
    assert head.split("\t") == [
        "Seq", "Host", "Starttime", "JobRuntime", "Send", "Receive", "Exitval", "Signal", "Command",
    ]  # fmt: skip
    assert line.split("\t") == [
        "1", ":", "1.500", "     0.250", "0", "10", "3", "0", "echo a\\tb\\nc\\\\",
    ]  # fmt: skip


@pytest.mark.parametrize("cuts", [[], [1], [2], [3], [1, 2, 3, 4], [4], [6]])
def test_tags_stand_before_each_line_however_it_comes_in_pieces(cuts: list[int]) -> None:
    text = b"ab\n\nc\nd"
    ends = [0, *cuts, len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(ends)]
    assert b"".join(tagged(pieces, b"t\t")) == b"t\tab\nt\t\nt\tc\nt\td"
