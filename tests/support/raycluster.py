"""A cluster of several Ray nodes on this machine, in a process of its own."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, final

from tests.support.leaks import descendants
from tests.support.sharedray import end_helpers
from tests.support.tree import kill

_SOURCE: Final = """
import os, sys, tempfile
os.makedirs(os.path.join(tempfile.gettempdir(), "ray"), exist_ok=True)  # where it notes its address
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from ray.cluster_utils import Cluster

# Nobody asks the two that are left out: each would take a second of processor time to start.
least = dict(object_store_memory=100 << 20, include_log_monitor=False, no_monitor=True)
cluster = Cluster(
    initialize_head=True,
    head_node_args=dict(num_cpus=0, include_dashboard=False, temp_dir=sys.argv[1], **least),
)

def add():
    return cluster.add_node(num_cpus=1, resources={"node": 1}, **least)

nodes = [add() for _ in range(int(sys.argv[2]))]
print(cluster.address, flush=True)
for line in sys.stdin:
    if line == "add\\n":
        nodes.append(add())
    else:
        node = cluster.head_node if line == "head\\n" else nodes.pop(int(line))
        cluster.remove_node(node, allow_graceful=False)
    print("done", flush=True)
cluster.shutdown()
"""


@final
class RayCluster:
    """Some nodes of one CPU each, and a head with none."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        self.address = self._out.readline().strip()
        self._pid = process.pid
        self.started: set[tuple[int, int]] = set()
        """What is to be gone in the end, though Ray may have lost sight of it."""

    def add_node(self) -> None:
        """Have one node more."""
        self._do("add")

    def remove_node(self, number: int) -> None:
        """Have a node be gone, as a machine that loses its power."""
        self._do(str(number))

    def remove_head(self) -> None:
        """Have the head be gone so, which knows who belongs to the cluster."""
        self.started |= {(one.pid, one.started) for one in descendants(self._pid)}
        self._do("head")

    def _do(self, what: str) -> None:
        self._in.write(f"{what}\n")
        self._in.flush()
        assert self._out.readline().strip() == "done"


@contextmanager
def ray_cluster(nodes: int) -> Iterator[RayCluster]:
    """Start a cluster; in the end nothing of it is left."""
    directory = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: it makes sockets in it
    process = subprocess.Popen(
        [sys.executable, "-c", _SOURCE, directory, str(nodes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    cluster = RayCluster(process)
    try:
        yield cluster
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(200)
        assert process.stdout is not None
        process.stdout.close()
        end_helpers()
        for one in descendants():
            if (one.pid, one.started) in cluster.started:
                kill(one.pid)  # a helper of a node that has ended itself, which Ray leaves for long
        shutil.rmtree(directory)
