"""How much memory a growing output and its readers take, measured in a process of their own."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from collector.settings import MIB

pytestmark = pytest.mark.timeout(900)  # gigabytes and millions, on a machine that others use too

PROLOGUE = """
    import hashlib, os, sys
    from collector.store.output.progress import Mode
    from collector.store.spill import SpillManager

    def peak():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if "VmHWM" in line)

    def manager():
        return SpillManager(temp_root=sys.argv[1])

    with manager() as small:  # everything is loaded and the run directory made
        small.write(b"x")
        small.spill()
        small.finalize().read()
"""


def growth(script: str, root: Path) -> int:
    """Bytes by which the peak of a process grew while `script` ran."""
    whole = "\n".join(
        [
            textwrap.dedent(PROLOGUE),
            "def main():",
            textwrap.indent(textwrap.dedent(script), "    "),
            "before = peak()",
            "main()",
            "print(peak() - before)",
        ]
    )
    command = [sys.executable, "-W", "error", "-c", whole, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=880, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return int(done.stdout)


WRITE = """
    chunk = bytes(range(256)) * {step_kib} * 4
    size = {size_mib} * 1024 * 1024
    digest = hashlib.sha256()
    with manager() as growing:
        for _ in range(size // len(chunk)):
            growing.write(chunk)
            digest.update(chunk)
        with growing.finalize() as output:
            assert (output.size, output.mode) == (size, Mode.STREAMING)
            found = hashlib.sha256()
            for block in output:
                found.update(block)
            assert found.digest() == digest.digest()
"""


@pytest.mark.parametrize(
    ("size_mib", "step_kib"),
    [
        *(pytest.param(100, step_kib, marks=pytest.mark.slow) for step_kib in (1, 64)),
        pytest.param(2048, 1024, marks=pytest.mark.campaign),
    ],
)
def test_large_outputs_take_less_than_ten_megabytes(
    size_mib: int, step_kib: int, tmp_path: Path
) -> None:
    script = WRITE.format(size_mib=size_mib, step_kib=step_kib)
    assert growth(script, tmp_path / "root") < 10_000_000


@pytest.mark.slow
def test_ten_million_chunks_of_one_byte_take_less_than_ten_megabytes(tmp_path: Path) -> None:
    script = """
        with manager() as growing:
            write = growing.write
            for _ in range(10_000_000):
                write(b"x")
            with growing.finalize() as output:
                assert (output.size, output.chunks) == (10_000_000, 10_000_000)
                assert all(not block.strip(b"x") for block in output)
    """
    assert growth(script, tmp_path / "root") < 10_000_000


@pytest.mark.slow
def test_one_large_chunk_is_not_copied(tmp_path: Path) -> None:
    script = """
        global before
        chunk = b"x" * 100_000_000
        before = peak()
        with manager() as growing:
            growing.write(b"held")
            growing.write(chunk)
            growing.write_joined(memoryview(chunk)[1:], 3)
            with growing.finalize() as output:
                assert output.size == 4 + 199_999_999
    """
    assert growth(script, tmp_path / "root") < MIB


def test_renaming_copying_and_reading_lines_is_flat(tmp_path: Path) -> None:
    script = """
        with manager() as growing:
            for number in range(100):
                growing.write(b"%02d" % number + b"y" * 999_998 + b"\\n")
            output = growing.finalize()
        before = output.path
        copy = output.save(sys.argv[1] + "/../saved")
        output.save(sys.argv[1] + "/../copied")
        assert [line[:2] for line in output.lines()] == ["%02d" % n for n in range(100)]
        assert not before.exists() and copy.stat().st_size == output.size
    """
    assert growth(script, tmp_path / "root") < 10_000_000
