"""What a script's own classes and functions are in a worker, and when they come back."""

from pathlib import Path

import pytest

from tests.support.scripts import run_well
from tests.support.tiers import each_method

HEAD = """
import abc, dataclasses, enum, functools, multiprocessing, operator, pickle, sys, typing
from concurrent.futures import ProcessPoolExecutor
from typing import Generic, NamedTuple, Protocol, TypedDict, TypeVar
from collector import Collector
METHOD = sys.argv[1]
def same(value):
    return value
"""
RUN = """
with Collector(1, METHOD) as c:
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            check(lambda fn, *args: c.submit(fn, *args).result())
"""

CLASSES = """
T = TypeVar("T")
@dataclasses.dataclass(slots=True)
class Row:
    number: int
    text: str = "x"
@dataclasses.dataclass(slots=True, frozen=True, order=True, weakref_slot=True)
class Fixed:
    number: int
class Slotted:
    __slots__ = ("seen", "__hidden")
    def __init__(self, seen):
        self.seen = self.__hidden = seen
    def hidden(self):
        return self.__hidden
class Below(Slotted):
    __slots__ = ()
def check_slots(run):
    for value in (Row(1), Fixed(2)):
        back = run(same, value)
        assert back == value and type(back) is type(value)
    assert type(run(Row, 3)) is Row and run(Row, 3).text == "x"
    assert run(Slotted, 4).hidden() == 4 and type(run(Below, 5)) is Below
    assert not run(lambda: [hasattr(made, "__dict__") for made in (Row(1), Below(1))].count(True))

class Number:
    def __init__(self, number):
        self.number = number
    def __getstate__(self):
        return (self.number,)
    def __setstate__(self, state):
        (self.number,) = state
class Reduced(Number):
    def __reduce__(self):
        return Reduced.make, (self.number,)
    @classmethod
    def make(cls, number):
        return cls(number)
class Single(tuple):
    def __new__(cls, number):
        return super().__new__(cls, (number,))
    def __getnewargs__(self):
        return tuple(self)
    number = property(lambda self: self[0])
class Whole(int):
    number = property(int)
class Named(Number):
    base = 1
    def __setstate__(self, state):
        (number,) = state
        self.number = number * Named.base * SCALE // 2
class ByFunction(Number):
    def __reduce__(self):
        return make_by_function, (self.number,)
def make_by_function(number):
    return by_helper(number) if ByFunction else None
def by_helper(number):
    return ByFunction(number * SCALE // 2)
SCALE = 2
KINDS = (Number, Reduced, Single, Fixed, Whole, Named, ByFunction)
for kind in KINDS:
    kind.ONE = kind(1)
def check_objects_that_their_class_holds(run):
    for kind in KINDS:
        assert run(lambda kind=kind: (kind.ONE.number, type(kind.ONE) is kind)) == (1, True)
        assert type(run(lambda kind=kind: kind.ONE)) is kind

class Base:
    known = {}
    def __init_subclass__(cls, *, power):
        cls.power = power
        Base.known[cls.__name__] = cls
class Strong(Base, power=9):
    pass
NAMES = []
class Watched:
    def __init_subclass__(cls):
        NAMES.append(cls.__name__)
class Child(Watched):
    pass
class Meta(type):
    made = []
    def __new__(mcls, name, bases, namespace, *, option):
        cls = super().__new__(mcls, name, bases, namespace)
        cls.option = option
        Meta.made.append(name)
        return cls
    def __init__(cls, name, bases, namespace, *, option):
        super().__init__(name, bases, namespace)
class Made(metaclass=Meta, option=3):
    pass
class AbstractMeta(abc.ABCMeta):
    def __new__(mcls, name, bases, namespace, *, must):
        return super().__new__(mcls, name, bases, namespace)
class Abstract(metaclass=AbstractMeta, must=1):
    @abc.abstractmethod
    def value(self): ...
class Concrete(Abstract, must=2):
    def value(self):
        return __class__.__name__
def check_class_statements_with_keywords(run):
    assert type(run(Strong)) is Strong
    assert run(lambda: (Strong.power, list(Base.known))) == (9, ["Strong"])
    assert run(lambda: Base.known["Strong"] is Strong)
    assert run(lambda: (Child.__name__, NAMES)) == ("Child", ["Child"])
    assert run(lambda: (Made.option, Meta.made, type(Made) is Meta)) == (3, ["Made"], True)
    assert run(Concrete().value) == "Concrete" and type(run(Concrete)) is Concrete
    assert run(lambda: issubclass(Concrete, Abstract) and bool(Abstract.__abstractmethods__))

class Pair(NamedTuple):
    first: int
    second: Row
class Stack(Generic[T]):
    def __init__(self):
        self.items = []
    def push(self, item: T) -> T:
        self.items.append(item)
        return item
class Numbers(Stack[int]):
    pass
class Runs(Protocol):
    def run(self) -> int: ...
class Movie(TypedDict, total=False):
    name: str
P = typing.ParamSpec("P")
Ts = typing.TypeVarTuple("Ts")
Bound = TypeVar("Bound", bound=Row, covariant=True)
Either = TypeVar("Either", int, str)
UserId = typing.NewType("UserId", int)
class Calls(Generic[P, T]):
    def call(self, fn: typing.Callable[P, T], user: UserId) -> T:
        return fn(user)
class Many(Generic[typing.Unpack[Ts]]):
    pass
def typing_made():
    return UserId(3), Bound.__bound__ is Row, Either.__constraints__, P, Ts, Bound, UserId
def check_what_generics_are_made_with(run):
    assert run(typing_made) == (3, True, (int, str), P, Ts, Bound, UserId)
    assert run(Calls().call, abs, -4) == 4 and type(run(Many)) is Many
    assert run(lambda: Calls.__parameters__ == (P, T) and Many.__parameters__ == (Ts,))
    assert run(lambda: typing.get_type_hints(Calls.call)) == typing.get_type_hints(Calls.call)

def from_typing():
    return Pair(1, Row(2)), Numbers().push(4), Movie(name="x"), Stack[int]().push(2), Runs.__name__
def check_typing(run):
    assert run(from_typing) == (Pair(1, Row(2)), 4, {"name": "x"}, 2, "Runs")
    assert type(run(Pair, 1, Row(1))) is Pair and type(run(Numbers)) is Numbers
    assert run(lambda: typing.get_type_hints(Pair)) == {"first": int, "second": Row}

class Colour(enum.Enum):
    RED = 1
    ROUGE = 1
    BLUE = 2
    def text(self):
        return f"{self.name} {self.value}"
class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
    BOTH = READ | WRITE
class Planet(enum.Enum):
    EARTH = (5.9, 6.3)
    MARS = (0.6, 3.3)
    def __init__(self, mass, radius):
        self.mass, self.radius = mass, radius
class Unit(bytes, enum.Enum):
    def __new__(cls, number, label):
        made = bytes.__new__(cls, [number])
        made._value_, made.label = number, label
        return made
    PX = (0, "P.X")
    PY = (1, "P.Y")
class Word(enum.StrEnum):
    YES = enum.auto()
class Level(enum.IntEnum):
    LOW = 1
def check_enums(run):
    for member in (Colour.RED, Right.BOTH, Right.READ, Planet.MARS, Unit.PY, Word.YES, Level.LOW):
        assert run(same, member) is member, member
    assert run(Colour.BLUE.text) == "BLUE 2"
    assert run(lambda: (list(Colour.__members__), [c.name for c in Colour])) == (
        ["RED", "ROUGE", "BLUE"],
        ["RED", "BLUE"],
    )
    assert run(lambda: Colour.ROUGE is Colour.RED and Colour["BLUE"] is Colour(2))
    assert run(lambda: (Right.READ | Right.WRITE) is Right.BOTH)
    assert run(lambda: (Planet.EARTH.mass, Word.YES + "!", Level.LOW + 1)) == (5.9, "yes!", 2)
    assert run(lambda: (Unit.PY.label, bytes(Unit.PY), Unit(1).name)) == ("P.Y", b"\\x01", "PY")

class Outer:
    class Inner:
        class Deep:
            number = 1
        def get(self):
            return Outer.Inner.Deep.number
def check_nested_classes(run):
    assert run(Outer.Inner().get) == 1
    assert type(run(Outer.Inner.Deep)) is Outer.Inner.Deep

def local_classes():
    class Local:
        __slots__ = ("number",)
        def __init__(self):
            self.number = 1
    @dataclasses.dataclass(slots=True)
    class LocalRow:
        number: int
    return Local, LocalRow
def check_local_classes(run):
    local, row = local_classes()
    back = run(local)
    assert type(back) is local and back.number == 1
    assert run(row, 3) == row(3)
    local.marked = 1
    back = run(lambda made: [made, setattr(type(made), "marked", 2)][0], local())
    assert type(back) is local and local.marked == 1, "the worker's class has changed this one"
"""

