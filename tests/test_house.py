"""The rules of the house: layers, lint, types, the public face, and what a file may not hold."""

import ast
import fnmatch
import graphlib
import inspect
import io
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

import collector

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "collector").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
README = ROOT / "README.md"
LARGEST_MODULE_LINES = 500
LARGEST_TEST_LINES = 500

PUBLIC = {
    "Batch",
    "BatchError",
    "BatchHaltedError",
    "BrokenCollectorError",
    "ClosedError",
    "Collector",
    "CollectorError",
    "Job",
    "JobError",
    "JobKilledError",
    "JobTimeoutError",
    "Mode",
    "Output",
    "OutputLostError",
    "Progress",
    "ProgressEvent",
    "ProtocolError",
    "Retry",
    "RetryLater",
    "RunDirectoryError",
    "RunningJob",
    "SpillError",
    "SpillManager",
    "Statistics",
    "WorkerCrashError",
    "cleanup_temp_files",
    "current_job",
    "list_runs",
    "reclaim",
    "temp_file_count",
}
TOP_LEVEL = {"pyproject.toml", "README.md", "collector", "tests", "bench", "docs"}
LATE = {"tqdm", "filelock"}
SLOW = {"dataclasses", "inspect"}
"""A tenth of a child's start, and each data class is another half to two milliseconds."""
MACHINE_PATH = re.compile(r"(?<![\w.~$}])/(?:home|root|Users|work|opt|tmp/venv)/[\w.-]+")


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter that finds the package of this tree."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def fenced(language: str, text: str) -> list[str]:
    """The blocks of one language in a text of Markdown."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# -- tools -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tool",
    [
        ["-c", "import importlinter.cli as c; c.lint_imports_command()", "--no-cache"],
        ["-m", "ruff", "check"],
        ["-m", "ruff", "format", "--check"],
        pytest.param(["-m", "mypy"], marks=pytest.mark.slow),  # a minute, from nothing
    ],
    ids=["import-linter", "ruff check", "ruff format", "mypy"],
)
def test_the_tool_has_nothing_to_say(tool: list[str]) -> None:
    done = python(*tool)
    assert done.returncode == 0, done.stdout


# -- the public face -------------------------------------------------------------------------------


def test_the_public_names_are_those_of_the_design() -> None:
    assert len(collector.__all__) == len(set(collector.__all__))
    assert set(collector.__all__) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_public_name_and_its_methods_are_documented(name: str) -> None:
    found = getattr(collector, name)
    assert vars(found)["__doc__"] if inspect.isclass(found) else found.__doc__
    if inspect.isclass(found):
        public = {n: value for n, value in vars(found).items() if not n.startswith("_")}
        assert [n for n, value in public.items() if not describes_itself(value)] == []


def describes_itself(value: object) -> bool:
    """Whether a member needs no docstring or has one."""
    return bool(inspect.getdoc(value)) or not (
        inspect.isroutine(value) or isinstance(value, property)
    )


@pytest.mark.parametrize(
    ("module", "late"),
    [
        ("collector", LATE),
        ("collector.process.worker.main", LATE | SLOW),
        ("collector.process.sink.main", LATE | SLOW),
    ],
)
def test_importing_it_does_not_load_what_is_wanted_later(module: str, late: set[str]) -> None:
    done = python("-c", f"import sys, {module}; print(*sys.modules)")
    assert done.returncode == 0, done.stdout
    loaded = set(done.stdout.split())
    assert module in loaded
    assert not loaded & late


def test_the_late_modules_would_be_seen() -> None:
    late = LATE | SLOW
    done = python("-c", f"import sys, {', '.join(late)}; print(*sys.modules)")
    assert set(done.stdout.split()) >= late


# -- the tree --------------------------------------------------------------------------------------


def test_the_top_level_holds_six_entries() -> None:
    generated = (ROOT / ".gitignore").read_text().split()
    here = {
        path.name
        for path in ROOT.iterdir()
        if not path.name.startswith(".")
        and not any(fnmatch.fnmatch(path.name, pattern.rstrip("/")) for pattern in generated)
    }
    assert here == TOP_LEVEL


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = grimp.build_graph("collector", cache_dir=None, exclude_type_checking_imports=True)
    uses = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(uses).prepare()


def test_the_rooms_below_do_not_use_the_face() -> None:
    graph = grimp.build_graph("collector", cache_dir=None, exclude_type_checking_imports=True)
    above = re.compile(r"collector\.(__main__|cli|demo|batch|integrations|pytest_plugin)\b")
    users = graph.find_modules_that_directly_import("collector")
    assert [module for module in sorted(users) if not above.match(module)] == []


def test_modules_are_small() -> None:
    sizes = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: lines for path, lines in sizes.items() if lines >= LARGEST_MODULE_LINES} == {}


def test_test_files_are_small() -> None:
    sizes = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in TESTS}
    assert {path: lines for path, lines in sizes.items() if lines > LARGEST_TEST_LINES} == {}


def test_one_file_of_the_tests_knows_the_private_parts_of_a_collector() -> None:
    private = re.compile(r"\._(?:core|supervisor)\b")  # also in a script that a test runs
    found = [path.relative_to(ROOT) for path in TESTS if private.search(path.read_text())]
    assert found == [Path("tests/support/inside.py")]


def test_no_function_rebinds_a_global() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Global)
    ]
    assert found == []


def test_no_file_names_a_path_of_somebody_s_machine() -> None:
    roots = [ROOT / name for name in (*TOP_LEVEL, ".ci")]
    files = [path for root in roots for path in (root.rglob("*") if root.is_dir() else [root])]
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in files
        if path.suffix in {".md", ".py", ".toml", ".json", ".c", ".sh", ""} and path.is_file()
        for match in MACHINE_PATH.finditer(path.read_text())
    ]
    assert found == []


# -- broad excepts ---------------------------------------------------------------------------------


def unexplained_excepts(source: str) -> Iterator[int]:
    """Yield the lines of the broad excepts that no comment explains.

    The comment stands on the line of the `except` or between it and its first statement, and says
    more than `noqa`. A handler that ends in a bare `raise` keeps nothing back: it needs none.
    """
    comments = {
        token.start[0]: re.sub(r"noqa(: [A-Z0-9, ]+)?", "", token.string).strip(" #-:")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and is_broad(node.type) and not reraises(node):
            lines = range(node.lineno, node.body[0].lineno + 1)
            if not any(" " in comments.get(line, "") for line in lines):
                yield node.lineno


def is_broad(caught: ast.expr | None) -> bool:
    """Whether this catches Exception or more."""
    if isinstance(caught, ast.Tuple):
        return any(is_broad(element) for element in caught.elts)
    return caught is None or ast.unparse(caught) in {"Exception", "BaseException"}


def reraises(handler: ast.ExceptHandler) -> bool:
    """Whether the handler ends in a bare `raise`."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_broad_except_says_what_happens_next(path: Path) -> None:
    assert list(unexplained_excepts(path.read_text())) == []


