"""`collector run` loads what it needs, and no more."""

import subprocess
import sys


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
