"""`collector run` loads what it needs, and no more."""

import subprocess
import sys
from pathlib import Path


def test_a_command_loads_its_own_module_and_a_wrong_one_names_all() -> None:
    program = (
        "import sys; from collector.cli.program import main; status = main(['run', 'true', ':::']);"
        "print(status, sorted(m for m in sys.modules if m.startswith(('collector.cli.', "
        "'collector.batch.b'))))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = [f"collector.cli.{name}" for name in ("printing", "program", "run")]
    assert ended.stdout.decode().strip() == f"0 {loaded}"
    words = [sys.executable, "-m", "collector", "runs"]
    said = subprocess.run(words, capture_output=True, check=False).stderr
    assert b"'run', 'status', 'cat'" in said


def test_garbage_is_looked_for_again_before_anything_runs(tmp_path: Path) -> None:
    """Neither while the program loads nor where its modules lie, but in a worker that it forks."""
    (tmp_path / "jobs.py").write_text(
        "import gc\ndef looks(_):\n    print(gc.isenabled(), gc.get_freeze_count() > 10_000)\n"
    )
    words = [sys.executable, "-m", "collector", "run", "--python", "jobs:looks", ":::", "a"]
    ended = subprocess.run(words, capture_output=True, check=True, cwd=tmp_path)
    assert ended.stdout == b"True True\n"


def test_a_program_that_calls_it_goes_on_to_look_for_garbage_as_it_did() -> None:
    program = (
        "import gc; from collector.cli.program import main; before = gc.get_freeze_count();"
        "main(['run', 'true', ':::']); print(gc.isenabled(), gc.get_freeze_count() - before)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert ended.stdout == b"True 0\n", "3.12 itself freezes a few hundred objects"
