"""A cluster of several Ray nodes on this machine, in a process of its own."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, final

_SOURCE: Final = """
import os, sys, tempfile
os.makedirs(os.path.join(tempfile.gettempdir(), "ray"), exist_ok=True)  # where it notes its address
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from ray.cluster_utils import Cluster

cluster = Cluster(
    initialize_head=True,
    head_node_args=dict(num_cpus=0, include_dashboard=False, object_store_memory=100 << 20,
                        temp_dir=sys.argv[1]),
)
nodes = [
    cluster.add_node(num_cpus=1, object_store_memory=100 << 20, resources={"node": 1})
    for _ in range(int(sys.argv[2]))
]
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes.pop(int(line)), allow_graceful=False)
    print("removed", flush=True)
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

    def remove_node(self, number: int) -> None:
        """Have a node be gone, as a machine that loses its power."""
        self._in.write(f"{number}\n")
        self._in.flush()
        assert self._out.readline().strip() == "removed"


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
    try:
        yield RayCluster(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()
        shutil.rmtree(directory)
