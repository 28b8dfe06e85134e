"""A Ctrl-C while a Collector is being made, at each line of starting its forkserver."""

import subprocess
import sys

_SCRIPT = """
import os, sys
from collector import Collector

def interrupted_at(wanted):
    lines = 0
    def trace(frame, event, _):
        nonlocal lines
        if not frame.f_code.co_filename.endswith("process/start/forkserver.py"):
            return None
        if event == "line":
            lines += 1
            if lines == wanted:
                raise KeyboardInterrupt
        return trace
    sys.settrace(trace)
    try:
        collector = Collector(max_workers=1)
    except KeyboardInterrupt:
        sys.settrace(None)
        return True
    sys.settrace(None)
    collector.shutdown()
    return False

Collector(max_workers=1).shutdown()
wanted = 1
while interrupted_at(wanted):
    wanted += 1
print(wanted)
"""


def test_a_ctrl_c_while_the_forkserver_is_started_never_hangs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False
    )
    assert int(done.stdout) > 10, done.stderr
