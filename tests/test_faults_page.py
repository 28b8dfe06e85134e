"""The page of the faults names tests that exist, and has a row for each fault."""

import ast
import functools
import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
ROWS: Final = re.findall(
    r"^\| (\d+) \| .* \| (.*) \|$", (ROOT / "docs/faults.md").read_text(), re.MULTILINE
)


def test_every_fault_has_its_row() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 77))


def test_a_row_names_tests_that_exist_or_says_why_there_are_none() -> None:
    for number, cell in ROWS:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", cell)
        assert named or cell.startswith("Not provoked: "), f"row {number}"
        for path, name in named:
            assert name in functions(path), f"row {number}: {path}::{name}"


@functools.cache
def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
