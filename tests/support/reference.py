"""The parts of the documentation that the code writes: signatures, limits, errors, the wire,
states and modules.

A page holds them between `<!-- name -->` and `<!-- end -->`. Run this module to write them anew:
`python -m tests.support.reference`; a test compares them with the code.
"""

import ast
import enum
import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import collector
from collector import crash_errors, errors, settings
from collector.batch.record import AttemptRecord, Record
from collector.process.worker.current_job import CurrentJob
from collector.wire import frames, messages, outcome
from tests.support import drawn
from tests.support.since import marks

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- ([a-z ]+) -->\n\n?).*?(\n?<!-- end -->)", re.DOTALL)
_MADE_BY_US = {"Batch", "Job", "Output", "Progress"}
_PARTS = {"Batch": (("record", Record), ("attempt", AttemptRecord))}
_FOR_OTHER_ROOMS = {
    "attempt.details",
    "attempt.pickled",
    "attempt.places",
    "Job.meters_of_run",
    "SpillManager.write_joined",
    "SpillManager.cut",
    "SpillManager.grown",
    "SpillManager.identify_file",
    "SpillManager.seal",
    "SpillManager.in_memory",
    "current_job().end",
    "current_job().disown",
    "current_job().explain",
    "current_job().lead",
}
_SECTION = re.compile(r"(Args|Returns|Raises|Attributes|Guarantees|Yields):\s*(.*)")


# -- names -----------------------------------------------------------------------------------------


def public_names() -> Iterator[str]:
    """Each public name: its signature and what its docstring says."""
    for name in sorted(collector.__all__, key=str.lower):
        found = getattr(collector, name)
        if inspect.isclass(found) and issubclass(found, Exception):
            continue  # on the page of errors
        yield f"## `{name}`\n"
        yield from marks(name)
        if inspect.isclass(found) and issubclass(found, enum.Enum):
            yield f"{prose(found.__doc__)}\n"
            yield from (f"- `{name}.{m.name}`: `{m.value!r}`" for m in found)
            yield ""
            continue
        if name not in _MADE_BY_US:
            yield f"```python\n{name}{signature(found)}\n```\n"
        yield f"{prose(found.__doc__)}\n"
        if inspect.isclass(found):
            yield from members(name, found)
        if name == "current_job":
            yield from members("current_job()", CurrentJob)
        for part, kind in _PARTS.get(name, ()):
            yield f"### {part.capitalize()} of a batch\n\n{prose(kind.__doc__)}\n"
            yield from members(part, kind)


def members(name: str, found: type) -> Iterator[str]:
    """The public methods and properties of a class, in the order of the source."""
    for member, value in vars(found).items():
        if member.startswith("_") or isinstance(value, classmethod):
            continue
        if not inspect.isroutine(value) and not isinstance(value, property):
            continue
        text = inspect.getdoc(value)
        path = f"{name}.{member}"
        if path in _FOR_OTHER_ROOMS or "See `" in (text or ""):
            continue
        what = "" if isinstance(value, property) else signature(value)
        yield f"### `{path}{what}`\n"
        yield from marks(path)
        yield f"{prose(text)}\n"


def signature(found: Callable[..., object]) -> str:
    """Parameters and defaults, without types."""
    asked = inspect.signature(found)
    kept = [p.replace(annotation=p.empty) for p in asked.parameters.values() if p.name != "self"]
    if kept and kept[0].kind is inspect.Parameter.POSITIONAL_ONLY and len(kept) == 1:
        return f"({kept[0].name})"
    return str(inspect.Signature(kept))


def prose(text: str | None) -> str:
    """A docstring in Google's style as Markdown."""
    lines: list[str] = []
    inside = ""
    said, _, example = inspect.cleandoc(text or "").partition("\n\nExample:\n")
    for line in said.splitlines():
        section = _SECTION.fullmatch(line)
        if section:
            inside = section[1]
            lines.append(f"**{inside}.** {section[2][:1].upper()}{section[2][1:]}".rstrip())
        elif inside and re.match(r" {4}\S", line) and inside not in {"Returns", "Guarantees"}:
            lines.append(re.sub(r"^ {4}(\*{0,2}\w+):", r"- `\1`:", line))
        elif line and not line.startswith(" "):
            inside = ""
            lines.append(line)
        else:
            lines.append(line.strip() and f"  {line.strip()}" if inside else line)
    if example:
        lines += ["", "**Example.**", "", "```python", textwrap.dedent(example), "```"]
    return "\n".join(lines)


# -- limits ----------------------------------------------------------------------------------------


def limits() -> Iterator[str]:
    """Each limit of `collector.settings`, its value and what it is."""
    source = Path(settings.__file__).read_text()
    heads = {number: line for number, line in enumerate(source.splitlines(), 1) if "# -- " in line}
    body = ast.parse(source).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        for number in [n for n in heads if n < node.lineno]:
            yield f"\n## {heads.pop(number).strip('#- ').capitalize()}\n"
            yield "| name | value | |\n|---|---|---|"
        if node.target.id not in {"KIB", "MIB"}:
            value = getattr(settings, node.target.id)
            text = _text_of(following) if following is not None else ""
            yield f"| `{node.target.id}` | {_shown(node.target.id, value)} | {text} |"


