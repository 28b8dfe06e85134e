"""From a collected output to a finished text in flat memory."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from collector.settings import MIB
from tests.support.tree import ROOT

TEXT = b"two words and \xc3\xbc " * 8
BLOCK = b"```\n" + (TEXT + b"\r\n\n\n") * 2000
FLAT = """
import hashlib, sys
from collector import SpillManager
from collector.integrations.postprocess import *
from tests.integrations.test_postprocess_memory import BLOCK

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) * 1024

def run(blocks, target):
    manager = SpillManager()
    for _ in range(blocks):
        manager.write(BLOCK)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # from here on the peak counts
    before = peak()
    result = finalize_processing(None, streaming_manager=manager, file_path="x.mp4",
                                 output_path=target, transforms=transforms)
    return result, peak() - before

target, blocks, kind = sys.argv[1:]
transforms = [strip_code_fences, normalise_line_ends, collapse_blank_runs]
if kind == "copied":
    transforms = []
run(40, target + ".small")  # what is loaded and allocated once is
result, growth = run(int(blocks), target)
print(result.bytes, result.words, result.sha256, growth)
"""


@pytest.mark.parametrize("kind", ["copied", "transformed"])
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(100 * MIB, marks=pytest.mark.slow),
        pytest.param(2048 * MIB, marks=[pytest.mark.campaign, pytest.mark.timeout(1800)]),
    ],
    ids=["100", "2048"],
)
def test_memory_stays_flat_over_a_large_output(tmp_path: Path, size: int, kind: str) -> None:
    blocks = -(-size // len(BLOCK))
    done = subprocess.run(
        [sys.executable, "-c", FLAT, tmp_path / "talk.txt", str(blocks), kind],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    expected = BLOCK if kind == "copied" else (TEXT + b"\n\n") * 2000
    digest = hashlib.sha256()
    for _ in range(blocks - 1):
        digest.update(expected)
    # A fence of the next block is not there, so a blank line is between the two; not at the end.
    digest.update(expected if kind == "copied" else expected[:-1])
    size_bytes, words, sha256, growth = done.stdout.split()
    assert sha256 == digest.hexdigest()
    assert int(size_bytes) == len(expected) * blocks - (kind != "copied")
    assert int(words) == len(expected.split()) * blocks
    assert int(growth) < 10 * MIB
