"""Functions of one name in a batch directory: what is bound to another thing is said to be so."""

import functools
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from collector import Collector
from collector.batch.functions import what_of

pytestmark = pytest.mark.usefixtures("one_server")


@dataclass(slots=True)
class Client:
    model: str
    retries: int = 3

    def ask(self, text: str) -> str:
        return f"{self.model} says {text}"

    def __call__(self, text: str) -> str:
        return self.ask(text)

    @classmethod
    def made(cls, text: str) -> str:
        return f"{cls.__name__} {text}"


class Loud(Client):
    pass


def asks(model: str) -> Callable[[str], str]:
    def ask(text: str) -> str:
        return f"{model} says {text}"

    return ask


def plain(function: Callable[[str], str]) -> Callable[[str], str]:
    """A decorator that forgets what it wraps."""

    def wrapper(text: str) -> str:
        return function(text)

    return wrapper


def first(text: str) -> str:
    return text


def second(text: str) -> str:
    return text * 2


def bound_late(letter: str) -> Callable[[str], str]:
    def calls_itself(text: str) -> str:
        return text if len(text) > 9 else calls_itself(text + letter)

    return calls_itself


PAIRS: dict[str, tuple[Callable[[str], Any], Callable[[str], Any]]] = {
    "methods": (Client("a").ask, Client("b").ask),
    "objects that can be called": (Client("a"), Client("b")),
    "methods of another class": (Client("a").ask, Loud("a").ask),
    "class methods": (Client.made, Loud.made),
    "closures": (asks("a"), asks("b")),
    "decorated functions": (plain(first), plain(second)),
    "decorated closures": (plain(asks("a")), plain(asks("b"))),
    "methods of a text": ("{} a".format, "{} b".format),
    "functions that call themselves": (bound_late("a"), bound_late("b")),
    "partials of what has no key": (
        functools.partial(Client.ask, Client("a")),
        functools.partial(Client.ask, Client("b")),
    ),
    "partials of keywords without a key": (
        functools.partial(Client, retries=Client("a")),  # type: ignore[arg-type]
        functools.partial(Client, retries=Client("b")),  # type: ignore[arg-type]
    ),
}


@pytest.mark.parametrize(("one", "other"), PAIRS.values(), ids=PAIRS)
def test_what_is_bound_to_another_thing_has_another_hash(
    one: Callable[[str], Any], other: Callable[[str], Any]
) -> None:
    assert what_of(one).name == what_of(other).name
    assert what_of(one) == what_of(one)
    assert what_of(one).source != what_of(other).source


def test_a_partial_has_the_hash_of_its_function_where_its_name_says_the_rest() -> None:
    one, other = functools.partial(asks, "a"), functools.partial(asks, model="b")
    assert what_of(one).name != what_of(other).name
    assert what_of(one).source == what_of(other).source == what_of(asks).source


def test_what_is_bound_to_the_same_has_the_same_hash() -> None:
    for make in (
        lambda: Client("a").ask,
        lambda: asks("a"),
        lambda: plain(asks("a")),
        lambda: bound_late("a"),
        lambda: functools.partial(Client.ask, Client("a")),
        lambda: string.Formatter().format,
        lambda: first,
    ):
        assert what_of(make()) == what_of(make())


def test_what_it_is_bound_to_is_not_asked_and_not_read_to_its_end() -> None:
    class Shy:
        def __init__(self) -> None:
            self.many = [object()] * 100_000
            self.nested: list[Any] = []
            self.nested.append(self.nested)

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

        def ask(self, text: str) -> str:
            return text

    assert what_of(Shy().ask) == what_of(Shy().ask)


def test_results_of_another_object_s_method_stay_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = []
    for model in ("a", "a", "b"):
        caplog.clear()
        with Collector(1, progress=False) as collector:
            (job,) = collector.collect(Client(model).ask, ["x"], batch=tmp_path / "b")
            found.append((job.resumed, job.result(), "has changed since: 1 results" in caplog.text))
    assert found == [
        (False, "a says x", False),
        (True, "a says x", False),
        (True, "a says x", True),
    ]


class Proxy:
    """Passes for what it does not have yet, as those of some web frameworks do."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("outside of a request")

    def ask(self, text: str) -> str:
        return text


def test_what_cannot_be_looked_at_is_no_hindrance() -> None:
    what = what_of(Proxy().ask)
    assert what.name == "tests.batch.test_functions:Proxy.ask"
    assert what.source == what_of(Proxy().ask).source
