"""The page of the faults names tests that exist, under each start method, for each fault."""

import ast
import functools
import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PROCESSES: Final = {"Collector", "assert_runs", "script"}
"""A test that calls one of these has processes of a Collector."""
ROWS: Final = re.findall(
    r"^\| (\d+) \| .* \| (.*) \|$", (ROOT / "docs/faults.md").read_text(), re.MULTILINE
)


def test_every_fault_has_its_row() -> None:
    numbers = [int(number) for number, _ in ROWS]
    assert numbers == list(range(1, 91))


def test_a_row_names_tests_that_exist_or_says_why_there_are_none() -> None:
    for number, cell in ROWS:
        named = named_in(cell)
        assert named or cell.startswith("Not provoked: "), f"row {number}"
        for path, name in named:
            assert name in functions(path), f"row {number}: {path}::{name}"


def test_a_fault_of_processes_is_met_under_each_start_method() -> None:
    """But the death of a forkserver, which one method has, and what is Ray's, which has none."""
    one_method = [
        name
        for _, cell in ROWS
        for path, name in named_in(cell)
        if not path.startswith("tests/integrations/test_ray")
        if has_processes(functions(path)[name])
        if "method" not in {argument.arg for argument in functions(path)[name].args.args}
    ]
    assert [name for name in one_method if "the_death_of_the_forkserver" not in name] == []


def named_in(cell: str) -> list[tuple[str, str]]:
    return re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", cell)


def has_processes(test: ast.FunctionDef) -> bool:
    calls = [node.func for node in ast.walk(test) if isinstance(node, ast.Call)]
    return any(isinstance(called, ast.Name) and called.id in PROCESSES for called in calls)


@functools.cache
def functions(path: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