FUNCTIONS = """
@functools.singledispatch
def show(value):
    return "object"
@show.register
def _(value: int):
    return "int"
class Shows:
    @functools.singledispatchmethod
    def show(self, value):
        return "object"
    @show.register
    def _(self, value: int):
        return "int"
def check_dispatch(run):
    assert [run(show, value) for value in (1, "", None)] == ["int", "object", "object"]
    assert [run(Shows().show, value) for value in (1, "")] == ["int", "object"]
    @show.register
    def _(value: str):
        return "str"
    assert [run(show, value) for value in (1, "")] == ["int", "str"]

def counted(fn):
    calls = {"count": 0}
    @functools.wraps(fn)
    def wrapper(*args):
        calls["count"] += 1
        return fn(*args), calls["count"]
    return wrapper
@counted
def decorated(number):
    return number + 1
class Shop:
    sold = 0
    def __init__(self, price):
        self.price = price
    def total(self, count):
        return self.price * count
    @classmethod
    def sell(cls):
        cls.sold += 1
        return cls.sold
    @staticmethod
    def double(number):
        return 2 * number
    def __call__(self, number):
        return self.price - number
def check_callables(run):
    assert [run(decorated, 1) for _ in range(2)] == [(2, 1), (2, 2)]
    assert [run(Shop.sell) for _ in range(2)] == [1, 2] and Shop.sold == 0
    assert run(Shop.double, 4) == 8 and run(Shop(3).total, 2) == 6 and run(Shop(5), 3) == 2
    assert run(Shop.total, Shop(3), 2) == 6
    assert run(functools.partial(Shop.total, Shop(3)), 2) == 6
    assert run(functools.partial(same, value=4)) == 4

class Registry:
    handlers = {}
    @classmethod
    def add(cls, method):
        cls.handlers[method.__name__] = method
    @classmethod
    def first(cls):
        return cls.__name__
    def second(self):
        return type(self).__name__
Registry.add(Registry.first)
Registry.add(Registry().second)
Registry.default = Registry().second
class Heir(Registry):
    pass
Registry.heirs = [Heir.first, Heir().second]
def handled(kind):
    return [kind.handlers["first"](), kind.handlers["second"](), kind.default()]
def check_methods_that_their_class_holds(run):
    assert run(handled, Registry) == run(handled, Heir) == ["Registry"] * 3
    assert run(lambda: [each() for each in Registry.heirs]) == ["Heir"] * 2
    assert run(lambda: Registry.handlers["first"].__func__ is Registry.__dict__["first"].__func__)
    local = local_registry()
    assert run(local) == ["Local"] and run(lambda: local.handlers[0]()) == "Local"
def local_registry():
    class Local:
        handlers = []
        @classmethod
        def make(cls):
            return cls.__name__
        def __new__(cls):
            return [handler() for handler in cls.handlers]
    Local.handlers.append(Local.make)
    return Local

def even(number):
    return number == 0 or odd(number - 1)
def odd(number):
    return number != 0 and even(number - 1)
def check_recursion(run):
    assert run(even, 10) and not run(odd, 10)

MISSING = object()
class _Undefined:
    def __reduce__(self):
        return "UNDEFINED"
UNDEFINED = _Undefined()
def is_missing(value=MISSING):
    return value is MISSING
def check_lone_objects(run):
    assert run(is_missing) and run(is_missing, MISSING) and not run(is_missing, 3)
    assert run(operator.itemgetter(0), [MISSING]) is MISSING
    assert run(same, MISSING) is MISSING and run(lambda: MISSING) is MISSING
    assert run(lambda value: value is UNDEFINED, UNDEFINED) and run(same, UNDEFINED) is UNDEFINED

class Row:
    pass
class NamedNowhereElse:
    pass
class NorThis:
    pass
def annotated(row: "Row", rows: "list[NamedNowhereElse]") -> "Below | None": ...
class Below(Row):
    above: "NorThis"
def hints():
    return typing.get_type_hints(annotated), typing.get_type_hints(Below)
def check_annotations(run):
    assert run(hints) == (
        {"row": Row, "rows": list[NamedNowhereElse], "return": Below | None},
        {"above": NorThis},
    )

def pickled(*things):
    return pickle.dumps((things, [Row(), annotated]))
def nested(numbers):
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return list(pool.map(Shop.double, numbers))
FIRST, SECOND = 1, 2
def imports():
    from __main__ import FIRST, even
    import __main__
    return FIRST, even(2), __main__.SECOND, __main__.odd(2)
def check_what_asks_for_main(run):
    things, (row, function) = pickle.loads(run(pickled, Row()))
    assert type(row) is type(things[0]) is Row and function is annotated
    assert run(nested, [1, 2]) == [2, 4]
    assert run(imports) == (1, True, 2, False)
    assert run(lambda: (__name__, sys.modules["__main__"].same is same)) == ("__main__", True)

def in_class_bodies():
    class Local(Shop):
        first = FIRST
    return Local(SECOND).first, Local.double(SECOND)
def check_names_in_class_bodies(run):
    assert run(in_class_bodies) == (1, 4)
"""


