"""Which program the processes of a Collector are, what it is told, and what it is called."""

import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest

from collector import Collector
from collector.process.start.child import NAMES
from tests.support.inside import server_pid, sink_pid, worker_pids
from tests.support.jobs import METHODS, square
from tests.support.leaks import wait_until
from tests.support.tiers import each_method
from tests.support.tree import ROOT

WITHOUT_PIDFDS: Final = "the default one without pidfds"
_others = [pytest.param(name, marks=pytest.mark.slow) for name in METHODS[1:]]
_without_pidfds = pytest.param(WITHOUT_PIDFDS, marks=pytest.mark.slow)
each_way = pytest.mark.parametrize("method", [METHODS[0], *_others, _without_pidfds])
each_that_starts_python = pytest.mark.parametrize("method", [METHODS[0], _others[0]])

BEGIN: Final = f"""
import errno, os, sys
from collector import BrokenCollectorError, Collector
method = sys.argv[1]
if method == {WITHOUT_PIDFDS!r}:
    method = None
    del os.pidfd_open
def outcome_of(collector, *call):
    try:  # one that is broken by now refuses the job: sooner or later, both are right
        job = collector.submit(*call)
    except BrokenCollectorError as error:
        return error
    return job.exception() or job.result()
"""


def run(
    source: str, *arguments: str, flags: tuple[str, ...] = (), **how: Any
) -> "subprocess.CompletedProcess[str]":
    """Run a script to its end."""
    how.setdefault("env", os.environ | {"PYTHONPATH": os.fspath(ROOT)})
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "script.py"
        file.write_text(source)
        command = [sys.executable, *flags, os.fspath(file), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, **how
        )


def said(result: "subprocess.CompletedProcess[str]") -> list[str]:
    """What a script printed that ended well and silently."""
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


def program_file(path: Path, source: str) -> str:
    """Make a program; returns its path."""
    path.write_text(source)
    path.chmod(0o755)
    return os.fspath(path)


def counting(path: Path, then: str) -> tuple[str, Path]:
    """Make a program that notes each of its starts in a file, and does something then."""
    starts = path.with_suffix(".starts")
    starts.touch()
    return program_file(path, f"#!/bin/sh\necho started >> {starts}\n{then}\n"), starts


# -- what it is called -----------------------------------------------------------------------------


@each_method
def test_server_sink_and_workers_are_told_apart_in_lists_of_processes(method: str) -> None:
    with Collector(2, method, progress=False) as collector:
        assert list(collector.map(square, range(4))) == [0, 1, 4, 9]
        pids: dict[str, list[int | None]]
        pids = {
            "collector-sink": [sink_pid(collector)],
            "collector-worker": [*worker_pids(collector)],
        }
        if method == "forkserver":
            pids["collector-server"] = [server_pid(collector)]
        for name, those in pids.items():
            for pid in those:
                comm = Path(f"/proc/{pid}/comm")  # one that has just started takes its name soon
                assert wait_until(lambda: comm.read_text() == f"{name[:15]}\n")  # noqa: B023
                if method != "fork":  # that one is a copy of this program
                    line = Path(f"/proc/{pid}/cmdline").read_bytes()
                    assert line.split(b"-c\0")[1].startswith(f"'{name}'; ".encode())
                    assert len(line) < 400
                    shown = subprocess.check_output(["ps", "-ww", "-o", "args=", "-p", str(pid)])
                    assert [n for n in NAMES if n in shown.decode()] == [name]


# -- which program it is ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "library", ["multiprocessing", pytest.param("multiprocess", marks=pytest.mark.slow)]
)
@each_that_starts_python
def test_the_executable_that_either_library_was_told_is_the_one(
    method: str, library: str, tmp_path: Path
) -> None:
    python, starts = counting(tmp_path / "python", f'exec {sys.executable} "$@"')
    source = f"""{BEGIN}
import {library}
{library}.set_executable(sys.argv[2])
with Collector(1, method) as collector:
    print(collector.submit(pow, 3, 2).result())
"""
    assert said(run(source, method, python)) == ["9"]
    assert starts.read_text()


NO_PYTHON: Final = {
    "none": ("None", "there is no Python to start processes with: sys.executable is None"),
    "empty": ("''", "there is no Python to start processes with: sys.executable is ''"),
    "gone": ("'/no/such/python'", "cannot start '/no/such/python'"),
    "a directory": ("'/'", "cannot start '/'"),
    "not executable": ("__file__", "cannot start '"),
    "true": ("'/bin/true'", "'/bin/true' is to start new processes and is no Python 3."),
    "cat": ("'/bin/cat'", "'/bin/cat' is to start new processes and is no Python 3."),
}


