"""Make the pictures of what `collector run` shows on a terminal, from a real run.

    python docs/how-to/pictures/screen.py [DIRECTORY]

A terminal emulator keeps the cells of the screen; Debian's chromium paints them. What fails in the
batch does so by design.
"""

import html
import os
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

from make import shoot  # noqa: E402 - the other script of this directory

from tests.support.browser import Page, browser  # noqa: E402 - a script finds the package of its tree
from tests.support.person import Person  # noqa: E402

COLUMNS, ROWS = 110, 18
CLIPS = 160
COMMAND = "collector run -j6 --attempts 2 --slow 4 -o web.batch --save 'web/{/.}.webm' ./encode"

ENCODE = """\
#!/bin/sh
# As an encoder does: some clips are damaged, one takes long, one kills it now and then.
n=$(printf %s "$1" | cksum | cut -d' ' -f1)
steps=$((n % 6 + 2))
case $1 in
*02-17.mp4 | *04-08.mp4) steps=90 ;;
*01-09.mp4 | *03-02.mp4) ends='echo "$1: moov atom not found" >&2; exit 1' ;;
*01-14.mp4 | *02-20.mp4 | *03-25.mp4) [ $COLLECTOR_ATTEMPT != 1 ] || ends='kill -SEGV $$' ;;
esac
i=0
while [ $i -lt $steps ]; do
    head -c $((n % 90000 + 20000)) /dev/zero
    sleep 0.12
    i=$((i + 1))
    [ $i != 2 ] || eval "$ends"
done
"""
TYPED = """\
import shlex, sys
from collector.cli.program import main
print("$", sys.argv[1], "::: clips/*.mp4", flush=True)
sys.exit(main([*shlex.split(sys.argv[1])[1:], ":::", *sys.argv[2:]]))
"""

COLOURS = {
    "default": "#d8dee4",
    "black": "#24292f",
    "red": "#ff7b72",
    "green": "#56d364",
    "brown": "#e3b341",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#76e3ea",
    "white": "#f0f6fc",
}
PAGE = """\
<!doctype html><meta charset="utf-8"><title>screen</title>
<style>
html {{ background: #1b1f24 }}
body {{ margin: 0; padding: 18px 20px; background: #1b1f24; color: {default} }}
pre {{ margin: 0; font: 14px/19px "DejaVu Sans Mono", monospace }}
</style><pre>{rows}</pre>
"""


def page_of(person: Person) -> str:
    """Return the cells of a screen as a page."""
    rows = []
    for y in range(person.screen.lines):
        cells = [person.screen.buffer[y][x] for x in range(person.screen.columns)]
        rows.append("".join(_run(look, run) for look, run in groupby(cells, _look)).rstrip())
    while not rows[-1]:
        rows.pop()
    return PAGE.format(default=COLOURS["default"], rows="\n".join(rows))


def _look(cell: Any) -> tuple[str, bool]:
    return COLOURS.get(cell.fg, f"#{cell.fg}"), cell.bold


def _run(look: tuple[str, bool], cells: Any) -> str:
    text = html.escape("".join(cell.data for cell in cells))
    colour, bold = look
    if (colour, bold) == (COLOURS["default"], False):
        return text
    return f'<span style="color:{colour};font-weight:{700 if bold else 400}">{text}</span>'


def picture(browsing: Page, person: Person, directory: Path, target: Path) -> None:
    """Save what is on the screen."""
    page = directory / "screen.html"
    page.write_text(page_of(person), "utf-8")
    browsing.look(width=970, height=100)
    browsing.open(page.as_uri())
    height = browsing.evaluate("document.body.getBoundingClientRect().height")
    shoot(browsing, target, dark=True, width=970, height=round(height))


def is_telling(person: Person) -> bool:
    """Whether there is something of each kind to be seen."""
    text = "\n".join(person.rows)
    running = sum(row.startswith("  ./encode") for row in person.rows)
    return running > 4 and all(
        word in text for word in ("TRY 1 FAIL", "FLAKY 2", "  FAIL [", "SLOW")
    )


def make(target: Path) -> None:
    """Run the batch on a terminal, and take a picture of its middle and one of its end."""
    with tempfile.TemporaryDirectory() as name, browser() as running:
        directory, browsing = Path(name), running.page()
        (directory / "clips").mkdir()
        clips = [f"clips/2026-{1 + n // 28:02}-{1 + n % 28:02}.mp4" for n in range(CLIPS)]
        for clip in clips:
            (directory / clip).touch()
        (directory / "encode").write_text(ENCODE)
        (directory / "encode").chmod(0o755)
        (directory / "typed.py").write_text(TYPED)
        before = Path.cwd()
        os.chdir(directory)
        try:
            with Person(COLUMNS, ROWS) as person:
                person.run(directory / "typed.py", COMMAND, *clips)
                person.wait_for(lambda: is_telling(person))
                picture(browsing, person, directory, target / "screen.webp")
                person.wait()
                picture(browsing, person, directory, target / "screen-end.webp")
        finally:
            os.chdir(before)
        assert browsing.complaints == []


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
