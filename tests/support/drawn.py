"""What `docs/architecture.md` shows of the code: the tables by which states move, and the tree."""

import ast
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from collector.process.pool import supervised
from collector.process.scheduler import decisions, gates, worker_state
from collector.process.sink import file_grant, open_job
from collector.store.output import growing
from collector.store.rundir import directory

ROOT = Path(__file__).parents[2]
Table = Mapping[Any, Mapping[Any, Any]]
TABLES: dict[str, Table] = {
    "A job, as the scheduler sees it": decisions.TABLE,
    "A worker, as the scheduler sees it": worker_state.TABLE,
    "The gate of a resource": gates.TABLE,
    "A worker and the sink, as the supervisor sees them": supervised.TABLE,
    "A job that has started, in the sink": open_job.TABLE,
    "Who writes to the end of a job's file": file_grant.TABLE,
    "A growing output": growing.TABLE,
    "A run directory, as one of its processes holds it": directory.TABLE,
}
"""Each machine of the code, and what it is the state of."""


def module_of(table: Table) -> str:
    """Where a table stands."""
    return states_of(table).__module__.removeprefix("collector.")


def states_of(table: Table) -> type[Enum]:
    """The states that it is about."""
    states: type[Enum] = type(next(iter(table)))
    return states


def events_of(table: Table) -> type[Enum]:
    """The events that it is about."""
    events: type[Enum] = type(next(iter(next(iter(table.values())))))
    return events


def moves() -> Iterator[str]:
    """Each table: a row for a state, a column for an event, and what state follows."""
    for title, table in TABLES.items():
        events = events_of(table)
        yield f"{title} (`{module_of(table)}`):\n"
        yield f"| state | {' | '.join(event.value for event in events)} |"
        yield "|---" * (len(events) + 1) + "|"
        for state, following in table.items():
            cells = [f"`{following[e].name}`" if e in following else "-" for e in events]
            yield f"| `{state.name}` | {' | '.join(cells)} |"
        yield ""


def tree() -> Iterator[str]:
    """Every module with the first sentence of its docstring."""
    yield "```text"
    yield from _room(ROOT / "collector", 0)
    yield "```"


def _room(directory: Path, depth: int) -> Iterator[str]:
    said = _sentence(directory / "__init__.py") if depth else ""
    yield f"{'  ' * depth}{directory.name + '/':<{30 - 2 * depth}}{said}".rstrip()
    modules = sorted(p for p in directory.glob("*.py") if p.name != "__init__.py")
    for module in modules:
        yield f"{'  ' * (depth + 1)}{module.stem:<{28 - 2 * depth}}{_sentence(module)}"
    for room in sorted(p.parent for p in directory.glob("*/__init__.py")):
        yield from _room(room, depth + 1)


def _sentence(module: Path) -> str:
    """The first paragraph, which is one sentence, without its end."""
    said = ast.get_docstring(ast.parse(module.read_text())) or ""
    return " ".join(said.partition("\n\n")[0].split()).rstrip(".")
