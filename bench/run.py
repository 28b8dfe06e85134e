"""Run the cases, contenders taking turns, and say what came of it.

One table: a row for each goal of each case. Figures are medians; in each repetition every contender
has one turn, the order rotates, and the first repetition does not count.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from statistics import median
from time import monotonic
from typing import Any, Final

from bench import machine, record
from bench.case import OURS, Case, Goal, Scale
from bench.cases import all_cases
from bench.host import Host, MissingError
from bench.table import print_table

REPETITIONS: Final = 7
QUICK_REPETITIONS: Final = 5

Figures = dict[str, dict[str, list[float]]]
"""By contender, then by part, one a repetition."""


def main(arguments: list[str] | None = None) -> int:
    """Run `python -m bench`."""
    told = _parser().parse_args(arguments)
    if told.readme:
        print(record.readme(), end="")
        return 0
    scale = Scale(told.quick, QUICK_REPETITIONS if told.quick else REPETITIONS)
    cases = [c for c in all_cases(scale) if not told.case or _wanted(c.name, told.case)]
    if told.once:
        cases = [replace(case, repetitions=1) for case in cases]
    if told.list:
        print(*(case.name for case in cases), sep="\n")
        return 0
    if not cases:
        print(f"no such case: {', '.join(told.case)}; --list names them", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = []
    facts = machine.facts(told.dir or tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix="bench-", dir=told.dir) as directory:
        for case in cases:
            print(f"{case.name} ...", end="", file=sys.stderr, flush=True)
            start = monotonic()
            rows.extend(rows_of(case, measure(case, scale, directory)))
            print(f" {monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        if told.record:
            record.keep(rows, facts, directory)
    print_table(rows)
    if told.json:
        with open(told.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
            file.write("\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the rows to a file as well")
    parser.add_argument(
        "--case", metavar="NAME", action="append", default=[], help="only this one; repeatable"
    )
    parser.add_argument("--quick", action="store_true", help="two minutes for all")
    parser.add_argument("--once", action="store_true", help="one repetition, to see that it runs")
    parser.add_argument(
        "--record", action="store_true", help="keep the results and make docs/benchmarks.md of them"
    )
    parser.add_argument(
        "--readme", action="store_true", help="print the README's table of the kept results"
    )
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--dir", help="a directory on the disk to be measured; else the temp one")
    return parser


def _wanted(name: str, patterns: Iterable[str]) -> bool:
    return any(name == pattern or name.startswith(f"{pattern}-") for pattern in patterns)


def measure(case: Case, scale: Scale, directory: str) -> Figures:
    """Let the contenders of a case take turns."""
    figures: Figures = {name: {} for name in case.contenders}
    hosts: dict[str, Host] = {}
    try:
        for name, contender in case.contenders.items():
            hosts[name] = Host(contender, directory)
        for turn in range(case.warm_up + (case.repetitions or scale.repetitions)):
            for name in _rotated(list(hosts), turn):
                try:
                    found = hosts[name].measure()
                except MissingError as error:
                    print(f"  {name} is left out: {error}", file=sys.stderr)
                    hosts.pop(name).close()
                    continue
                for part, value in found.items() if turn >= case.warm_up else ():
                    figures[name].setdefault(part, []).append(case.figure(value))
    finally:
        for host in hosts.values():
            host.close()
    return figures


def _rotated(names: list[str], turn: int) -> list[str]:
    shift = turn % max(1, len(names))
    return names[shift:] + names[:shift]


def rows_of(case: Case, figures: Figures) -> Iterator[dict[str, Any]]:
    """Make the rows of a case."""
    for goal in case.goals or (None,):
        part = goal.part if goal else ""
        middle = {name: median(found[part]) for name, found in figures.items() if found.get(part)}
        spread = {
            name: [min(found[part]), max(found[part])]
            for name, found in figures.items()
            if found.get(part)
        }
        yield _row(case, goal, middle) | {"spread": _rounded(spread)}


def _row(case: Case, goal: Goal | None, middle: dict[str, float]) -> dict[str, Any]:
    ours = middle.get(OURS)
    limit = middle.get(case.limit)
    wanted = goal.ratio if goal else None
    ratio, met, title = None, None, case.name
    if goal is not None:
        other = middle.get(goal.against)
        if not goal.against:
            limit = other = goal.ratio
            wanted = 1.0
        against = f"/ {goal.against}" if goal.against else ""
        title = " ".join(filter(None, (case.name, goal.part, against, goal.what)))
        if ours is not None and other and wanted is not None:
            ratio = ours / other
            met = ratio <= wanted if case.less_is_better else ratio >= wanted
    peers = {name: value for name, value in middle.items() if name not in (OURS, case.limit)}
    row: dict[str, Any] = _rounded(
        {
            "case": title,
            "unit": case.unit,
            "ours": ours,
            "peers": peers,
            "limit": limit,
            "ratio": ratio,
            "goal": wanted,
            "met": met,
        }
    )
    return row


def _rounded(value: Any) -> Any:
    """Keep four digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
