"""The documentation is true: its examples run, its links lead somewhere, its tables are code."""

import ast
import functools
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import reference
from tests.support.tiers import everyday_are

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)?(?:#([^)\s]+))?\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
LONGEST_README_LINES = 150
MENTION = re.compile(r"docs/[\w/-]+(?:\.md)?")


def blocks(language: str, page: Path) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@functools.cache  # many pages name the same files
def functions(path: Path) -> set[str]:
    """The names of all functions of a file, also of those in classes."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


# -- what the pages name exists --------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_page_and_a_heading(page: Path) -> None:
    broken = []
    for target, anchor in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / target) if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = TEST.findall(page.read_text())
    missing = [
        f"{path}::{test}"
        for path, test in named
        if not (ROOT / path).is_file() or (test and test not in functions(ROOT / path))
    ]
    assert missing == []


def test_each_row_of_the_guarantees_is_proved_by_a_test() -> None:
    page = (DOCS / "guarantees.md").read_text()
    section = page.partition("\n## What proves it\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", section, re.MULTILINE)[1:]
    assert len(rows) >= 10
    assert [row for row, proof in rows if not TEST.fullmatch(proof)] == []


def test_the_readme_is_read_in_one_go() -> None:
    assert len(README.read_text().splitlines()) <= LONGEST_README_LINES


def test_every_page_that_the_code_names_exists() -> None:
    sources = [*ROOT.glob("collector/**/*.py"), *ROOT.glob("tests/**/*.py")]
    missing = {
        f"{name_of(path)}: {mention}"
        for path in sources
        for mention in MENTION.findall(path.read_text())
        if not (ROOT / mention).exists() and not list(ROOT.glob(f"{mention}-*.md"))
    }
    assert missing == set()


# -- what the code writes into the pages is as the code is -----------------------------------------


@pytest.mark.parametrize("page", reference.pages(), ids=name_of)
def test_the_parts_of_a_page_that_the_code_writes_are_up_to_date(page: Path) -> None:
    assert reference.render(page.read_text()) == page.read_text(), (
        "run: python -m tests.support.reference"
    )


def test_every_part_that_the_code_can_write_is_on_a_page() -> None:
    found = {
        name
        for page in reference.pages()
        for _, name, _ in reference.BLOCK.findall(page.read_text())
    }
    assert found == set(reference.BLOCKS)


# -- the architecture ------------------------------------------------------------------------------


def state_rows() -> list[tuple[str, str]]:
    """The rows of the table of states: the module, the states."""
    section = (
        (DOCS / "architecture.md").read_text().partition("\n## States\n")[2].partition("\n## ")[0]
    )
    return re.findall(r"^\| .*? \| `([a-z_]+\.[a-z_.]+)` \| (.*?) \|", section, re.MULTILINE)


def test_the_states_of_the_architecture_are_those_of_the_modules() -> None:
    rows = state_rows()
    assert len(rows) >= 4
    for module, states in rows:
        said = importlib.import_module(f"collector.{module}").__doc__ or ""
        assert re.findall(r"`(.+?)`", states), module
        for state in re.findall(r"`(.+?)`", states):
            assert state in said, f"{module} does not say {state}"


MODULE = re.compile(
    r"`(?:collector/)?((?:process|store|wire|progress|executor|batch)(?:/\w+)+\.py)`"
)


def test_every_module_that_the_architecture_names_exists() -> None:
    modules = MODULE.findall((DOCS / "architecture.md").read_text())
    assert len(modules) >= 20
    assert [module for module in modules if not (ROOT / "collector" / module).is_file()] == []


def test_a_walk_crosses_as_many_modules_as_it_says() -> None:
    section = (DOCS / "architecture.md").read_text().partition("\n## Three walks\n")[2]
    walks = re.findall(
        r"^\*\*.+?\*\*.*?\((\d+) modules.*?\n(.*?)(?=^\*\*|^## )", section, re.MULTILINE | re.DOTALL
    )
    said = [int(count) for count, _ in walks]
    assert said == [len(set(MODULE.findall(text))) for _, text in walks]
    assert all(now < before for now, before in zip(said, (12, 20, 10), strict=True))


# -- examples --------------------------------------------------------------------------------------


def run(script: str, here: Path) -> subprocess.CompletedProcess[str]:
    """Run a script as a user would, in a directory of its own."""
    path = here / "script.py"
    path.write_text(script)
    return subprocess.run(
        [sys.executable, os.fspath(path)],
        cwd=here,
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_tutorial_runs_from_its_first_line_to_its_last_and_prints_what_it_says(
    tmp_path: Path,
) -> None:
    page = DOCS / "tutorial.md"
    for _ in range(2):  # whoever reads on runs the script again
        done = run("".join(blocks("python", page)), tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "".join(blocks("text", page))


DECISIONS = sorted((DOCS / "decisions").glob("*.md"))
RUN_EVERY_DAY = [
    page for page in DECISIONS if page.stem == "0007-logs" or not blocks("python", page)
]


@pytest.mark.parametrize("page", everyday_are(RUN_EVERY_DAY, of=DECISIONS), ids=lambda p: p.stem)
def test_the_examples_of_a_decision_show_what_it_says(page: Path, tmp_path: Path) -> None:
    for number, example in enumerate(blocks("python", page)):
        here = tmp_path / str(number)
        here.mkdir()
        done = run(example, here)
        assert done.returncode == 0, f"{example}\n{done.stderr}"


@pytest.mark.parametrize("page", DECISIONS, ids=lambda p: p.stem)
def test_a_decision_tells_its_context_its_choice_what_was_measured_and_what_was_rejected(
    page: Path,
) -> None:
    heads = re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE)
    for part in ("Context", "Choice", "Measurement", "Rejected"):
        assert any(head.startswith(part) for head in heads), part


def test_the_changelog_has_the_version_of_the_package_on_top() -> None:
    from collector.settings import VERSION

    heads = re.findall(r"^## \[(.+?)\]", (DOCS / "changelog.md").read_text(), re.MULTILINE)
    assert heads[:2] == ["Unreleased", VERSION] or heads[0] == VERSION
