"""The benchmark runs and says what it found in the promised form; no time is asserted."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import record
from bench.case import OURS, Case, Contender, Goal, Scale
from bench.cases import all_cases
from bench.host import Host, MissingError
from bench.run import main, rows_of
from bench.table import markdown

ROOT = Path(__file__).parents[1]
KEYS = {"case", "unit", "ours", "peers", "limit", "ratio", "goal", "met"}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m bench`."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def measured(tmp_path: Path, *cases: str) -> list[dict[str, Any]]:
    """Run cases quickly, once but for the run that does not count; return the rows."""
    file = tmp_path / "rows.json"
    chosen = [argument for case in cases for argument in ("--case", case)]
    where = ("--json", os.fspath(file), "--dir", os.fspath(tmp_path))
    done = bench("--quick", "--once", *where, *chosen)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(file.read_text())
    assert rows
    for row in rows:
        assert row.keys() >= KEYS
        assert row["case"] in done.stdout
        assert row["ours"] is not None, done.stderr
    return rows


def test_a_quick_case_prints_a_table_and_writes_rows(tmp_path: Path) -> None:
    rows = measured(tmp_path, "latency-1")
    assert [row["case"] for row in rows] == ["latency-1 / ProcessPoolExecutor"]
    (row,) = rows
    assert row["unit"] == "us"
    assert row["peers"]["ProcessPoolExecutor"] > 0
    assert row["ratio"] == pytest.approx(
        row["ours"] / row["peers"]["ProcessPoolExecutor"], rel=0.01
    )
    assert row["met"] is (row["ratio"] <= row["goal"])


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("fresh", marks=pytest.mark.slow),
        pytest.param("resident", marks=pytest.mark.campaign),
    ],
)
def test_chunks_are_collected_by_everybody(tmp_path: Path, target: str) -> None:
    rows = measured(tmp_path, f"chunks-{target}-1")
    assert [row["case"].partition(" / ")[2] for row in rows] == ["direct", "C splice", "Queue"]
    assert all(row["limit"] > 0 and row["peers"]["Queue"] > 0 for row in rows)
    assert all(row["spread"]["direct"][0] <= row["limit"] for row in rows)


@pytest.mark.slow
def test_memory_is_told_by_role(tmp_path: Path) -> None:
    rows = measured(tmp_path, "memory-one-output")
    assert [row["case"].split()[1] for row in rows] == ["worker", "sink", "parent"]
    assert [row["limit"] for row in rows] == [2.0, 4.0, 2.0]


@pytest.mark.slow
def test_followers_and_bars_are_measured(tmp_path: Path) -> None:
    rows = measured(tmp_path, "follow-alone", "bars")
    assert [row["case"] for row in rows] == [
        "follow-alone median",
        "follow-alone longest",
        "bars / no bars",
    ]
    assert 0 < rows[0]["ours"] <= rows[1]["ours"]


def test_every_row_of_the_goals_has_a_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    named = {
        re.sub(r"-(fresh|resident|imported|own|alone|busy|\d+)(?!\w)", "", name)
        for name in capsys.readouterr().out.split()
    }
    assert named >= {
        "chunks",
        "core-seconds-64k",
        "direct-writers-64k",
        "direct-writers-1m",
        "subprocess",
        "small-chunks",
        "big-outputs",
        "tiny-jobs",
        "latency",
        "follow",
        "bars",
        "start-up",
        "memory-one-output",
        "memory-many-outputs",
        "memory-queued-job",
        "memory-saved-outputs",
        "start-up-orphans",
        "reclaiming",
    }


def test_an_unknown_case_is_a_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--case", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_every_contender_can_be_found() -> None:
    for scale in (Scale(quick=True, repetitions=5), Scale(quick=False, repetitions=7)):
        for case in all_cases(scale):
            assert OURS in case.contenders
            assert case.limit in {"", *case.contenders}
            assert {goal.against for goal in case.goals} <= {"", *case.contenders}
            for contender in case.contenders.values():
                module, _, function = contender.function.partition(":")
                source = ROOT / f"{module.replace('.', '/')}.py"
                assert f"def {function}(" in source.read_text()


def test_a_goal_is_met_in_its_own_direction() -> None:
    contenders = {name: Contender("", {}) for name in (OURS, "other", "best")}
    figures = {OURS: {"": [8.0, 9.0, 7.0]}, "other": {"": [2.0]}, "best": {"": [10.0]}}
    goals = (Goal("other", 3), Goal("best", 0.9), Goal("absent", 1))
    case = Case("x", "GB/s", contenders, limit="best", goals=goals)
    faster, slower, unknown = rows_of(case, figures)
    assert (faster["ratio"], faster["met"], faster["limit"]) == (4.0, True, 10.0)
    assert (slower["ratio"], slower["met"], slower["peers"]) == (0.8, False, {"other": 2.0})
    assert (unknown["ratio"], unknown["met"]) == (None, None)
    less = Case("x", "MiB", contenders, goals=(Goal("", 10), Goal("", 5)), less_is_better=True)
    below, above = rows_of(less, figures)
    assert (below["ratio"], below["limit"], below["goal"], below["met"]) == (0.8, 10, 1.0, True)
    assert above["met"] is False
    assert markdown([below]).splitlines()[-1] == (
        "| x | MiB | 8 | other 2, best 10 | 10 | 0.8 | 1 | yes |"
    )


def test_the_readme_has_the_figures_that_are_kept() -> None:
    assert record.readme() in (ROOT / "README.md").read_text("utf-8")


def test_a_contender_that_cannot_run_is_left_out(tmp_path: Path) -> None:
    host = Host(Contender("bench.nothing_of_that_name:measure", {}), os.fspath(tmp_path))
    try:
        with pytest.raises(MissingError, match="nothing_of_that_name"):
            host.measure()
    finally:
        host.close()
