"""Since which version a public name, or a parameter of it, is there.

`names/<version>.json` has the names of a version that was released, and their parameters. What is
in none of them is new in the next one. At a release: `python -m tests.support.since <version>`.
"""

import enum
import functools
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import collector
from collector import CurrentJob

NEXT: Final = "0.3.0"
"""The version that is being made."""
SNAPSHOTS: Final = Path(__file__).parent / "names"

Names = dict[str, list[str]]


def names_now() -> Names:
    """Each public name and its public members, with their parameters.

    Inherited ones too, but for those of Python's own types, which are not the same in each version.
    """
    found = {name: getattr(collector, name) for name in collector.__all__}
    classes = {name: value for name, value in found.items() if inspect.isclass(value)}
    for name, value in {**classes, "current_job()": CurrentJob}.items():
        members = [member for member in dir(value) if _is_ours(value, member)]
        found |= {f"{name}.{member}": getattr(value, member) for member in members}
    return {name: parameters(value) for name, value in sorted(found.items())}


def _is_ours(kind: object, member: str) -> bool:
    bases = inspect.getmro(kind) if inspect.isclass(kind) else ()
    owner = next((base for base in bases if member in vars(base)), object)
    return not member.startswith("_") and owner.__module__ not in {"builtins", "enum"}


def parameters(found: object) -> list[str]:
    """The names of what a function, or the making of an object, takes."""
    if not callable(found) or isinstance(found, enum.EnumType):
        return []
    try:
        return [name for name in inspect.signature(found).parameters if name != "self"]
    except ValueError:  # built in, and says nothing
        return []


@functools.cache
def released() -> dict[str, Names]:
    """The names of each version that was released, the oldest first."""
    paths = sorted(SNAPSHOTS.glob("*.json"), key=lambda path: [*map(int, path.stem.split("."))])
    return {path.stem: json.loads(path.read_text("utf-8")) for path in paths}


def since(name: str) -> str:
    """The version that a name is there since."""
    return next((version for version, names in released().items() if name in names), NEXT)


def marks(name: str) -> Iterator[str]:
    """What the reference says of a name that the first version did not have, or not all of."""
    first, *_ = released()
    if since(name) != first:
        owner = name.rpartition(".")[0].removesuffix("()")  # current_job() and what it returns
        if not owner or since(owner) != since(name):
            yield f"*New in {since(name)}.*\n"
        return
    new: dict[str, list[str]] = {}
    for parameter in names_now().get(name, []):
        known = (version for version, names in released().items() if parameter in names[name])
        version = next(known, NEXT)
        if version != first:
            new.setdefault(version, []).append(f"`{parameter}`")
    yield from (f"*New in {version}: {', '.join(said)}.*\n" for version, said in new.items())


def main() -> None:
    text = json.dumps(names_now(), indent=0)
    (SNAPSHOTS / f"{sys.argv[1]}.json").write_text(f"{text}\n", "utf-8")


if __name__ == "__main__":
    main()
