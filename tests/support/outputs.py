"""Outputs of both modes, made in this process."""

import contextlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.store.output.output import Output
from collector.store.rundir.directory import RunDirectory
from collector.store.spill import SpillManager

Maker = Callable[[bytes], Output]


def in_memory(data: bytes, temp_root: Path | None = None) -> Output:
    """An output in memory."""
    with SpillManager(len(data) + 1, temp_root=temp_root) as manager:
        manager.write(data)
        return manager.finalize()


def on_disk(data: bytes, temp_root: Path | None = None) -> Output:
    """An output in a file."""
    with SpillManager(0, temp_root=temp_root) as manager:
        manager.write(data)
        return manager.finalize()


def in_a_directory_of_its_own(data: bytes, tmp_path: Path) -> Output:
    """Make what is left of a Collector after its shutdown: an output that alone keeps its run."""
    directory = RunDirectory.create(tmp_path / "root")
    fd, name = directory.create_file("out")
    os.write(fd, data)
    os.close(fd)
    output = Output.on_disk(directory, name, size=len(data), chunks=1)
    directory.release()
    return output


def open_descriptors() -> int:
    """Descriptors of outputs; a sweep in the background may hold others."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{name}")
            found += ".spill" in target or "memfd:" in target
    return found


def files(root: Path | None = None) -> list[Path]:
    """The files of outputs below a root, without one below that of this test."""
    return list((root or Path(os.environ["COLLECTOR_TMPDIR"])).glob("run-*/*.spill"))


def streaming(data: bytes = b"0123456789") -> tuple[SpillManager, Path]:
    """An output that grows in a file, and that file."""
    manager = SpillManager(1)
    manager.write(data)
    path = manager.progress.temp_file_path
    assert path is not None
    return manager, path


def put(kind: str, path: Path) -> int:
    """Put something that is no file there; its inode number."""
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):
                server.bind(path.name)
        case "directory":
            path.mkdir()
        case "full directory":
            path.mkdir()
            (path / "file").touch()
        case _:
            if os.geteuid() != 0:
                pytest.skip("making a device needs root")
            node = stat.S_IFBLK if kind == "block device" else stat.S_IFCHR
            os.mknod(path, node | 0o600, os.makedev(1, 3) if node == stat.S_IFCHR else 0)
    return path.lstat().st_ino
