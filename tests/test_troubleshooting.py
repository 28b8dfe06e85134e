"""The page about what goes wrong leads from each message that a user can meet to what to do."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import collector
from tests.test_docs import DOCS, ROOT, anchors, name_of

PAGE: Final = DOCS / "troubleshooting.md"
TOLD: Final = (
    "errors.py",
    "crash_errors.py",
    "interpreter.py",
    "executor/*.py",
    "batch/*.py",
    "cli/asking.py",
    "process/pool/ending.py",
    "process/pool/follow.py",
    "process/queue/stream.py",
    "process/start/bootstrap.py",
    "process/start/child.py",
    "process/start/inheritance.py",
    "process/worker/capture.py",
    "process/worker/job_pipe.py",
    "process/worker/running.py",
    "store/output/*.py",
    "store/rundir/directory.py",
    "store/rundir/root.py",
)
"""The modules whose messages are for users."""
NOT_MET: Final = {
    "batch/lines.py": "caught where a journal is read: the line counts as not there",
    "batch/parts.py": "no command or function reads a shard from a text yet",
    "batch/jobs.py": "an attribute error of Python's, and what a pool says otherwise",
    "store/output/reader.py": "what any file of Python's says",
    "store/output/rename.py": "an error of the system, as it came",
}
BUGS_OF_OURS: Final = {
    "has no error",
    "cannot be told",
    "object has no attribute",
    "is a link to it",
}
"""Texts with one of these are met by nobody, or stand within another one."""
VARIABLE: Final = "\N{HORIZONTAL ELLIPSIS}"
LEAST_TEXTS: Final = 90
LEAST_LETTERS: Final = 9
LEAST_CLASSES: Final = 10


def text_of(node: ast.expr) -> str:
    """A text as it is written, with what is filled in left open."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(text_of, parts))
        case ast.BinOp(left=left, right=right):
            return text_of(left) + text_of(right)
        case _:
            return VARIABLE


def is_told(call: ast.Call) -> bool:
    """Whether a call makes an error, or writes a warning to the log."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name.endswith(("Error", "_error")) or name == "warning"


def texts(module: Path) -> Iterator[str]:
    """The messages of a module that users can meet."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Call) and is_told(node):
            found = [text_of(argument) for argument in node.args]
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "message":
            found = [text_of(node.value)]
        else:
            continue
        for text in found:
            said = re.sub(r"%[.\w]*[srdg]", VARIABLE, text)
            if letters(said) >= LEAST_LETTERS and " " in said.strip():
                yield said


def letters(text: str) -> int:
    return len(re.sub(r"\W|[_\d]", "", text))


def messages() -> dict[str, str]:
    """Each message that a user can meet, and the module that says it."""
    modules = [path for pattern in TOLD for path in sorted(ROOT.glob(f"collector/{pattern}"))]
    return {
        text: name_of(module)
        for module in modules
        if module.relative_to(ROOT / "collector").as_posix() not in NOT_MET
        for text in texts(module)
        if not any(bug in text for bug in BUGS_OF_OURS)
    }


def symptoms() -> list[re.Pattern[str]]:
    """What the headings of the page, and the lines of their variants, are about."""
    page = PAGE.read_text("utf-8")
    lines = re.findall(r"^### (.+)$|^(Also: (?:.+\n)+)", page, re.MULTILINE)
    shown = [text for line in lines for text in re.findall(r"`([^`]+)`", "".join(line))]
    return [
        re.compile(".*".join(map(re.escape, text.split("..."))), re.DOTALL)
        for text in shown
        if letters(text) >= LEAST_LETTERS  # or it would lead from anything
    ]


def leads_somewhere(message: str, known: list[re.Pattern[str]]) -> bool:
    return any(pattern.search(message) for pattern in known)


def test_each_message_that_a_user_can_meet_is_on_the_page() -> None:
    known = symptoms()
    found = messages()
    assert len(found) >= LEAST_TEXTS
    lost = [f"{where}: {text}" for text, where in found.items() if not leads_somewhere(text, known)]
    assert lost == []


def test_a_message_that_nobody_wrote_of_would_be_seen() -> None:
    assert not leads_somewhere("the moon is not where it was", symptoms())


def test_each_class_of_errors_is_on_the_page_or_a_base_of_one_that_is() -> None:
    page = PAGE.read_text("utf-8")
    found = [getattr(collector, name) for name in collector.__all__]
    errors = [kind for kind in found if inspect.isclass(kind) and issubclass(kind, Exception)]
    assert len(errors) >= LEAST_CLASSES
    for kind in errors:
        assert f"`{kind.__name__}`" in page or kind.__subclasses__(), kind.__name__


def test_no_two_symptoms_have_one_heading() -> None:
    heads = re.findall(r"^### (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(set(heads)) == len(heads)
    assert anchors(PAGE)
