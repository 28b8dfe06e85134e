"""The variables of a job that is a Python function."""

import subprocess
import sys

SCRIPT = """
import os, subprocess
from collector.batch.command.environment import Variable

def resident_kib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024

variable = Variable("COLLECTOR_SEQ", 64)
variable.set("7" * 64)
before = resident_kib()
for number in range(100_000):
    variable.set(f"{number:040}")
assert resident_kib() - before < 2048, resident_kib() - before
text = f"{number:040}"
assert os.environ["COLLECTOR_SEQ"] == os.getenv("COLLECTOR_SEQ") == text
assert subprocess.check_output(["sh", "-c", "printf %s $COLLECTOR_SEQ"]).decode() == text
variable.set("")
assert os.environ["COLLECTOR_SEQ"] == ""
os.environ["COLLECTOR_SEQ"] = "the job's own"
variable.set("1")
assert subprocess.check_output(["sh", "-c", "printf %s $COLLECTOR_SEQ"]) == b"1"
"""


def test_a_variable_takes_no_memory_for_what_it_has_been() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