@each_method
@pytest.mark.parametrize("kinds", [CLASSES, FUNCTIONS], ids=["classes", "functions"])
def test_what_a_script_defines_is_in_a_worker_what_it_is_here(
    method: str, kinds: str, tmp_path: Path
) -> None:
    run_well(tmp_path, HEAD + kinds + RUN, method)


POSTPONED = """
from __future__ import annotations
import dataclasses, sys, typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Generic, List, Literal, Optional, TypeVar, Union
from collector import Collector
T = TypeVar("T", bound="Row")
UserId = typing.NewType("UserId", int)
Rows = List["Row"]
Either = Union["Row", int]
LIMIT = 3
class Row(Generic[T]):
    above: Optional[Row]
    kind: ClassVar[Literal["big", "small"]]
@dataclasses.dataclass
class Cell:
    user: UserId
    rows: Rows = ()
    size: Annotated[int, LIMIT] = 0
def takes(
    row: T, either: Either, call: Callable[[UserId], Any]
) -> Iterator[Rows]: ...
def hints():
    return [typing.get_type_hints(each, include_extras=True) for each in (takes, Row, Cell)]
with Collector(1, sys.argv[1]) as c:
    assert c.submit(lambda: T).result() is T
    assert c.submit(hints).result() == hints()
    assert c.submit(lambda: typing.get_type_hints(takes)["row"] is T).result()
    assert c.submit(lambda: Row.__parameters__[0] is T).result()
    assert type(c.submit(Cell, 1).result()) is Cell
"""


