"""The pictures of `docs/benchmarks.md`, made of recorded rows."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.case import OURS

OURS_COLOR: Final = "#c2410c"
OTHERS: Final = (
    "#64748b",
    "#0f766e",
    "#7c3aed",
    "#0369a1",
    "#a16207",
    "#be185d",
    "#4d7c0f",
    "#111",
)
SIZE: Final = (6.4, 3.2)
WIDE: Final = (8.4, 3.2)
_KIB: Final = 1024

Rows = Sequence[Mapping[str, Any]]
Series = Mapping[str, Mapping[str, Sequence[float]]]


def draw_all(rows: Rows, memory: Series, directory: str) -> list[str]:
    """Draw every picture there are rows for; return the names of the files."""
    os.makedirs(directory, exist_ok=True)
    made = [
        _chunk_sizes(rows, os.path.join(directory, "throughput-by-chunk-size.png")),
        _bars(rows, "tiny-jobs-2", "jobs a second", os.path.join(directory, "tiny-jobs.png")),
        _bars(
            rows, "start-up-own", "ms to the first result", os.path.join(directory, "start-up.png")
        ),
        _memory(memory, os.path.join(directory, "memory-over-time.png")),
    ]
    return [os.path.basename(name) for name in made if name]


def _figures(row: Mapping[str, Any], limit: str = "") -> dict[str, float]:
    found = {OURS: row["ours"], **row["peers"]}
    if limit:
        found[limit] = row["limit"]
    return {name: value for name, value in found.items() if value is not None}


def _save(figure: Any, name: str) -> str:
    figure.tight_layout()
    figure.savefig(name, dpi=110, metadata={"Software": None})
    return name


def _axes(size: tuple[float, float] = SIZE) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _colors(names: Sequence[str]) -> dict[str, str]:
    others = [name for name in names if name != OURS]
    return {OURS: OURS_COLOR, **dict(zip(others, OTHERS, strict=False))}


def _chunk_sizes(rows: Rows, name: str) -> str:
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row["case"].startswith("chunk-size-"):
            size = int(row["case"].rpartition("-")[2])
            for who, value in _figures(row, "direct").items():
                lines.setdefault(who, []).append((size, value))
    if not lines:
        return ""
    axes = _axes()
    colors = _colors(list(lines))
    for who, points in lines.items():
        sizes, values = zip(*sorted(points), strict=True)
        axes.plot(sizes, values, "o-", ms=3, color=colors[who], lw=2.4 if who == OURS else 1.4)
        axes.annotate(f" {who}", (sizes[-1], values[-1]), color=colors[who], va="center")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({size for points in lines.values() for size, _ in points})
    axes.set_xticks(ticks, [_size(size) for size in ticks])
    axes.set_xlabel("size of a chunk; one worker, fresh files")
    axes.set_ylabel("GB/s")
    axes.set_yticks((0.2, 0.5, 1, 2, 5, 10), ("0.2", "0.5", "1", "2", "5", "10"))
    axes.minorticks_off()
    axes.margins(x=0.14)
    return _save(axes.figure, name)


def _size(size: int) -> str:
    return f"{size // _KIB} KiB" if size < _KIB * _KIB else f"{size // _KIB // _KIB} MiB"


def _bars(rows: Rows, case: str, label: str, name: str) -> str:
    found = [row for row in rows if row["case"].split(" ")[0] == case]
    if not found:
        return ""
    figures = _figures(found[0])
    names = sorted(figures, key=lambda who: figures[who])
    axes = _axes()
    bars = axes.barh(
        names,
        [figures[who] for who in names],
        color=[OURS_COLOR if who == OURS else OTHERS[0] for who in names],
    )
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.set_xlabel(f"{label}, two workers")
    axes.margins(x=0.12)
    return _save(axes.figure, name)


def _memory(memory: Series, name: str) -> str:
    if not memory:
        return ""
    axes = _axes(WIDE)
    colors = _colors(list(memory))
    for who, series in sorted(memory.items(), key=lambda item: -max(item[1]["bytes"])):
        held = [value / _KIB / _KIB for value in series["bytes"]]
        width, label = (2.4 if who == OURS else 1.4), f"{who}, at most {max(held):,.0f}"
        axes.plot(series["seconds"], held, color=colors[who], lw=width, label=label)
    axes.set_xlabel("seconds; 60 outputs of 20 MB, saved as they come, two workers")
    axes.set_ylabel("MiB, all processes (PSS)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return _save(axes.figure, name)