@pytest.mark.parametrize(
    ("handler", "lines"),
    [
        ("except Exception:\n    pass", [3]),
        ("except:\n    pass", [3]),
        ("except (ValueError, BaseException) as error:  # noqa: BLE001\n    pass", [3]),
        ("except Exception:  # noqa: BLE001 - the job fails with it\n    pass", []),
        ("except BaseException:\n    # the job fails with it\n    pass", []),
        ("except BaseException:\n    undo()\n    raise", []),
        ("except ValueError:\n    pass", []),
    ],
)
def test_an_unexplained_except_would_be_seen(handler: str, lines: list[int]) -> None:
    assert list(unexplained_excepts(f"try:\n    run()\n{handler}\n")) == lines


# -- the README ------------------------------------------------------------------------------------


def test_the_readme_sets_everything_up_with_two_commands() -> None:
    section = README.read_text().partition("\n## Install and try\n")[2].partition("\n## ")[0]
    commands = fenced("sh", section)
    assert len(commands) == 2
    assert [command.count("\n") for command in commands] == [1, 1]
    assert "collector demo" in commands[0]
    assert "pytest" in commands[1]


def test_every_example_of_the_readme_runs(tmp_path: Path) -> None:
    examples = fenced("python", README.read_text())
    assert examples
    for number, example in enumerate(examples):
        here = tmp_path / str(number)
        here.mkdir()
        script = here / "example.py"
        script.write_text(example)
        done = python(os.fspath(script), cwd=here)
        assert done.returncode == 0, f"{example}\n{done.stdout}"
