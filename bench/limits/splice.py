"""The C program beside this: a pipe, `splice`, a file."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench import target
from bench.host import MissingError


def collecting(workers: int, chunk_bytes: int, count: int, *, resident: bool) -> Iterator[float]:
    """Let C processes write into pipes that a C process splices into files."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise MissingError("no C compiler")
    with target.directory() as path:
        program = os.path.join(path, "splice")
        source = os.fspath(Path(__file__).with_suffix(".c"))
        subprocess.run([compiler, "-O2", "-o", program, source], check=True)
        targets = [target.target(path, n, resident=resident) for n in range(workers)]
        names = [
            os.path.join(path, f"{'resident' if resident else 'fresh'}-{n}") for n in range(workers)
        ]
        lap = target.RESIDENT_BYTES if resident else 0
        command = [program, *map(str, (workers, chunk_bytes, count, lap)), *names]
        while True:
            if not resident:
                target.warm(path, chunk_bytes * count * workers)
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            for file in targets:
                file.remove()
            yield float(done.stdout)
