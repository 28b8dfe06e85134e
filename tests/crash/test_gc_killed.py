"""gc killed at each of its system calls in turn, for all of them: the next gc finishes."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.reclaim import reclaim
from tests.support.rundirs import Other, a_process, is_held, make_orphan, names

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None, reason="needs strace (Debian: strace)"
)

# Everything is imported once; each sweep runs in a fork of its own, which waits until it is traced.
ZYGOTE = """
import filelock, json
while wait():
    start, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(start, 1)
        reclaim.reclaim([sys.argv[1]])
        os._exit(0)
    say(child)
    wait()
    os.write(told, b'x')
    say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.close(start)
    os.close(told)
"""

# The calls that read what is there or change it; the others touch no file.
CALLS = (
    "openat,newfstatat,fstat,flock,getdents64,read,lseek,fcntl,close,fchmod,"
    "rename,renameat,renameat2,unlink,unlinkat,rmdir"
)


def traced_sweep(zygote: Other, log: Path, *options: str) -> int:
    """Let one sweep run under strace; its exit status."""
    zygote.tell("fork")
    pid = zygote.hear()
    command = ["strace", "-p", pid, "-o", str(log), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        assert "attached" in strace.stderr.readline()
        zygote.tell("go")
        status = int(zygote.hear())
        strace.stderr.read()
    return status


def fill(temp_root: Path) -> None:
    run = make_orphan(temp_root, files=2)
    (run / "scratch-0123456789abcdef" / "deep").mkdir(parents=True)
    (run / "scratch-0123456789abcdef" / "deep" / "file").touch()


@pytest.mark.slow
def test_the_next_gc_finishes(tmp_path: Path) -> None:
    temp_root = tmp_path / "root"
    log = tmp_path / "log"
    fill(temp_root)
    live = RunDirectory.create(temp_root)
    with a_process(ZYGOTE, temp_root) as zygote:
        assert traced_sweep(zygote, log, "-e", f"trace={CALLS}") == 0
        assert names(temp_root) == [live.path.name]
        calls = Counter(re.findall(r"^(\w+)\(", log.read_text(), re.MULTILINE))
        assert calls["unlinkat"] >= 7
        killed = 0
        for call, count in calls.items():
            for nth in range(1, count + 1):
                fill(temp_root)
                inject = f"inject={call}:signal=SIGKILL:when={nth}"
                status = traced_sweep(zygote, log, "-e", f"trace={call}", "-e", inject)
                assert status in (0, -9)
                killed += status == -9
                assert ("killed by SIGKILL" in log.read_text()) == (status == -9)
                report = reclaim([temp_root])
                assert report.failures == [], (call, nth)
                assert names(temp_root) == [live.path.name], (call, nth)
                assert is_held(live)
        # Some counts vary by a call or two (what was read before the sweep began).
        assert killed >= sum(calls.values()) - len(calls)
        assert killed > 80
    live.dispose()
