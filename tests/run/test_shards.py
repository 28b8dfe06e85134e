"""`collector run --shard`: several runs have a part each of one batch directory."""

import os
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from collector import Batch
from tests.support.running import RUN, run

pytestmark = pytest.mark.slow

INPUTS = ["a", "b", "a b", "-n", "$(id)", "a", "", "(x", "ü", "a", *map(str, range(40))]


def shard(where: Path, text: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = "printf '%s-%s\\0' {#} {}"
    stdin = b"\0".join(map(os.fsencode, INPUTS)) + b"\0"
    return run("-0", "-k", "-o", "B", "--shard", text, *words, command, stdin=stdin, where=where)


def printed(ended: subprocess.CompletedProcess[bytes]) -> list[str]:
    assert ended.returncode == 0, ended
    return os.fsdecode(ended.stdout).split("\0")[:-1]


def test_shards_at_once_run_each_input_once_under_the_number_it_has_among_all(
    tmp_path: Path,
) -> None:
    with ThreadPoolExecutor() as threads:
        parts = [
            printed(ended)
            for ended in threads.map(lambda part: shard(tmp_path, f"{part}/4"), range(1, 5))
        ]
    for part in parts:
        numbers = [int(line.partition("-")[0]) for line in part]
        assert numbers == sorted(numbers)  # -k, though others have those between
    wanted = sorted(f"{number}-{text}" for number, text in enumerate(INPUTS, 1))
    assert sorted(line for part in parts for line in part) == wanted
    assert sum(map(bool, parts)) > 1
    with Batch.open(tmp_path / "B") as batch:
        assert batch.verify() == []
        assert [len(record.attempts) for record in batch] == [1] * len(INPUTS)
    again = shard(tmp_path, "1/1", "--show", "all")
    assert sorted(printed(again)) == wanted
    with Batch.open(tmp_path / "B") as batch:
        assert [len(record.attempts) for record in batch] == [1] * len(INPUTS)


def test_the_numbers_come_from_the_environment_where_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLECTOR_SHARD", "2/3")
    second = printed(shard(tmp_path, "env"))
    for name, value in {"ID": 4, "MIN": 0, "MAX": 4, "STEP": 2, "COUNT": 3}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    third = printed(shard(tmp_path, "slurm"))
    assert {path.name for path in tmp_path.glob("B/shard-*")} == {"shard-2of3", "shard-3of3"}
    first = printed(shard(tmp_path, "1/3"))
    assert len(first) + len(second) + len(third) == len(INPUTS)


def test_a_rehearsal_shows_the_jobs_of_the_shard_and_why_they_run(tmp_path: Path) -> None:
    line = ["-o", "B", "--shard", "2/3", "echo {#}:{}", ":::", *INPUTS[-10:], "5", "5"]
    before = run("--dry-run", *line, where=tmp_path).stdout.decode().splitlines()
    assert not (tmp_path / "B").exists()
    ran = run("-k", *line, where=tmp_path).stdout.decode().splitlines()
    assert [text.partition("  # ")[0] for text in before] == [f"echo {text}" for text in ran]
    assert 0 < len(ran) < 12
    after = run("--dry-run", *line, where=tmp_path).stdout.decode().splitlines()
    assert all("does not run" in text for text in after)


def test_a_failed_part_is_continued_by_the_line_that_is_printed(tmp_path: Path) -> None:
    line = ["-k", "-o", "B", "--shard", "1/2", "[ -e ok ] && echo {}", ":::", *INPUTS[-10:]]
    ended = run(*line, where=tmp_path, quiet=False)
    assert 0 < ended.returncode < 10
    assert b"collector run --retry B --shard 1/2" in ended.stderr
    (tmp_path / "ok").touch()
    again = run("--retry", "B", "--shard", "1/2", where=tmp_path)
    assert (again.returncode, len(again.stdout.splitlines())) == (0, ended.returncode)
    assert not (tmp_path / "B" / "shard-2of2").exists()


def test_no_input_is_taken_for_empty_that_only_a_missing_shard_knows(tmp_path: Path) -> None:
    inputs = ["", "", *"abcdefgh", ""]
    command = ["echo '<'{}'>'", ":::"]
    part = run("-o", "B", "--shard", "1/2", *command, *inputs, where=tmp_path).stdout
    assert any(b"<%c>" % text in part for text in b"abcdefgh")
    run("-o", "B", *command, "new", *inputs, where=tmp_path)
    shutil.copytree(tmp_path / "B", tmp_path / "C")
    again = run("-k", "--retry", "C", "--resume", "all", where=tmp_path).stdout.decode().split()
    assert again == [f"<{text}>" for text in ["new", *inputs]]
    shutil.rmtree(tmp_path / "B" / "shard-1of2")
    before = (tmp_path / "B" / "shard-0" / "journal.jsonl").read_bytes()
    for more in ([], ["--dry-run"]):
        ended = run("--retry", "B", *more, where=tmp_path)
        assert (ended.returncode, ended.stdout) == (255, b"")
        assert b"put its shard back" in ended.stderr
    assert (tmp_path / "B" / "shard-0" / "journal.jsonl").read_bytes() == before
    whole = run("-k", "-o", "B", *command, "new", *inputs, where=tmp_path).stdout.decode().split()
    assert whole == again


def test_a_share_of_the_jobs_is_one_of_the_shard(tmp_path: Path) -> None:
    line = ["-o", "B", "--shard", "1/2", "exit 3; : {}", ":::", *map(str, range(40))]
    count = len(run("--dry-run", *line, where=tmp_path).stdout.splitlines())
    ended = run("-j", "1", "--halt", "now,fail=50%", *line, where=tmp_path)
    assert ended.returncode == round(100 * ((count + 1) // 2) / count)  # as GNU parallel
    with Batch.open(tmp_path / "B") as batch:
        failed = [record for record in batch if record.status == "failed"]
        assert len(failed) == (count + 1) // 2 < 20


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--shard", "1/2"], b"name that with -o DIR"),
        (["-o", "B", "--shard", "3/2"], b"from 1 to n; it is '3/2'"),
        (["-o", "B", "--shard", "env"], b"$COLLECTOR_SHARD, which is not set"),
        (["-o", "B", "--shard", "slurm"], b"sbatch --array=1-8"),
    ],
)
def test_what_is_no_shard_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: bytes
) -> None:
    monkeypatch.delenv("COLLECTOR_SHARD", raising=False)
    ended = run(*words, "touch ran; : {}", ":::", "a", where=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert says in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_same_shard_is_not_run_twice_at_once(tmp_path: Path) -> None:
    inner = shlex.join([*RUN, "--retry", "B", "--shard", "1/1"])
    ended = run("-o", "B", "--shard", "1/1", f": {{}}; {inner}", ":::", "a", where=tmp_path)
    assert ended.returncode == 1
    with Batch.open(tmp_path / "B") as batch:
        (record,) = batch
        assert record.log().text().count("writes into it") == 1


def test_what_a_part_has_left_is_retried_as_it_was_though_others_have_never_run(
    tmp_path: Path,
) -> None:
    line = ["-k", "-o", "B", "echo {#}:{}; [ -e ok ]", ":::", *"ababacabad"]
    ended = run("--shard", "2/2", *line, where=tmp_path)
    lines = ended.stdout.splitlines()
    assert 0 < ended.returncode == len(lines) < 10
    assert ended.returncode < int(lines[-1].partition(b":")[0])  # the other part has some of these
    rehearsed = run("--dry-run", "--retry", "B", where=tmp_path).stdout.splitlines()
    assert [text.partition(b";")[0] for text in rehearsed] == [b"echo " + text for text in lines]
    assert all(b"runs: attempt 1 failed" in text for text in rehearsed)
    (tmp_path / "ok").touch()
    retried = ["--retry", "B", "--shard", "2/2"]
    again = run("-k", "--halt", "soon,fail=50%", *retried, where=tmp_path)
    assert (again.returncode, again.stdout) == (0, ended.stdout)
    with Batch.open(tmp_path / "B") as batch:
        assert [len(record.attempts) for record in batch] == [2] * len(lines)
        assert [record.seq + 1 for record in batch] == [
            int(line.partition(b":")[0]) for line in lines
        ]
    run("--shard", "1/2", *line, where=tmp_path)
    with Batch.open(tmp_path / "B") as batch:
        assert "".join(record.input for record in batch) == "ababacabad"
