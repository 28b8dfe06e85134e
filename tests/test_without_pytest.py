"""What stands for pytest in a worker: it loads nothing, and what is used of it is the real one."""

import subprocess
import sys
from pathlib import Path
from typing import Final

_PROGRAM: Final = """
import sys

import tests.test_failures, tests.test_cli, tests.test_job_logging, pytest
assert "_pytest" not in sys.modules, "a test module loads pytest"

@pytest.fixture(name="other")
def fixture() -> pytest.CaptureFixture[str] | None:
    return None

@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(1, marks=pytest.mark.slow)])
def decorated(patch: "None | pytest.MonkeyPatch"):
    return "called"

assert (fixture(), decorated(None)) == (None, "called")
assert "_pytest" not in sys.modules, "a decorator or an annotation loads pytest"

with pytest.raises(ZeroDivisionError):
    1 / 0
import _pytest.python_api, pytest as real
assert real.approx is _pytest.python_api.approx
assert pytest.fail.Exception is real.fail.Exception
print("all of it")
"""


def test_a_test_module_loads_pytest_in_its_own_process_only() -> None:
    here = Path(__file__).parent.parent
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM], cwd=here, capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("all of it\n", "")
