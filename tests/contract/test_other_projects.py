"""What other projects do with an executor, done with a Collector."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from dask.delayed import delayed
from tqdm import tqdm
from tqdm.contrib.concurrent import process_map

from collector import Collector, Job, WorkerCrashError
from tests.support.jobs import begun_then_wait, echo, fail, kept_busy, pid, square, wait_for
from tests.support.leaks import is_running, wait_until
from tests.support.person import ROOT
from tests.support.tiers import each_method, everyday_are

pytestmark = pytest.mark.usefixtures("one_server")

PAGE = ROOT / "docs" / "how-to" / "joblib-and-dask.md"
LONGEST_BACKEND_LINES = 60


# -- the page --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_examples_of_the_page_run_as_they_are_printed(tmp_path: Path) -> None:
    text = PAGE.read_text()
    scripts = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    shown = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (backend,) = [script for script in scripts if "register_parallel_backend" in script]
    assert len(backend.splitlines()) <= LONGEST_BACKEND_LINES
    (tmp_path / "collector_backend.py").write_text(backend)
    scripts.remove(backend)
    for script, printed in zip(scripts, shown, strict=True):
        (tmp_path / "script.py").write_text(script)
        done = subprocess.run(
            [sys.executable, "script.py"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == printed


# -- dask ------------------------------------------------------------------------------------------


@each_method
@pytest.mark.parametrize("way", everyday_are(["scheduler"], of=["scheduler", "pool"]))
def test_dask_runs_a_graph(method: str, way: str) -> None:
    with Collector(2, method) as collector:
        numbers = [delayed(square)(number) for number in range(6)]
        end = delayed(sum)(numbers)
        if way == "scheduler":
            assert end.compute(scheduler=collector) == 55
        else:
            assert end.compute(scheduler="processes", pool=collector) == 55


@pytest.mark.slow
def test_dask_hears_of_a_task_that_raises_and_of_one_that_dies() -> None:
    with Collector(2) as collector:
        with pytest.raises(ValueError, match="a task"):
            delayed(fail)(ValueError("a task")).compute(scheduler=collector)
        with pytest.raises(WorkerCrashError):
            delayed(os._exit)(3).compute(scheduler=collector)
        assert delayed(square)(3).compute(scheduler=collector) == 9


# -- tqdm ------------------------------------------------------------------------------------------


class Bar(tqdm):  # type: ignore[type-arg]
    """A bar without a thread that looks after it."""

    monitor_interval = 0


def test_process_map_of_tqdm_runs_on_a_collector(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its initializer gives each worker the lock of its bars, which is made for a fork."""
    pool = partial(Collector, progress=False, mp_context="fork")
    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", pool)
    run = partial(process_map, tqdm_class=Bar, max_workers=2)
    assert run(square, range(20), chunksize=3) == [number * number for number in range(20)]
    assert run(pow, [1, 2, 3], [4, 5]) == [1, 32]
    with pytest.raises(ValueError, match="a job"):
        run(fail, [ValueError("a job")])
    assert "/20 [" in capfd.readouterr().err


# -- anyio: what its own process pool does ---------------------------------------------------------


async def in_a_worker(collector: Collector, fn: Callable[..., Any], *args: Any) -> Any:
    """As `anyio.to_process.run_sync(..., cancellable=True)`: who is cancelled ends the job."""
    job: Job[Any] = collector.submit(fn, *args)
    try:
        return await anyio.to_thread.run_sync(job.result, abandon_on_cancel=True)
    except anyio.get_cancelled_exc_class():
        job.kill()
        raise


@each_method
def test_in_anyio_a_worker_is_used_again(method: str) -> None:
    async def main(collector: Collector) -> None:
        first = await in_a_worker(collector, pid)
        assert first not in (os.getpid(), None)
        assert await in_a_worker(collector, pid) == first

    with Collector(1, method) as collector:
        anyio.run(main, collector)


def test_in_anyio_partials_and_exceptions_travel() -> None:
    async def main(collector: Collector) -> None:
        assert await in_a_worker(collector, partial(pow, 2), 10) == 1024
        with pytest.raises(ValueError, match="of the worker"):
            await in_a_worker(collector, fail, ValueError("of the worker"))
        assert await in_a_worker(collector, echo, sys.path) == sys.path

    with Collector(1) as collector:
        anyio.run(main, collector)


def test_in_anyio_a_job_that_is_cancelled_before_it_begins_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    async def main(collector: Collector) -> None:
        with anyio.move_on_after(0):
            await in_a_worker(collector, Path.touch, mark)

    with Collector(1) as collector, kept_busy(collector, 1, tmp_path):
        anyio.run(main, collector)
    assert not mark.exists()


def test_in_anyio_a_job_that_is_cancelled_ends_with_its_worker(tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    async def main(collector: Collector) -> int:
        worker: int = await in_a_worker(collector, pid)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                in_a_worker, collector, begun_then_wait, str(begun), f"{tmp_path}/never"
            )
            await anyio.to_thread.run_sync(wait_for, begun)
            tasks.cancel_scope.cancel()
        assert await in_a_worker(collector, pid) != worker
        return worker

    with Collector(1) as collector:
        worker = anyio.run(main, collector)
        assert wait_until(lambda: not is_running(worker))