@pytest.mark.parametrize("case", NO_PYTHON)
@each_method
def test_what_is_no_python_is_refused_before_anything_is_started(method: str, case: str) -> None:
    value, says = NO_PYTHON[case]
    source = f"""{BEGIN}
sys.executable = {value}
try:
    with Collector(1, method) as collector:
        print(collector.submit(pow, 3, 2).result())
except OSError as error:
    print(error)
"""
    (line,) = said(run(source, method))
    if method == "fork":  # which starts no program
        assert line == "9"
    else:
        assert says in line
        assert "multiprocessing.set_executable" in line
        assert "mp_context='fork'" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "then", ["while :; do echo y; done", "exec sleep 1000", "echo cpython-27", "kill -9 $$"]
)
@each_that_starts_python
def test_another_program_is_started_once_and_never_waited_for_without_end(
    method: str, then: str, tmp_path: Path
) -> None:
    other, starts = counting(tmp_path / "other", then)
    source = f"""{BEGIN}
import multiprocessing
from collector import settings
settings.PROOF_S = 2
multiprocessing.set_executable(sys.argv[2])
try:
    Collector(1, method)
except OSError as error:
    assert error.errno == errno.ENOEXEC
    print(error)
"""
    (line,) = said(run(source, method, other))
    assert f"{other!r} is to start new processes and is no Python" in line
    assert starts.read_text() == "started\n"


@each_that_starts_python
def test_an_executable_that_goes_away_later_breaks_the_collector_at_once(
    method: str, tmp_path: Path
) -> None:
    python, _ = counting(tmp_path / "python", f'exec {sys.executable} "$@"')
    source = f"""{BEGIN}
import multiprocessing, signal
from tests.support.jobs import kill_self
multiprocessing.set_executable(sys.argv[2])
with Collector(1, method) as collector:
    assert collector.submit(pow, 3, 2).result() == 9
    os.unlink(sys.argv[2])
    if method == "forkserver":
        from tests.support.inside import server_pid
        from tests.support.tree import kill
        kill(server_pid(collector))
    collector.submit(kill_self).exception()
    print(outcome_of(collector, pow, 3, 2))
"""
    (line,) = said(run(source, method, python))
    assert f"no worker can be started: [Errno 2] cannot start {python!r}" in line


@pytest.mark.parametrize(
    "context",
    [
        pytest.param("'forkserver'", marks=pytest.mark.slow),
        pytest.param("'spawn'", marks=pytest.mark.slow),
        "get_context('spawn')",
    ],
)
def test_a_frozen_program_never_starts_itself(context: str, tmp_path: Path) -> None:
    itself, starts = counting(tmp_path / "program", "")
    source = f"""
import os, sys
from multiprocessing import get_context
from collector import Collector
from collector.process.start.child import NAMES
sys.frozen, sys.executable = True, sys.argv[1]
try:
    Collector(1, {context})
except ValueError as error:
    print(error)
for method in (None, "fork", get_context("fork")):
    with Collector(1, method) as collector:
        print(collector.submit(lambda: 9).result())
del os.pidfd_open
with Collector(1) as collector:
    print(collector.submit(lambda: 9).result())
"""
    refusal, *results = said(run(source, itself))
    assert refusal.startswith("mp_context must be 'fork' in a frozen program (sys.frozen), not ")
    assert results == ["9"] * 4
    assert starts.read_text() == ""


# -- what it is told -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("size", [125_000, 1_000_000])
@each_way
def test_an_import_path_may_be_longer_than_a_command_line(method: str, size: int) -> None:
    source = f"""{BEGIN}
sys.path += ["/not/there/" + str(n) * 100 for n in range({size // 500})] + ["/last" * 200]
assert sum(map(len, sys.path)) > {size} / 2, sum(map(len, sys.path))
def path():
    return sys.path
with Collector(1, method) as collector:
    print(collector.submit(path).result() == sys.path)
"""
    source = source.replace(f"range({size // 500})", f"range({size // 300})")
    assert said(run(source, method)) == ["True"]


@each_way
def test_a_variable_that_no_program_can_be_started_with_is_named(method: str) -> None:
    source = f"""{BEGIN}
os.environ["FAR_TOO_LONG"] = "x" * 200_000
try:
    with Collector(1, method) as collector:
        print(collector.submit(len, os.environ["FAR_TOO_LONG"]).result())
except OSError as error:
    assert error.errno == errno.E2BIG
    print(error)
"""
    (line,) = said(run(source, method))
    if method == "fork":
        assert line == "200000"
    else:
        assert "the environment variable FAR_TOO_LONG has 200014 bytes" in line
        assert "one of more than 131072" in line


