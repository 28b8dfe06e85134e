"""Ways in which others take a directory away, and what they can put in its place."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest


def removed(directory: Path) -> None:
    """As `rm -rf`."""
    shutil.rmtree(directory)


def removed_with_its_root(directory: Path) -> None:
    """As a cleaner of the system's temp directory."""
    shutil.rmtree(directory.parent)


def moved(directory: Path) -> None:
    """Under another name, where no sweep looks."""
    directory.rename(aside(directory))


def root_moved(directory: Path) -> None:
    """The root has another name; there is a new one at the next need."""
    directory.parent.rename(aside(directory))


def replaced_by_a_file(directory: Path) -> None:
    """A file of the same name."""
    shutil.rmtree(directory)
    directory.write_text("not yours")


def replaced_by_a_link(directory: Path) -> None:
    """A link of the same name, to a directory in which nothing may be made."""
    moved(directory)
    trap(directory).mkdir()
    directory.symlink_to(trap(directory))


def root_replaced_by_a_link(directory: Path) -> None:
    """The root is a link, to a directory that would do."""
    root_moved(directory)
    trap(directory).mkdir(0o700)
    directory.parent.symlink_to(trap(directory))


def replaced_by_a_directory(directory: Path) -> None:
    """An empty directory of the same name and mode."""
    shutil.rmtree(directory)
    directory.mkdir(0o700)


def closed(directory: Path) -> None:
    """With no mode at all."""
    directory.chmod(0)


def mounted_over(directory: Path) -> None:
    """Another file system lies over it; needs root."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", directory], check=True)


WAYS: Final[tuple[Callable[[Path], None], ...]] = (
    removed,
    removed_with_its_root,
    moved,
    root_moved,
    replaced_by_a_file,
    replaced_by_a_link,
    replaced_by_a_directory,
    closed,
    mounted_over,
)


def aside(directory: Path) -> Path:
    """Where `moved` puts it, and `root_moved` its root: beside the root, a name not of ours."""
    return directory.parents[1] / f"aside-{directory.name}"


def trap(directory: Path) -> Path:
    """Where `replaced_by_a_link` leads."""
    return directory.parents[1] / f"trap-{directory.name}"


@contextmanager
def put_right_afterwards(place: Path) -> Iterator[None]:
    """Unmount and remove in the end what these ways leave beside a root in `place`."""
    try:
        yield
    finally:
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in mounts:
            if mount.startswith(f"{place}/"):
                subprocess.run(["umount", "--lazy", mount], check=True)
        for path in [*place.glob("aside-*"), *place.glob("trap-*")]:
            shutil.rmtree(path)
        for path in place.glob("*/run-*"):
            if path.is_symlink() or path.is_file():
                path.unlink()
            else:
                shutil.rmtree(path)