@each_method
def test_annotations_that_are_texts_find_all_that_typing_makes(method: str, tmp_path: Path) -> None:
    run_well(tmp_path, POSTPONED, method)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["stdin", "option c", "option m"])
def test_however_a_script_is_run(way: str, tmp_path: Path) -> None:
    run_well(tmp_path, HEAD + CLASSES + RUN, "forkserver", way=way)


@pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_the_module_that_stands_for_the_script_has_what_jobs_need_and_names_no_file(
    method: str, tmp_path: Path
) -> None:
    script = """
    import sys
    from collector import Collector
    UNUSED = USED = 3
    def names():
        import __main__
        assert not hasattr(__main__, "__file__") and __file__.endswith("script.py")
        return sorted(name for name in vars(__main__) if not name.startswith("__")), USED
    with Collector(1, sys.argv[1]) as c:
        print(c.submit(names).result())
    """
    assert run_well(tmp_path, script, method) == "(['USED', 'names'], 3)\n"


@each_method
def test_a_package_that_is_run_finds_its_modules(method: str, tmp_path: Path) -> None:
    package = tmp_path / "tool"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "numbers_of.py").write_text("def three():\n    return 3\n")
    (package / "__main__.py").write_text(
        f"""
from collector import Collector
from .numbers_of import three
def job():
    from .numbers_of import three as again
    from . import numbers_of
    return three() + again() + numbers_of.three()
with Collector(1, {method!r}) as c:
    print(c.submit(job).result())
"""
    )
    assert (
        run_well(tmp_path, "import runpy; runpy.run_module('tool', run_name='__main__')") == "9\n"
    )
