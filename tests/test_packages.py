"""A wheel and an sdist are built; a clean environment of each Python runs what they install."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

import pytest

from collector.settings import VERSION
from tests.test_docs import ROOT

pytestmark = pytest.mark.xdist_group("packages")
"""Not that they must not run beside others: the wheel is built once, not by each process."""

VERSIONS: Final = ("3.11", "3.12", "3.13")
OWN: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
CLEAN: Final = {name: os.environ[name] for name in os.environ if not name.startswith("PYTHON")}
SCRIPT: Final = """
from collector import Collector

def squares(count):
    for number in range(count):
        yield f"{number * number} "

with Collector(max_workers=2) as collector:
    print(collector.submit(squares, 5).output().text())
"""
DEMO: Final = """
import sys, sysconfig
library = sys.argv.pop()
sysconfig.get_path = lambda name: library
from collector.cli.program import main
sys.exit(main(["demo"]))
"""
"""The demo of a small library."""


def python_of(version: str) -> str | None:
    """A Python of this version: this one, one on the path, or one of pyenv's."""
    if version == OWN:
        return sys.executable
    on_path = shutil.which(f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in [on_path, *sorted(pyenv.glob(f"{version}.*/bin/python"))]:
        if path and works(os.fspath(path), version):
            return os.fspath(path)
    return None


def works(path: str, version: str) -> bool:
    """Whether it is that version: a shim of pyenv's may lead to none."""
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.startswith(f"Python {version}.")


def run(*command: str | Path, here: Path) -> str:
    done = subprocess.run(command, cwd=here, env=CLEAN, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(name="built", scope="module")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a wheel, which is built of the sdist beside it."""
    here = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", here, ROOT, here=here)
    return here


@pytest.mark.slow
def test_the_wheel_has_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        tops = {name.split("/")[0] for name in file.namelist()}
        assert tops == {"collector", f"collector-{VERSION}.dist-info"}
        assert "collector/py.typed" in file.namelist()
        inside = {name for name in file.namelist() if name.startswith("collector/")}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "collector").rglob("*.py")}
    assert modules <= inside


@pytest.mark.slow
def test_the_sdist_has_what_its_wheel_is_built_of(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        names = file.getnames()
    for name in ("pyproject.toml", "README.md", "collector/__init__.py", "docs/index.md"):
        assert f"collector-{VERSION}/{name}" in names


@pytest.mark.parametrize(
    "version",
    [
        pytest.param(name, marks=pytest.mark.slow if name == OWN else pytest.mark.campaign)
        for name in sorted({*VERSIONS, OWN})
    ],
)
def test_a_clean_environment_runs_what_is_installed(
    built: Path, version: str, tmp_path: Path
) -> None:
    python = python_of(version)
    if python is None:
        pytest.skip(f"there is no Python {version}")
    run(python, "-m", "venv", "--without-pip", tmp_path / "env", here=tmp_path)
    tools = tmp_path / "env" / "bin"
    pip = (sys.executable, "-m", "pip", "--python", tools / "python")
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    run(*pip, "install", "-q", wheel, here=tmp_path)
    assert VERSION in run(tools / "collector", "--version", here=tmp_path)
    if version == OWN:  # of its whole library is another test
        (tmp_path / "library").mkdir()
        (tmp_path / "library" / "large.py").write_text("x = 1  # a line\n" * 400)
        said = run(tools / "python", "-c", DEMO, tmp_path / "library", here=tmp_path)
    else:
        said = run(tools / "collector", "demo", here=tmp_path)
    assert "Every output is equal" in said
    (tmp_path / "script.py").write_text(SCRIPT)
    assert run(tools / "python", "script.py", here=tmp_path) == "0 1 4 9 16 \n"
    echoed = run(tools / "collector", "run", "-k", "echo", "<{}>", ":::", "a", "b", here=tmp_path)
    assert echoed == "<a>\n<b>\n"
    if version == OWN:
        run(*pip, "uninstall", "-q", "-y", "collector", here=tmp_path)
        run(*pip, "install", "-q", "--no-deps", sdist, here=tmp_path)
        assert run(tools / "python", "script.py", here=tmp_path) == "0 1 4 9 16 \n"
