"""What holds for every test: it runs in temp directories of its own and leaves nothing behind.

Each test has a private system temp directory (TMPDIR) and a private root for run directories
(COLLECTOR_TMPDIR), both with a short path, for a Unix socket may lie in them (108 bytes at most).
"""

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from collector import Collector
from collector.process.start.forkserver import ForkServer
from collector.process.start.methods import launcher_for
from tests.support.engines import one_on_ray
from tests.support.jobs import METHODS
from tests.support.leaks import Snapshot, adopt_orphans, end_processes, live_apart, settle
from tests.support.one_server import OneServer
from tests.support.processend import end_of_process
from tests.support.sharedray import keep_together, shared, start_if_needed
from tests.support.tiers import is_in_two_tiers, take_turns

_CALL = pytest.StashKey[pytest.TestReport]()

# Fixed examples, so that a failure is a failure for everybody; no deadlines, so that a loaded
# machine is none. The campaign looks for new ones: pytest --hypothesis-profile campaign
settings.register_profile(
    "fixed",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "campaign", settings.get_profile("fixed"), derandomize=False, max_examples=10_000
)
settings.load_profile("fixed")


def pytest_configure() -> None:
    """Have the orphans of every test come to this process; share no shared memory with others."""
    live_apart()
    adopt_orphans()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            # By nohup, or by a shell with `&`. Children inherit that, but not a handler.
            handler = signal.default_int_handler if number == signal.SIGINT else _ignore
            signal.signal(number, handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Let `-n auto` be two processes for each core: tests wait, too."""
    return 2 * len(os.sched_getaffinity(0))


def _ignore(_number: int, _frame: object) -> None:
    """Do with a signal what was asked for, without passing that on."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage meanwhile: of what tests are made of, all stays. Half of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the start methods take turns, before tests are selected by their marks."""
    take_turns(items)
    keep_together(items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test that two tiers claim."""
    if is_in_two_tiers(item):
        pytest.fail("it is marked both slow and campaign", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let the fixture below know how the test ended."""
    report = yield
    if call.when == "call":
        item.stash[_CALL] = report
    return report


@pytest.fixture
def temp_root(tmp_path: Path) -> Path:
    """A root for run directories."""
    path = tmp_path / "root"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def behind_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A relative path that leads to `tmp_path / "real"`, where without its ".." it leads here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/below")
    return os.path.join("link", os.pardir)


@pytest.fixture
def process_ends() -> Iterator[None]:
    """After the test, do what the end of this process would."""
    yield
    end_of_process()


@pytest.fixture(scope="session", name="server_of_all")
def _one_server_of_all() -> Iterator[OneServer]:
    """Be there before any test looks at what it leaves."""
    own = launcher_for(METHODS[0])
    assert isinstance(own, ForkServer)
    server = OneServer(own)
    yield server
    server.end()


@pytest.fixture
def one_server(
    server_of_all: OneServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have the Collectors of this test share the server of all such tests.

    Not where its own stdout and stderr are looked at: the server was started with others. Nor where
    it says `own_server`.
    """
    if not {"capfd", "capfdbinary", "own_server"} & {*request.fixturenames}:
        name = "collector.executor.collector.launcher_for"
        monkeypatch.setattr(name, server_of_all.in_place_of_its_own)


@pytest.fixture
def shared_collector() -> Collector | None:
    """The Collector that tests on Ray share; None for a test that is not on Ray."""
    return one_on_ray.collector


@pytest.fixture
def own_server() -> None:
    """Have each Collector of this test start its own, though those of its file share one."""


@pytest.fixture(scope="session", autouse=True)
def _own_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have pytest choose its own temp directory before the tests get one each."""
    tmp_path_factory.getbasetemp()
    yield
    one_on_ray.end()
    shared.end()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that passed but left something; end the processes of one that failed anyway."""
    start_if_needed(request.node)
    one_on_ray.start_if_needed(request.node)
    if "one_server" in request.fixturenames:
        request.getfixturevalue("server_of_all").prepare()  # a test may have ended all there were
    temp = Path(tempfile.mkdtemp(prefix="ct-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", os.fspath(temp))
        patch.setenv("COLLECTOR_TMPDIR", os.fspath(temp / "c"))
        patch.setattr(tempfile, "tempdir", None)
        gc.collect()
        gc.freeze()  # what is left is none of this test's garbage, which is found the sooner
        before = Snapshot.take(temp)
        yield
        report = request.node.stash.get(_CALL, None)
        left = settle(before, temp) if report is not None and report.passed else []
        end_processes(before)
    shutil.rmtree(temp, ignore_errors=True)
    if left:
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)
