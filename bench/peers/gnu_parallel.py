"""GNU parallel: runs commands and brings what each prints together into one file."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from time import perf_counter

from bench import target
from bench.host import MissingError


def printing(workers: int, size: int, count: int) -> Iterator[float]:
    """Run `count` commands that print `size` bytes each."""
    program = shutil.which("parallel")
    if program is None:
        raise MissingError("GNU parallel is not installed")
    command = [program, "--will-cite", f"-j{workers}", f"head -c {size} /dev/zero; true", ":::"]
    with target.directory() as path:
        name = os.path.join(path, "together")
        while True:
            target.warm(path, 2 * size * count)
            start = perf_counter()
            with open(name, "wb") as file:
                subprocess.run([*command, *map(str, range(count))], stdout=file, check=True)
            seconds = perf_counter() - start
            if os.stat(name).st_size != size * count:
                raise MissingError("it lost output, or is another program of that name")
            yield seconds