@each_that_starts_python
def test_an_environment_that_is_too_large_as_a_whole_names_its_largest_variable(
    method: str,
) -> None:
    source = f"""{BEGIN}
os.environ.update({{f"PART_{{n}}": "x" * 100_000 for n in range(80)}})
os.environ["LARGEST"] = "x" * 120_000
try:
    Collector(1, method)
except OSError as error:
    assert error.errno == errno.E2BIG
    print(error)
"""
    (line,) = said(run(source, method))
    assert "the environment variable LARGEST has 120009 bytes" in line
    assert "starts no program with an environment of more than" in line


@each_method
def test_a_variable_that_grows_too_long_later_costs_spawned_workers_alone(method: str) -> None:
    source = f"""{BEGIN}
def length():
    return len(os.environ["FAR_TOO_LONG"])
with Collector(1, method) as collector:
    os.environ["FAR_TOO_LONG"] = "x" * 200_000
    print(outcome_of(collector, length))
"""
    (line,) = said(run(source, method))
    if method == "spawn":
        assert "the environment variable FAR_TOO_LONG has 200014 bytes" in line
    else:  # forked, and told by a server that is there already
        assert line == "200000"


def site_packages() -> str:
    return sysconfig.get_path("purelib")


@each_way
def test_what_is_on_the_import_path_since_the_program_runs_is_found(method: str) -> None:
    source = f"""
import sys
sys.path += [{os.fspath(ROOT)!r}, {site_packages()!r}]
{BEGIN}
def job():
    import multiprocess
    return multiprocess.current_process().daemon
with Collector(1, method) as collector:
    print(collector.submit(job).result())
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    assert said(run(source, method, flags=("-S",), env=environment)) == ["False"]


@each_way
def test_what_has_left_the_import_path_is_found_nevertheless(method: str) -> None:
    source = f"""
import sys
before = [*sys.path]
sys.path += [{os.fspath(ROOT)!r}, {site_packages()!r}]
{BEGIN}
import filelock, multiprocess
sys.path[:] = before
with Collector(1, method) as collector:
    print(collector.submit(pow, 3, 2).result())
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    assert said(run(source, method, flags=("-S",), env=environment)) == ["9"]


@each_way
def test_sink_and_worker_load_late_what_a_changed_directory_hides(
    method: str, tmp_path: Path
) -> None:
    """As a daemon does that brings its packages along, and leaves for the root directory."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("multiprocess", "_multiprocess", "dill", "cloudpickle", "filelock"):
        (packages / name).symlink_to(Path(site_packages()) / name)
    (packages / "collector").symlink_to(ROOT / "collector")
    source = f"""
import signal, sys
sys.path.append("packages")
{BEGIN}
os.chdir("/")
def make():
    return lambda: 7
collector = Collector(1, method, temp_root=sys.argv[2])
print(collector.submit(make).result()(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    root = tmp_path / "root"
    done = run(source, method, os.fspath(root), flags=("-S",), env=environment, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGKILL, "7\n", "")
    assert wait_until(lambda: not any(root.iterdir())), "the sink has not removed it"


@pytest.mark.parametrize(
    "method",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS[:2]),
        *(
            pytest.param(name, marks=pytest.mark.campaign)
            for name in (*METHODS[2:], WITHOUT_PIDFDS)
        ),
    ],
)
def test_a_zipapp_that_brings_everything_along_runs(method: str, tmp_path: Path) -> None:
    app = tmp_path / "app.pyz"
    source = f"""{BEGIN}
if __name__ == "__main__":
    with Collector(1, method) as collector:
        print(collector.submit(lambda: 9).result())
"""
    with zipfile.ZipFile(app, "w") as archive:
        archive.writestr("__main__.py", source)
        for name in ("multiprocess", "_multiprocess", "dill", "cloudpickle", "filelock", "tqdm"):
            _add(archive, Path(site_packages()), name)
        _add(archive, ROOT, "collector")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-S", app, method],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert said(result) == ["9"]


def _add(archive: zipfile.ZipFile, root: Path, name: str) -> None:
    for file in (root / name).rglob("*.py"):
        archive.write(file, file.relative_to(root))


FOREIGN: Final = [
    *("random", "socket", "selectors", "tempfile", "pickle", "struct", "signal", "subprocess"),
    *("marshal", "logging", "inspect", "multiprocessing", "multiprocess", "dill", "collector"),
    *("cloudpickle", "filelock", "weakref", "sitecustomize", "usercustomize", "encodings"),
]


@each_way
def test_modules_of_the_working_directory_are_not_run(method: str, tmp_path: Path) -> None:
    mark = tmp_path / "run"
    place = tmp_path / "place"
    place.mkdir()
    for name in FOREIGN:
        (place / f"{name}.py").write_text(f"open({os.fspath(mark)!r}, 'a').write('{name} ')")
    source = f"""{BEGIN}
def job():
    return os.getcwd()
with Collector(1, method) as collector:
    print(collector.submit(job).result())
"""
    assert said(run(source, method, cwd=place)) == [os.fspath(place)]
    assert not mark.exists()
