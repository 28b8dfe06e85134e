"""`collector demo`: what it prints, what it finds, what it returns."""

import argparse
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector import demo

ROOT = Path(__file__).parents[1]


def table(text: str) -> dict[str, str]:
    """The rows of the table, without pids."""
    rows = re.findall(r"^(\S.*?)(?: \d+)? {2,}(\S.*)$", text, re.MULTILINE)
    return dict(rows)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small standard library."""
    (tmp_path / "package").mkdir()
    (tmp_path / "large.py").write_text("x = 1  # a line\n" * 400)
    (tmp_path / "package" / "small.py").write_text("y = 2\n" * 100)
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: os.fspath(tmp_path))
    return tmp_path


@pytest.mark.campaign
def test_the_demo_tokenizes_the_library_survives_a_crash_and_compares_every_byte(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "collector", "demo"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Every output is equal" in done.stdout
    rows = table(done.stdout)
    in_memory, on_disk = map(int, rows["in memory / on disk"].split(" / "))
    assert in_memory >= 1
    assert on_disk >= 1
    assert int(rows["jobs"]) == in_memory + on_disk
    assert int(rows["bytes"].replace(",", "")) > 50 * 2**20
    assert rows["crashed and run again"] == "1"
    for role in ("parent", "sink", "worker"):
        assert float(rows[f"peak memory of the {role}"].removesuffix(" MiB")) > 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_on_a_terminal_it_draws_a_bar(library: Path) -> None:
    place = os.fspath(library)
    script = (
        f"import sysconfig, sys; sysconfig.get_path = lambda _name: {place!r}\n"
        "from collector.cli.program import main; sys.exit(main(['demo']))"
    )
    ours, theirs = os.openpty()
    with open(ours, "rb", buffering=0) as screen:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            check=False,
        )
        os.close(theirs)
        shown = screen.read(2**16)
    assert done.returncode == 0
    assert b"tokenize: 100%" in shown
    assert b"2/2" in shown


def test_an_output_that_differs_is_named_and_the_status_is_1(
    library: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenized = demo.tokenized

    def with_a_flaw(module: demo.Module) -> Iterator[str]:
        yield from tokenized(module)
        if module.name == os.path.join("package", "small.py"):
            yield "?"

    # In this process alone: the workers import the module, and have the real one.
    monkeypatch.setattr(demo, "tokenized", with_a_flaw)
    assert demo.run_demo(argparse.Namespace()) == 1
    said = capsys.readouterr()
    assert said.err == (
        "collector: the output of package/small.py differs from one made without the collector\n"
    )
    assert "Every output is equal" not in said.out
    assert table(said.out)["jobs"] == "2"


def test_a_job_that_fails_is_named_and_the_status_is_1(
    library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (library / "broken.py").write_text("x = (\n")
    assert demo.run_demo(argparse.Namespace()) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("collector: the job of broken.py failed: ")


@pytest.mark.slow
def test_a_demo_in_which_nothing_crashed_has_not_shown_what_it_must(library: Path) -> None:
    modules = demo.largest_modules(os.fspath(library))
    found = demo.collect(modules)
    assert list(found.differences(modules)) == [
        "no job was run again, although one kills its worker"
    ]


def test_the_largest_modules_come_first_and_tests_and_other_packages_not_at_all(
    library: Path,
) -> None:
    for place in ("test", "site-packages", "package/tests"):
        (library / place).mkdir()
        (library / place / "huge.py").write_text("z = 3\n" * 1000)
    modules = demo.largest_modules(os.fspath(library))
    assert [module.name for module in modules] == ["large.py", "package/small.py"]


def test_without_any_source_it_says_where_it_looked_and_the_status_is_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: os.fspath(tmp_path))
    assert demo.run_demo(argparse.Namespace()) == 2
    assert capsys.readouterr().err == (
        f"collector: no source of the standard library in {tmp_path}\n"
    )
