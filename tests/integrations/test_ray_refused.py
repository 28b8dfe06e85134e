"""What a Collector is told of Ray that makes no sense, or what is not there: one clear error."""

import importlib.metadata
import json
import os
import re
import socket
import sys
import threading
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from collector import Collector, reclaim, settings
from collector.integrations.ray import cluster, installed, own, pump
from collector.integrations.ray.agent import WrongVersionError, check
from collector.integrations.ray.engine import RayWorker
from collector.integrations.ray.orders import Beginning, PumpArguments
from collector.settings import VERSION
from tests.support.engines import alone, needs_ray, opened
from tests.support.leaks import wait_until
from tests.support.sharedray import a_ray, have_a_token, shared
from tests.support.tree import ROOT, kill, script


def test_the_address_of_a_ray_client_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="cannot stream what jobs write: run this program inside"):
        Collector(1, engine="ray", address="ray://head:10001")


@pytest.mark.parametrize("told", ["ray://head:10001", "http://head:8265"])
def test_so_is_that_which_the_environment_has(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", told)
    with pytest.raises(ValueError, match=f"RAY_ADDRESS in the environment says, '{told}'"):
        installed.check_address("auto")
    installed.check_address("head:6379")
    installed.check_address(None)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    installed.check_address("auto")


@pytest.mark.parametrize("address", ["", "head", "head:", "http://head:1", "head:123456"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match='"host:port", "auto" or None'):
        Collector(1, engine="ray", address=address)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"max_retries": 3}, ValueError, "'max_retries', and may have accelerator_type"),
        ({"num_cpus": "two"}, TypeError, "num_cpus of ray_options must be a number, not 'two'"),
        ({"num_cpus": True}, TypeError, "num_cpus of ray_options must be a number, not True"),
        ({"memory": -1}, ValueError, "memory of ray_options must be at least 0"),
        ({"resources": ["a"]}, TypeError, "resources of ray_options must be a dict"),
        ({"resources": {"a": "b"}}, TypeError, "resource 'a' of ray_options must be a number"),
        (
            {"resources": {5: 1}},
            TypeError,
            "name of a resource of ray_options must be a str, not 5",
        ),
        ({"resources": {"CPU": 1}}, ValueError, "has 'CPU': give num_cpus instead"),
        ({"accelerator_type": 5}, TypeError, "accelerator_type of ray_options must be a str"),
        (
            {"num_gpus": 1.5},
            ValueError,
            "num_gpus of ray_options must be whole where it is above 1",
        ),
        ({"scheduling_strategy": "X"}, ValueError, "must be 'DEFAULT' or 'SPREAD', or an object"),
        ({"runtime_env": "."}, TypeError, "runtime_env of ray_options must be a dict"),
        (["num_cpus"], TypeError, "ray_options must be a dict"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        Collector(1, engine="ray", ray_options=options)


LATE: Final = "The current node timed out during startup. This could happen because some of"


class SlowRay:
    """As Ray on a busy machine, whose patience of 30 s cannot be set."""

    def __init__(self, *said: str) -> None:
        self.said = list(said)

    def init(self, **_options: object) -> None:
        """Fail as often as there is something to say."""
        if self.said:
            raise Exception(self.said.pop(0))  # noqa: TRY002 - so does Ray

    def cluster_resources(self) -> dict[str, float]:
        """Have two CPUs."""
        return {"CPU": 2.0}


@pytest.mark.parametrize(
    ("address", "said", "fails"),
    [(None, [LATE], False), (None, ["no"], True), ("auto", [LATE], True)],
)
def test_a_ray_that_is_not_up_in_time_is_started_once_more(
    address: str | None, said: list[str], fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    monkeypatch.setitem(sys.modules, "ray", SlowRay(*said))
    monkeypatch.setattr(own, "end_remains", ended.append)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    beginning = Beginning("c", VERSION, (3, 11), "base", b"", (), {}, None, 1, ())
    told = PumpArguments(address, {}, 2, "/there/r1", "/there", 1, 1, "token", beginning)
    if fails:
        with pytest.raises(Exception, match=said[0][:20]):
            cluster.connect(told)
    else:
        assert cluster.connect(told) == 2
    assert ended == ([] if fails else ["/there/r1"])


def test_a_ray_that_is_never_up_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "RAY_START_S", 0)
    with pytest.raises(Exception, match="timed out during startup"):
        test_a_ray_that_is_not_up_in_time_is_started_once_more(None, [LATE], False, monkeypatch)


def test_an_unknown_engine_and_options_without_one_are_refused() -> None:
    with pytest.raises(ValueError, match="engine must be one of local, ray, not 'dask'"):
        Collector(1, engine="dask")
    with pytest.raises(TypeError, match='give engine="ray" too'):
        Collector(1, address="auto")
    with pytest.raises(TypeError, match='give engine="ray" too'):
        Collector(1, ray_options={})


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'collector\[ray\]'"):
        Collector(1, engine="ray")


@pytest.mark.parametrize("version", ["2.59.3", "2.61.0", "3.0.0", "1.0"])
def test_a_ray_that_was_not_tested_is_refused(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    with pytest.raises(ImportError, match=rf"tested with Ray from 2\.60 .* {version} is installed"):
        Collector(1, engine="ray")


def test_the_extra_names_the_range_that_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    (extra,) = re.findall(r'^ray = \["ray([^"]+)"\]', project, re.MULTILINE)
    for version, fits in (("2.60.0", True), ("2.60.7", True), ("2.61.0", False)):
        monkeypatch.setattr(importlib.metadata, "version", lambda _, said=version: said)
        if fits:
            installed.check_version()
        else:
            with pytest.raises(ImportError):
                installed.check_version()
    assert extra == ">=2.60,<2.61"


def test_another_collector_or_python_on_the_cluster_is_named() -> None:
    here = sys.version_info[:2]
    check(VERSION, here)
    for version, python, said in (("0.0.7", here, "0.0.7"), (VERSION, (3, 9), "Python 3.9")):
        with pytest.raises(WrongVersionError, match="both must be the same") as raised:
            check(version, python)
        assert said in str(raised.value)


OTHER_COLLECTOR: Final = """
import sys

class Newer:
    def find_spec(self, name, path=None, target=None):
        if name == "collector.integrations.ray.agent":
            sys.meta_path.remove(self)
            import collector.settings
            from collections import namedtuple
            from collector.integrations.ray import orders
            fields = (*orders.Beginning._fields, "newer")
            collector.settings.VERSION = "0.0.7"
            orders.Beginning = namedtuple("Beginning", fields, module=orders.__name__)

sys.meta_path.insert(0, Newer())
"""
NO_COLLECTOR: Final = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name == "collector":
            raise ModuleNotFoundError("No module named 'collector'", name=name)

sys.meta_path.insert(0, Without())
"""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (OTHER_COLLECTOR, "the cluster has collector 0.0.7 on Python .*: both must be the same"),
        (NO_COLLECTOR, "No module named 'collector'"),
    ],
    ids=["another", "none"],
)
@pytest.mark.ray
@pytest.mark.slow
@needs_ray
def test_a_cluster_with_another_collector_or_none_says_so(
    source: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(source)
    environment = {"env_vars": {"PYTHONPATH": os.fspath(tmp_path)}}
    with opened("ray", ray_options={"runtime_env": environment}) as collector:
        assert re.search(said, str(collector.submit(abs, -1).exception()))


@pytest.mark.ray
@pytest.mark.slow
@needs_ray
def test_a_runtime_env_that_cannot_be_made_says_why() -> None:
    environment = {"conda": "no-such-environment"}
    with opened("ray", ray_options={"runtime_env": environment}) as collector:
        said = str(collector.submit(abs, -1).exception())
        assert re.search("could not be started in its runtime_env .*[Cc]onda", said)


def test_what_is_said_of_an_end_is_understood_in_any_letters() -> None:
    reader, writer = os.pipe()
    why = "\N{GRINNING FACE}" * 610
    worker = RayWorker(1, None, reader)  # type: ignore[arg-type]  # no pump: it has said all
    os.write(writer, json.dumps([None, False, why, 2**63 - 1]).encode())
    os.close(writer)
    assert (worker.reap().why, worker.reap().begun) == (why, 2**63 - 1)
    worker.close()


class Sent(NamedTuple):
    """As much of a `RunJob` as is looked at."""

    ticket: int
    log_name: str = ""


class NoPump:
    """As a pump whose process is there until it is said to be dead."""

    def __init__(self) -> None:
        self.is_dead = False
        self.child = self

    def dead(self) -> bool:
        return self.is_dead

    def say(self, *_said: object) -> None:
        """Nobody hears it."""

    def bury(self) -> None:
        """Nothing is left of it."""


def test_a_job_that_is_sent_to_a_dead_pump_has_not_begun() -> None:
    """It goes to the next pump; one that was sent before may have begun."""
    pump: Any = NoPump()
    reader, writer = os.pipe()
    worker = RayWorker(1, pump, reader)
    sent: Any = Sent
    worker.send(sent(7), ())
    pump.is_dead = True
    os.close(writer)
    worker.send(sent(8), ())
    assert worker.reap().begun == 7
    worker.close()


@needs_ray
def test_initargs_that_only_a_process_here_can_inherit_are_refused() -> None:
    import multiprocessing

    ours, theirs = multiprocessing.get_context("forkserver").Pipe()
    with ours, theirs, pytest.raises(TypeError, match='with engine="ray" workers run on others'):
        Collector(1, engine="ray", initializer=print, initargs=(theirs,))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label_selector": {"zone": 5}}, "zone"),
        ({"scheduling_strategy": 5}, "scheduling_strategy"),
    ],
)
@pytest.mark.ray
@pytest.mark.slow
@needs_ray
def test_what_only_ray_itself_can_judge_is_refused_before_there_are_jobs(
    options: Any, said: str
) -> None:
    with pytest.raises(ConnectionError, match=f"Ray refuses the ray_options .*{said}"):
        opened("ray", ray_options=options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"resources": {"unheard-of": 1}}, "unheard-of: 1"),
        ({"accelerator_type": "A1"}, "accelerator_type:A1"),
        ({"memory": 1e15}, "memory: 1000000000000000"),
        ({"label_selector": {"zone": "north"}}, "zone: north"),
    ],
)
@pytest.mark.ray
@pytest.mark.slow
@needs_ray
def test_what_no_node_has_is_said(
    options: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with opened("ray", ray_options=options):
        assert "no node of the Ray cluster has what each job asks for" in caplog.text
        assert said in caplog.text


@pytest.mark.parametrize(
    ("selector", "labels"),
    [
        ("a", ["a"]),
        ("!a", ["b", "c", None]),
        ("in(a,b)", ["a", "b"]),
        ("in(a, b)", ["a"]),
        ("!in(a,b)", ["c", None]),
    ],
)
def test_a_label_is_selected_as_ray_does(selector: str, labels: list[str | None]) -> None:
    known = ["a", "b", "c", None]
    assert [label for label in known if cluster.is_selected(label, selector)] == labels


FEW: Final = """
import os, resource, sys
from collector import Collector

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
try:
    with Collector(300, engine="ray", address=sys.argv[1], progress=False) as collector:
        print(list(collector.map(abs, range(600))) == list(range(600)))
except ConnectionError as error:
    print(error)
"""


@pytest.mark.ray
@pytest.mark.slow
@needs_ray
def test_more_jobs_at_once_than_descriptors_are_refused() -> None:
    with script(FEW, shared.address) as running:
        assert re.search(
            r"ulimit -Hn: 256\) has room for \d+ jobs at once, not for 300", running.hear()
        )


OTHER_PYTHON: Final = """
import sys, ray
import ray._private.utils as utils

utils.compute_version_info = lambda: (ray.__version__, "3.9.1")
context = ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
                   object_store_memory=80 << 20, _temp_dir=sys.argv[1])
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@needs_ray
@alone
def test_a_cluster_with_another_python_is_refused() -> None:
    have_a_token()
    with (
        a_ray(OTHER_PYTHON) as (address, _),
        pytest.raises(ConnectionError, match=r"Version mismatch(.|\n)*3\.9\.1"),
    ):
        Collector(1, engine="ray", address=address)


@pytest.mark.slow
@needs_ray
def test_where_no_ray_answers_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_gcs_rpc_server_connect_timeout_s", "2")
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "2")
    with pytest.raises(ConnectionError, match=r"cannot connect with 127\.0\.0\.1:9"):
        Collector(1, engine="ray", address="127.0.0.1:9")


@pytest.mark.parametrize("whose", ["parent", "control", "nobody's"])
def test_who_waits_for_ray_leaves_when_nobody_waits_for_it(whose: str) -> None:
    child = os.fork()
    if not child:
        parent, parent_w = os.pipe()
        ours, control = socket.socketpair()
        with pump.leaving_with(control, parent):
            if whose == "parent":
                os.close(parent_w)
            if whose == "control":
                ours.close()
            threading.Event().wait(60 if whose != "nobody's" else 0)
        ours.close()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == (0 if whose == "nobody's" else 1)


NOBODY: Final = """
from collector import Collector
print("begins", flush=True)
Collector(1, engine="ray", address="127.0.0.1:9")
"""


@pytest.mark.slow
@needs_ray
def test_a_program_that_dies_while_it_waits_for_ray_leaves_nothing() -> None:
    with script(NOBODY) as running:
        running.hear()
        assert wait_until(lambda: any(map(_is_pump, running.tree())), 60)
        kill(running.process.pid)
        running.process.wait()
        assert running.gone()
    reclaim([os.environ["COLLECTOR_TMPDIR"]])


def _is_pump(pid: int) -> bool:
    try:
        return b"collector-ray" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
