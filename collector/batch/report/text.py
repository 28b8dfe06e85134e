r"""Text of jobs, made fit for a report: a job may be named anything, and print anything.

Runs in:    any process; pure.
Invariants: I1  what comes out is valid in UTF-8, HTML, XML 1.0 and JSON: no control characters but
                tab and newline, no surrogates, no non-characters.
            I2  what was replaced can be seen: a control character and a byte that is no UTF-8 are
                `\x1b` and `\xff`, what is no character at all is U+FFFD.
Source:     XML 1.0, 2.2 (Char); ECMA-48 for what steers a terminal.
"""

import re
from typing import Final

TEXT_CHARS: Final = 1000
"""So much of a name, an input or an error is in the page; the other reports have all of it."""

TAIL_BYTES: Final = 8 * 1024
TAIL_LINES: Final = 20

_FORBIDDEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
_TURNING: Final = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Of a name they make another one: "exe.png" of what ends in "gnp.exe"."""

_STEERING: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])"
)
_TIMES: Final = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))
_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")


def visible(text: str) -> str:
    """Return a text without what a file of a report cannot hold; that is made visible."""
    if text.isascii() and text.isprintable():
        return text
    return _FORBIDDEN.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - a byte, by surrogateescape
        code -= 0xDC00
    return f"\\x{code:02x}" if code <= 0xFF else "\ufffd"  # noqa: PLR2004 - a byte or a control


def in_order(text: str) -> str:
    """Return a visible text in which what turns the order of characters round is shown."""
    return _TURNING.sub(_escape, visible(text))


def one_line(text: str) -> str:
    """Return such a text in one line: what ends one is shown."""
    if text.isascii() and text.isprintable():
        return text
    return in_order(text).replace("\n", r"\n").replace("\t", r"\t")


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def clipped(text: str, limit: int = TEXT_CHARS) -> str:
    """Return a text, or the beginning of one that is longer, saying so."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\u2026 ({len(text)} characters)"


def tail_of(log: bytes) -> str:
    """Return the last lines of a log as a terminal would have left them.

    Args:
        log: Its last bytes: at most `TAIL_BYTES` of them are looked at.
    """
    data = log[-TAIL_BYTES:]
    text = _STEERING.sub("", data.decode("utf-8", "surrogateescape"))
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip().split("\n")]
    return visible("\n".join(lines[-TAIL_LINES:]))


def plain(text: str) -> str:
    """Return a visible text without what steers a terminal."""
    return visible(_STEERING.sub("", text).replace("\r\n", "\n"))


def seconds_text(seconds: float) -> str:
    """Say a time in its largest units."""
    if seconds < 1:
        return f"{_three_digits(seconds * 1000)} ms"
    if seconds < 60:  # noqa: PLR2004
        return f"{_three_digits(seconds)} s"
    whole = round(seconds)
    for large, unit, small, part in _TIMES:
        if whole >= unit:
            rest = whole % unit // part
            return f"{whole // unit} {large} {rest} {small}" if rest else f"{whole // unit} {large}"
    raise AssertionError(seconds)


def size_text(size: float) -> str:
    """Say a number of bytes with its unit."""
    if size < 1000:  # noqa: PLR2004
        return f"{size:.0f} B"
    unit = ""
    for unit in _UNITS:  # noqa: B007 - the last one may be too small
        size /= 1024
        if size < 999.5:  # noqa: PLR2004
            break
    return f"{_three_digits(size)} {unit}"


def _three_digits(number: float) -> str:
    if number < 9.995:  # noqa: PLR2004
        return f"{number:.2f}".rstrip("0").rstrip(".")
    return f"{number:.1f}".rstrip("0").rstrip(".") if number < 99.95 else f"{number:.0f}"  # noqa: PLR2004
