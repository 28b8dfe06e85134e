"""Transforms of a text line by line: each takes an iterator of lines without ends, gives another.

Invariants: I1  none holds more than one line.
"""

import re
from collections.abc import Iterable, Iterator

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^\n]*)")
_LINE_END = re.compile("\r\n|[\r\u0085\u2028\u2029]")


def strip_code_fences(lines: Iterable[str]) -> Iterator[str]:
    """Drop the fences around code blocks, keep what is in them.

    A model likes to put its whole answer between ```` ```markdown ```` and ```` ``` ````. A fence
    inside a longer fence is text, and stays.

    Source:
        CommonMark 0.31, fenced code blocks: the closing fence is at least as long, of the same
        character, and has no info string.
    """
    fence = ""  # the one that is open
    for line in lines:
        found = _FENCE.fullmatch(line)
        if found is None:
            yield line
        elif not fence and not (found[1].startswith("`") and "`" in found[2]):
            fence = found[1]
        elif fence and found[1].startswith(fence) and not found[2].strip():
            fence = ""
        else:
            yield line


def normalise_line_ends(lines: Iterable[str]) -> Iterator[str]:
    r"""Make lines of what old and foreign systems end with `\r`, U+0085, U+2028 or U+2029."""
    for line in lines:
        yield from _LINE_END.split(line.removesuffix("\r"))


def collapse_blank_runs(lines: Iterable[str]) -> Iterator[str]:
    """Make one empty line of each run of blank lines; drop those at the start and at the end."""
    blank = started = False
    for line in lines:
        if not line.strip():
            blank = started
            continue
        if blank:
            yield ""
        yield line
        blank, started = False, True