def _text_of(node: ast.stmt) -> str:
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return ""
    text = " ".join(str(node.value.value).split()).replace("|", "\\|")
    return re.sub(r"; design [\d.]+\.", ".", text)


def _shown(name: str, value: object) -> str:
    if name.endswith("_BYTES") and isinstance(value, int):
        for unit, size in (("MiB", settings.MIB), ("KiB", settings.KIB)):
            if value % size == 0:
                return f"{value // size} {unit}"
        return f"{value} bytes"
    return f"{value} s" if name.endswith("_S") else f"`{value!r}`" if value else f"{value}"


# -- errors ----------------------------------------------------------------------------------------


_ERRORS = {errors.__name__, crash_errors.__name__}


def error_tree() -> Iterator[str]:
    """The public errors as a tree, with the built-in error that each one also is."""
    yield "```text"
    yield from _branch(errors.CollectorError, 0)
    yield "```"


def _branch(error: type[Exception], depth: int) -> Iterator[str]:
    below = depth
    if not error.__name__.startswith("_"):
        bases = [b.__name__ for b in error.__mro__[1:] if b.__module__ not in _ERRORS]
        own = error.__bases__[1:] or (error.__bases__[0].__bases__[1:] if depth else ())
        also = " + ".join(b.__name__ for b in own if b.__name__ in bases)
        yield f"{'  ' * depth}{error.__name__}{f'  + {also}' if also else ''}"
        below += 1
    for child in error.__subclasses__():
        if child.__module__ in _ERRORS:
            yield from _branch(child, below)


def error_texts() -> Iterator[str]:
    """What each error says of itself."""
    for name in sorted(collector.__all__):
        found = getattr(collector, name)
        if inspect.isclass(found) and issubclass(found, Exception):
            yield f"### `{name}`\n"
            yield from marks(name)
            yield f"{prose(found.__doc__)}\n"


# -- the wire --------------------------------------------------------------------------------------


def frame_header() -> Iterator[str]:
    """The fields of a frame's header with their offsets."""
    sizes = {"B": 1, "H": 2, "I": 4, "Q": 8}
    names = ("magic", "version", *frames.Frame._fields)
    codes = frames._HEADER.format.lstrip("<")
    yield "| offset | bytes | field |\n|---|---|---|"
    offset = 0
    for code, name in zip(codes, names, strict=True):
        yield f"| {offset} | {sizes[code]} | {name} |"
        offset += sizes[code]
    assert offset == frames.HEADER_BYTES


def codes() -> Iterator[str]:
    """The numbers of kinds, streams, places and outcomes."""
    yield "| what | numbers |\n|---|---|"
    for table in (frames.Kind, frames.Stream, frames.PayloadPlace, outcome.Outcome):
        numbers = ", ".join(f"{member.value} {member.name}" for member in table)
        yield f"| {table.__name__} | {numbers} |"


def message_fields() -> Iterator[str]:
    """Each message, its number on the wire, its fields and what it says."""
    yield "| number | message | numbers | texts and bytes | says |\n|---|---|---|---|---|"
    for number, cls in enumerate(typing.get_args(messages.Message)):
        fields = cls.__annotations__.items()
        numbers = ", ".join(name for name, kind in fields if kind is int)
        blobs = ", ".join(name for name, kind in fields if kind is not int)
        says = inspect.getdoc(cls).splitlines()[0]  # type: ignore[union-attr]
        assert messages._LAYOUTS[cls].header[0] == number
        yield f"| {number} | `{cls.__name__}` | {numbers} | {blobs} | {says} |"


# -- pages -----------------------------------------------------------------------------------------

BLOCKS: dict[str, Callable[[], Iterator[str]]] = {
    "names": public_names,
    "limits": limits,
    "error tree": error_tree,
    "error texts": error_texts,
    "frame header": frame_header,
    "codes": codes,
    "messages": message_fields,
    "moves": drawn.moves,
    "tree": drawn.tree,
}


def render(page: str) -> str:
    """A page with its blocks as the code is now."""

    def written(match: re.Match[str]) -> str:
        text = "\n".join(BLOCKS[match[2]]()).strip("\n")
        return f"<!-- {match[2]} -->\n\n{text}\n\n<!-- end -->"

    return BLOCK.sub(written, page)


def pages() -> list[Path]:
    """The pages that have such blocks."""
    return [
        path for path in sorted(ROOT.glob("docs/**/*.md")) if "<!-- end -->" in path.read_text()
    ]


if __name__ == "__main__":
    for path in pages():
        path.write_text(render(path.read_text()))
