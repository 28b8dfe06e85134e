"""A Ray that the tests of one process of pytest share: to start one takes seconds.

Its token is in the environment of pytest from then on, and so of all that joins it. What it starts
for a test is not left behind by that test.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, final

import pytest

from tests.support import leaks

_SOURCE: Final = """
import sys, ray
context = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
                   object_store_memory=200 << 20, _temp_dir=sys.argv[1])
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


def have_a_token() -> None:
    """Have one in the environment: a Ray without one makes one in the home directory."""
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def end_helpers() -> None:
    """End the two helpers of each node of a Ray that has ended.

    They notice by themselves, but on a busy machine try for a minute to tell a server that is gone.
    """

    def ended() -> bool:
        left = [p for p in leaks.descendants() if not p.has_ended and _is_helper(str(p))]
        for process in left:
            with suppress(ProcessLookupError):  # it was quicker
                os.kill(process.pid, signal.SIGKILL)
        return not left

    leaks.wait_until(ended)


def _is_helper(process: str) -> bool:
    return "ray::DashboardAgent" in process or "ray::RuntimeEnvAgent" in process


@contextmanager
def a_ray(source: str = _SOURCE) -> Iterator[tuple[str, int]]:
    """Run a program that starts a Ray and says its address, until its stdin ends; no more is left.

    Yields:
        The address, and the program's pid.
    """
    directory = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: it makes sockets there
    own = {"RAY_USAGE_STATS_ENABLED": "0", "TMPDIR": directory}
    process = subprocess.Popen(
        [sys.executable, "-c", source, directory],
        env=os.environ | own,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.communicate(timeout=200)
        end_helpers()
        shutil.rmtree(directory)


@final
class SharedRay:
    """Started when the first test needs it."""

    def __init__(self) -> None:
        self.address = ""
        self._running = ExitStack()

    def start(self) -> None:
        """Start it, unless it is there."""
        if not self.address:
            have_a_token()
            self.address, pid = self._running.enter_context(a_ray())
            leaks.shared_by_tests.add(pid)

    def end(self) -> None:
        """End it; nothing of it is left."""
        self._running.close()


shared: Final = SharedRay()


def keep_together(items: list[pytest.Item]) -> None:
    """Have those that join it run in one process of pytest: to start one takes seconds."""
    for item in items:
        if item.get_closest_marker("ray") is not None:
            item.add_marker(pytest.mark.xdist_group("ray"))


def start_if_needed(item: pytest.Item) -> None:
    """Start it if the test says that it wants it."""
    if item.get_closest_marker("ray") is not None:
        shared.start()
