"""Where the control groups of this process can be seen, of both versions.

Runs in:    the parent; pure.
Source:     cgroups(7), proc_pid_mountinfo(5).
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final, NamedTuple

_OCTAL: Final = re.compile(r"\\([0-7]{3})")


class Group(NamedTuple):
    """The group of this process in one tree.

    Attributes:
        unified: Whether it is of version 2.
        mount: The mount point of the tree, or of the part of it that can be seen here.
        below: The names that lead from there to the group.
    """

    unified: bool
    mount: PurePosixPath
    below: tuple[str, ...]


def groups(controller: str, cgroups: str, mounts: str) -> Iterator[Group]:
    """Yield our group in each tree that can have this controller, as far as it can be seen here.

    Where there is a mount of a part of the tree (a container's), groups are told from its root.

    Args:
        controller: Such as "memory".
        cgroups: The text of /proc/self/cgroup.
        mounts: The text of /proc/self/mountinfo.
    """
    paths = dict(_paths(controller, cgroups))
    for unified, root, mount in _mounts(controller, mounts):
        path = paths.get(unified)
        if path is not None and ".." not in path.parts and path.is_relative_to(root):
            yield Group(unified, mount, path.relative_to(root).parts)


def _paths(controller: str, cgroups: str) -> Iterator[tuple[bool, PurePosixPath]]:
    """Yield whether a tree is of version 2, and the path of our group in it."""
    for line in cgroups.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield True, PurePosixPath(path)
        elif controller in controllers.split(","):
            yield False, PurePosixPath(path)


def _mounts(controller: str, mounts: str) -> Iterator[tuple[bool, PurePosixPath, PurePosixPath]]:
    """Yield the mounts of these trees: the version, the part of the tree, and the mount point."""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        where, what = before.split(" "), after.split(" ")
        if len(where) < 5 or len(what) < 3:  # noqa: PLR2004
            continue
        unified = what[0] == "cgroup2"
        if unified or (what[0] == "cgroup" and controller in what[2].split(",")):
            yield unified, PurePosixPath(_plain(where[3])), PurePosixPath(_plain(where[4]))


def _plain(name: str) -> str:
    """Undo what the kernel does to blanks in names."""
    return _OCTAL.sub(lambda octal: chr(int(octal[1], 8)), name)
