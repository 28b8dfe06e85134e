"""Keep what a run found, and make the documentation of it.

Files: `bench/results/rows.json` (as `--json`), `machine.json`, `memory-over-time.json`; pictures in
`docs/benchmarks/`, the page `docs/benchmarks.md`; the README's table is printed.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bench.cases.memory import SAVED_BYTES, SAVED_COUNT
from bench.host import MissingError, environment
from bench.memory import over_time
from bench.peers import NAMES
from bench.plots import draw_all
from bench.table import HEADINGS, markdown

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "bench" / "results"
PICTURES: Final = ROOT / "docs" / "benchmarks"
PAGE: Final = ROOT / "docs" / "benchmarks.md"
FIGURES: Final = HEADINGS.index("ratio")
"""The README has the figures; ratios and goals are on the page."""

POINTS: Final = 200
"""Most points that a recorded line has."""

HEADLINE: Final = {
    "chunks-fresh-1 / direct": "chunks of 64 KiB, one worker; limit: it writes its own file",
    "chunks-fresh-4 / direct": "the same, four workers on two cores",
    "small-chunks / Queue": "chunks of 100 bytes; limit: `io.BytesIO` in one process",
    "big-outputs / ProcessPoolExecutor": "outputs of 64 MiB, against pools that return them",
    "tiny-jobs-2 / ProcessPoolExecutor": "jobs that do nothing, two workers",
    "latency-2 / ProcessPoolExecutor": "one such job, from submit to result, two workers",
    "start-up-own / pebble": "fresh interpreter to first result, two workers",
    "memory-saved-outputs": "60 outputs of 20 MB, saved as they come: most memory of all processes",
    "reclaiming / rm -rf": "reclaiming what dead runs left; limit: `rm -rf`",
}
"""The rows of the README, and what they are called there."""


def keep(rows: list[dict[str, Any]], facts: Mapping[str, str], directory: str) -> None:
    """Write results, the pictures and the page; cases that were not run now keep their rows."""
    kept = {row["case"]: row for row in _read("rows", [])}
    _write("rows", list((kept | {row["case"]: row for row in rows}).values()))
    _write("machine", facts)
    if any(row["case"].startswith("memory-saved") for row in rows):
        os.environ.update(environment(directory))
        _write("memory-over-time", _memory())
    document()


def document() -> None:
    """Make the pictures and the page of what is kept."""
    rows, facts = _read("rows", []), _read("machine", {})
    pictures = draw_all(rows, _read("memory-over-time", {}), os.fspath(PICTURES))
    PAGE.write_text(_page(rows, facts, pictures), encoding="utf-8")


def readme() -> str:
    """Return the README's table, and the machine that it was made on."""
    rows = {row["case"]: row for row in _read("rows", [])}
    chosen = [rows[case] | {"case": words} for case, words in HEADLINE.items() if case in rows]
    return f"{markdown(chosen, FIGURES)}\n{_on(_read('machine', {}))}\n"


def _on(facts: Mapping[str, str]) -> str:
    known = ", ".join(facts[key] for key in ("processor", "memory", "system", "file system"))
    return (
        f"Medians on {known}, {facts['python']}; the contenders of a row took turns. Rows are of "
        "several days, on some of which this shared machine was half as fast: compare within a row."
    )


def _page(rows: list[dict[str, Any]], facts: Mapping[str, str], pictures: list[str]) -> str:
    images = "\n\n".join(
        f"![{name[:-4].replace('-', ' ')}](benchmarks/{name})" for name in pictures
    )
    missed = [row["case"] for row in rows if row["met"] is False]
    return f"""# Benchmarks

Made by `python -m bench --record`; do not edit. {_on(facts)}

Every contender runs in a process of its own and takes its turn in each repetition; figures are
medians. `limit` is what nothing that collects can beat: workers that write their own files with
`os.write`, `io.BytesIO` in one process, `rm -rf`, or, for memory, the bound itself. `ratio` is
collector's figure to the one that the row names; rates and throughputs are to be at least the goal,
times and bytes at most. How it is measured, and what to mistrust, is in
`bench/README.md`.

{markdown(rows)}
{f"Not met: {', '.join(missed)}." if missed else "Every goal is met."}

{images}
"""


def _memory() -> dict[str, dict[str, list[float]]]:
    found = {}
    for peer in NAMES:
        try:
            seconds, held = over_time(peer, SAVED_BYTES, SAVED_COUNT)
        except MissingError:
            continue
        step = -(-len(seconds) // POINTS)
        # the most of each stretch, so that no peak is lost
        stretches = range(0, len(seconds), step)
        found[peer] = {
            "seconds": [round(seconds[at], 3) for at in stretches],
            "bytes": [max(held[at : at + step]) for at in stretches],
        }
    return found


def _read(name: str, without: Any) -> Any:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else without


def _write(name: str, found: object) -> None:
    RESULTS.mkdir(exist_ok=True)
    indent = None if name == "memory-over-time" else 1
    text = json.dumps(found, indent=indent)
    (RESULTS / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
