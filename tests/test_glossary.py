"""The code speaks the words of the glossary, and none of those that it forbids."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| \*\*(.+?)\*\* \| (.*?) \| (.*?) ?\|$", re.MULTILINE)
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
ROWS = ROW.findall(GLOSSARY)
WORKING_WORDS = {
    "claim",
    "drain",
    "frame",
    "note",
    "recall",
    "seat",
    "settle",
    "ticket",
}


def words(name: str) -> set[str]:
    """The words of a name, however they are joined."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def names() -> Iterator[tuple[str, str]]:
    """Each module, class and function of the package, with where it is."""
    for path in sorted((ROOT / "collector").rglob("*.py")):
        where = str(path.relative_to(ROOT))
        yield where, path.parent.name if path.stem == "__init__" else path.stem
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield f"{where}:{node.lineno}", node.name


def test_no_name_in_the_package_has_a_word_that_the_glossary_forbids() -> None:
    forbidden = {
        wrong: right for right, _, column in ROWS for wrong in filter(None, column.split(", "))
    }
    assert len(forbidden) >= 20
    found = [
        f"{where}: {name}: say {forbidden[word]!r}, not {word!r}"
        for where, name in names()
        for word in words(name) & set(forbidden)
    ]
    assert found == []


def test_a_word_has_one_entry_and_none_forbids_the_word_of_another() -> None:
    right = [word for entry, _, _ in ROWS for word in entry.split(", ")]
    assert len(right) == len(set(right))
    wrong = {word for _, _, column in ROWS for word in column.split(", ")}
    assert not wrong & set(right)


def test_what_is_in_italics_has_an_entry() -> None:
    known = {word for entry, _, _ in ROWS for word in entry.split(", ")}
    for entry, meaning, _ in ROWS:
        for word in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", meaning):
            stem = {word, word.removesuffix("s"), word.removesuffix("d"), word.removesuffix("ed")}
            stem |= {word.removesuffix("ies") + "y", word.removesuffix("es")}
            assert stem & known, f"{entry}: {word} has no entry"


def test_the_working_words_of_the_code_have_an_entry() -> None:
    known = {word for entry, _, _ in ROWS for word in entry.split(", ")}
    assert known >= WORKING_WORDS
