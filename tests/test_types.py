"""What a type checker knows of the public face; `tests/typing/face.py` says it, mypy reads it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.person import ROOT, environment

pytestmark = pytest.mark.xdist_group("types")
"""Not that they must not run beside others: what the package says is read once, not by each."""

FACE = ROOT / "tests" / "typing" / "face.py"


@pytest.fixture(name="cache", scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def mypy(path: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Read one file as strictly as all of ours are read."""
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", cache, "--no-error-summary", path],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_face_has_the_types_it_promises(cache: Path) -> None:
    done = mypy(FACE, cache)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong", "reported"),
    [
        ("submit(square, 3), Job[int]", "submit(square, 3), Job[str]", 'not "Job[str]"'),
        ("submit(blocks, Path()), Job[float]", "submit(blocks, Path()), Job[None]", "Job[None]"),
        ('"three")  # type: ignore[call-overload]', '"three")', "No overload variant"),
        ('collector.submit(square, "three")', "collector.submit(square, 3)", "Unused"),
    ],
)
def test_a_wrong_type_would_be_reported(
    right: str, wrong: str, reported: str, cache: Path, tmp_path: Path
) -> None:
    text = FACE.read_text()
    assert right in text
    changed = tmp_path / "face.py"
    changed.write_text(text.replace(right, wrong, 1))
    done = mypy(changed, cache)
    assert done.returncode == 1
    (error,) = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert reported in error


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "collector" / "py.typed").exists()
