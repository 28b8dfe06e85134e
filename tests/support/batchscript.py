"""A script that keeps a batch, as a user's would, and what must be there after it.

It takes the directory, the number of inputs, the start method and, for a kill of the whole tree,
the number of the parent's call at which that is to come.
"""

import hashlib
import os
import random
from pathlib import Path
from typing import Final

from collector import Batch
from collector.batch.lines import Filed

SCRIPT: Final = """
import hashlib, os, sys
from collector import Collector, current_job
from tests.support.batchscript import written

def job(number):
    job = current_job()
    for chunk in written(number):
        job.write(chunk)
    return hashlib.sha256(b"".join(written(number))).hexdigest()

directory, count = sys.argv[1], int(sys.argv[2])
if len(sys.argv) > 4:
    from tests.support.killpoints import Points
    Points(int(sys.argv[4]), halt=lambda: (print("here", flush=True), sys.stdin.read()))
print("begun", flush=True)
seen = []
with Collector(2, sys.argv[3], progress=False, memory_threshold=1 << 18, capture=True) as collector:
    for job in collector.collect(job, range(count), batch=directory):
        assert job.exception() is None, job.exception()
        assert job.output().read() == b"".join(written(job.args[0]))
        seen.append(job.args[0])
assert sorted(seen) == list(range(count)), seen
print("done", flush=True)
"""

_LARGEST: Final = 20_000_000


def written(number: int) -> list[bytes]:
    """Return the chunks that the job of a number writes: 0 B to 20 MB, most of them small."""
    dice = random.Random(number)
    size = dice.choice([0, 10, 1000, 1000, 5000, 5000, 70_000])
    if number % 97 == 96:
        size = dice.randrange(1_000_000, 4_000_000)
    if number % 997 == 996:
        size = _LARGEST
    data = hashlib.sha256(str(number).encode()).digest() * (size // 32 + 1)
    return [data[at : min(at + 100_000, size)] for at in range(0, size, 100_000)]


def assert_is_whole(path: Path, count: int) -> None:
    """Each result is there once, and exact, and nothing else lies in the directory."""
    with Batch.open(path) as batch:
        assert batch.verify() == []
        numbers = []
        files = set()
        for record in batch:
            assert record.status == "done"
            data = record.output().read()
            assert data == b"".join(written(int(record.input)))
            assert record.value() == hashlib.sha256(data).hexdigest()
            assert record.log().read() == b""
            numbers.append(int(record.input))
            for attempt in record.attempts:
                if attempt.kept:
                    files |= {p.name for p in attempt.places if isinstance(p, Filed)}
        assert sorted(numbers) == list(range(count))
    found = {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir()}
    found -= {name for name in found if "/pack-" in name}
    found -= {f"shard-0/files/{name}" for name in files}
    assert found == {"batch.json", "shard-0/journal.jsonl", "shard-0/lock"}
    run = path / "shard-0" / "run"
    assert not run.exists() or os.listdir(run) == []
