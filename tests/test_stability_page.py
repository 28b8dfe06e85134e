"""What the page on stability promises, held against the last release: names, errors, formats."""

import inspect
import json
import subprocess
import sys
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Final

import pytest

import collector
from collector import BatchError, Collector, list_runs, reclaim
from collector.settings import VERSION
from tests.support import since
from tests.test_docs import DOCS, ROOT

BUILT_IN: Final = {
    "BatchError": OSError,
    "BrokenCollectorError": BrokenProcessPool,
    "ClosedError": ValueError,
    "JobTimeoutError": TimeoutError,
    "OutputLostError": OSError,
    "RunDirectoryError": OSError,
    "SpillError": OSError,
    "WorkerCrashError": BrokenProcessPool,
}


def changelog() -> str:
    return (DOCS / "changelog.md").read_text("utf-8")


def test_no_parameter_of_a_release_is_gone_without_a_word() -> None:
    now = since.names_now()
    gone = {
        f"{name}({parameter}=)"
        for names in since.released().values()
        for name, parameters in names.items()
        for parameter in parameters
        if name in now and parameter not in now[name]
    }
    unnamed = {one for one in gone if one.rpartition("(")[2].strip("=)") not in changelog()}
    assert unnamed == set()


def test_the_parameters_of_the_standard_executor_come_first_and_in_its_order() -> None:
    ours = inspect.signature(Collector).parameters
    standard = [*inspect.signature(ProcessPoolExecutor).parameters][:4]
    assert [*ours][:4] == standard
    assert {ours[name].kind for name in standard} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in [*ours][4:])
    assert issubclass(Collector, Executor)
    assert issubclass(collector.Job, Future)


@pytest.mark.parametrize(("name", "base"), BUILT_IN.items())
def test_an_error_is_the_built_in_one_too(name: str, base: type[Exception]) -> None:
    assert issubclass(getattr(collector, name), base)


@pytest.mark.parametrize("module", ["gemini", "postprocess"])
def test_an_integration_says_what_it_promises(module: str) -> None:
    line = f"from collector.integrations import {module} as m; print(*m.__all__)"
    names = subprocess.check_output([sys.executable, "-c", line], cwd=ROOT, text=True).split()
    assert names
    assert not any(name.startswith("_") for name in names)


# -- formats ---------------------------------------------------------------------------------------


def test_what_version_0_1_0_has_left_is_reclaimed(tmp_path: Path) -> None:
    """As a real one was: its names, and what it said of itself."""
    root = tmp_path / "root"
    run = root / "run-084373a1e924adcb"
    run.mkdir(mode=0o700, parents=True)
    root.chmod(0o700)
    (run / "lock").touch(mode=0o600)
    (run / "streaming-output-b0988662b1422e32.spill").write_bytes(bytes(1000))
    (run / "scratch-55d6606800000003").mkdir(mode=0o700)
    said = {"pid": 4194304, "started": 1795915673.5, "host": "h", "command": "c"}
    (run / "owner.json").write_text(json.dumps(said | {"version": "0.1.0"}))
    (found,) = list_runs([root])
    assert found.state == "stale"
    assert len(reclaim([root]).as_json()["reclaimed"]) == 1
    assert [*root.iterdir()] == []


def test_a_batch_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    batch = tmp_path / "batch"
    with Collector(1, progress=False) as made:
        assert len(list(made.collect(str.upper, ["a"], batch=batch))) == 1
        facts = json.loads((batch / "batch.json").read_text())
        assert (facts["format"], facts["version"]) == (1, VERSION)
        (batch / "batch.json").write_text(json.dumps(facts | {"format": 2}))
        with pytest.raises(BatchError, match="format 2"):
            list(made.collect(str.upper, ["a"], batch=batch))


# -- Python ----------------------------------------------------------------------------------------


def test_the_first_python_of_the_page_is_that_of_the_metadata() -> None:
    page = (DOCS / "stability.md").read_text()
    metadata = (ROOT / "pyproject.toml").read_text()
    assert "CPython from 3.11 on" in page
    assert 'requires-python = ">=3.11"' in metadata
