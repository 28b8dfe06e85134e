"""Tests under a kernel of their own: Debian's User Mode Linux, whose root is this file system.

There everything may be mounted and nobody else has bound a controller: control groups are of
version 2, whatever those of the machine are.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = Path(__file__).parents[2]
_MEMORY_MIB: Final = 1500
_LIMIT_S: Final = 900

_INIT: Final = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir /dev/shm
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /run/t
export HOME=/run TMPDIR=/run/t PYTHONDONTWRITEBYTECODE=1 PATH={path}
cd {root}
{pytest}
echo o > /proc/sysrq-trigger
sleep 60
"""


def run_in_version_2(where: Path, *arguments: str) -> str:
    """Run pytest where control groups are of version 2; return what it prints.

    Args:
        where: A directory for what the kernel needs.
        arguments: For pytest.
    """
    kernel = shutil.which("linux.uml")
    if kernel is None:
        pytest.skip("there is no User Mode Linux: apt-get install user-mode-linux")
    program = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    init = where / "init"
    init.write_text(
        _INIT.format(
            path=shlex.quote(os.environ["PATH"]),
            root=shlex.quote(os.fspath(_ROOT)),
            pytest=shlex.join(program),
        )
    )
    init.chmod(0o755)
    booted = subprocess.run(
        [
            kernel,
            f"mem={_MEMORY_MIB}M",
            f"uml_dir={where}",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            "quiet",
            f"init={init}",
            "con=null",
            "con0=fd:0,fd:1",
            "ssl=null",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_LIMIT_S,
        check=False,
    )
    return booted.stdout.decode(errors="replace")
