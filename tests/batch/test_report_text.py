"""Text of jobs in reports: made visible, cut, without what steers a terminal."""

import re
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.batch.report.sums import Spread
from collector.batch.report.text import (
    clipped,
    one_line,
    plain,
    seconds_text,
    size_text,
    tail_of,
    visible,
)

XML_CHARS = re.compile("[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


@given(st.text(st.characters(exclude_categories=())))
def test_what_comes_out_is_valid_in_xml_and_utf_8(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert XML_CHARS.fullmatch(shown)
    assert not {
        unicodedata.category(char) for char in shown.replace("\n", "").replace("\t", "")
    } & {
        "Cc",
        "Cs",
    }
    assert visible(shown) == shown
    assert "\n" not in one_line(text)


def test_what_is_replaced_can_be_seen() -> None:
    assert visible("a\x00\x1b\x7f\x85\udcffb\ud800") == r"a\x00\x1b\x7f\x85\xffb" + "\ufffd"
    assert one_line("a\nb\tc") == r"a\nb\tc"
    assert one_line("\u202egnp.exe") == r"\u202egnp.exe"
    assert visible("naïve \U0001f600 \u202e") == "naïve \U0001f600 \u202e"


def test_a_long_text_is_cut_and_says_so() -> None:
    assert clipped("x" * 1000) == "x" * 1000
    assert clipped("x" * 1001) == "x" * 1000 + "\u2026 (1001 characters)"


@pytest.mark.parametrize(
    ("log", "tail"),
    [
        (b"", ""),
        (b"\n\n", ""),
        (b"one\ntwo\n", "one\ntwo"),
        (b"10%\r50%\r100%\r\ndone\r\n", "100%\ndone"),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07\x1b(Bplain", "red plain"),
        (b"\xff\xfe bytes", r"\xff\xfe bytes"),
        (b"".join(b"%d\n" % n for n in range(100)), "\n".join(map(str, range(80, 100)))),
        (b"x" * 100_000, "x" * 8192),
    ],
)
def test_the_tail_of_a_log_is_what_a_terminal_would_show(log: bytes, tail: str) -> None:
    assert tail_of(log) == tail


def test_a_traceback_loses_its_colours() -> None:
    assert plain("\x1b[35mValueError\x1b[0m: x\r\n") == "ValueError: x\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.00123, "1.23 ms"),
        (0.25, "250 ms"),
        (1, "1 s"),
        (59.94, "59.9 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (86399.9, "1 d"),
        (90061, "1 d 1 h"),
    ],
)
def test_times_are_said_in_their_largest_units(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (1023.9 * 1024, "1 MiB"), (2**62, "4096 PiB")],
)
def test_sizes_are_said_in_three_digits(size: float, text: str) -> None:
    assert size_text(size) == text


@given(st.lists(st.floats(0, 1e18) | st.just(0.0)))
def test_a_histogram_counts_each_value_once_without_a_gap(values: list[float]) -> None:
    spread = Spread()
    for value in values:
        spread.add(value, failed=value > 1)
    bars = spread.bars()
    assert sum(bar.jobs for bar in bars) == len(values)
    assert sum(bar.failed for bar in bars) == sum(value > 1 for value in values)
    assert len(bars) <= 25
    wide = [bar for bar in bars if bar.high]
    assert all(a.high == b.low for a, b in pairwise(wide))
