"""Modules that a worker could not import travel as the script does; the others go by name."""

import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.scripts import ROOT, run_script, run_well
from tests.support.tiers import each_method, each_method_in_one_tier

PLUGIN = """
import functools
seen = 0
class Thing:
    def __init__(self, number):
        self.number = number
    @classmethod
    def of(cls, number):
        return cls(number)
    def double(self):
        return helper(self.number)
def helper(number):
    return 2 * number
def count():
    global seen
    seen += 1
    return seen
@functools.cache
def remembered(number):
    return helper(number)
def where():
    return __name__, __file__
"""

LOADED = """
import importlib.util, sys
from collector import Collector
def load(name, path, inside=None):
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=inside)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
plugin = load("my_plugin", "hidden/plugin.py")
package = load("my_package", "hidden/package/__init__.py", ["hidden/package"])
def uses():
    return plugin.helper(4), plugin.Thing.of(2).double()
def imports():
    import my_plugin
    from my_plugin import remembered
    from my_package.inner import deep
    return my_plugin.helper(1), remembered(3), deep()
with Collector(1, sys.argv[1]) as c:
    def run(fn, *args):
        return c.submit(fn, *args).result()
    assert run(uses) == (8, 4)
with Collector(1, sys.argv[1]) as c:
    assert run(imports) == (2, 6, 5)
with Collector(1, sys.argv[1]) as c:
    assert run(plugin.helper, 3) == 6 and run(plugin.remembered, 3) == 6
    assert type(run(plugin.Thing.of, 3)) is plugin.Thing and run(plugin.Thing(4).double) == 8
    assert type(run(plugin.Thing, 1)) is plugin.Thing
    assert [run(plugin.count) for _ in range(3)] == [1, 2, 3] and plugin.seen == 0
    assert run(package.outer) == 6 and run(package.deep) == 5
    assert run(plugin.where) == ("my_plugin", plugin.__file__)
    assert run(lambda: sys.modules["my_plugin"].helper is plugin.helper)
    plugin.helper = lambda number: -number
    assert run(plugin.remembered, 7) == -7
"""


@each_method
def test_a_plugin_that_was_loaded_by_its_path_travels(method: str, tmp_path: Path) -> None:
    (tmp_path / "hidden" / "package").mkdir(parents=True)
    (tmp_path / "hidden" / "plugin.py").write_text(PLUGIN)
    (tmp_path / "hidden" / "package" / "__init__.py").write_text(
        "from .inner import deep\n"
        "def outer():\n    from . import inner\n    return inner.deep() + 1\n"
    )
    (tmp_path / "hidden" / "package" / "inner.py").write_text(
        "VALUE = 5\ndef deep():\n    return VALUE\n"
    )
    run_well(tmp_path, LOADED, method)


@each_method
def test_another_module_of_the_same_name_is_not_mistaken_for_it(
    method: str, tmp_path: Path
) -> None:
    (tmp_path / "twin.py").write_text("def which():\n    return 'on the path'\n")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "twin.py").write_text("def which():\n    return 'by its path'\n")
    script = """
    import importlib.util, sys
    from collector import Collector
    spec = importlib.util.spec_from_file_location("twin", "hidden/twin.py")
    twin = sys.modules["twin"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(twin)
    with Collector(1, sys.argv[1]) as c:
        print(c.submit(twin.which).result())
    """
    assert run_well(tmp_path, script, method) == "by its path\n"


@each_method
@pytest.mark.parametrize("other", ["a package", pytest.param("none", marks=pytest.mark.slow)])
def test_a_package_without_a_file_is_not_mistaken_for_another_one_of_its_name(
    method: str, other: str, tmp_path: Path
) -> None:
    """So pytest loads `tests/test_it.py` by its import mode `importlib`."""
    (tmp_path / "project" / "tests").mkdir(parents=True)
    (tmp_path / "project" / "tests" / "test_it.py").write_text("def which():\n    return 'ours'\n")
    (tmp_path / "path" / "tests").mkdir(parents=True)
    if other == "a package":
        (tmp_path / "path" / "tests" / "__init__.py").touch()
    script = """
    import sys
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec
    from collector import Collector
    sys.path.append("path")
    def load(name, directory):
        spec = PathFinder.find_spec(name, [directory])
        module = sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    load("tests", "project")
    test_it = load("tests.test_it", "project/tests")
    with Collector(1, sys.argv[1]) as c:
        print(c.submit(test_it.which).result())
    """
    assert run_well(tmp_path, script, method) == "ours\n"


@each_method
def test_a_module_that_was_found_while_the_path_was_another_one_travels(
    method: str, tmp_path: Path
) -> None:
    """So `celery -A` finds the program's module."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "tasks.py").write_text("STEP = 2\ndef step(n):\n    return n + STEP\n")
    script = """
    import sys
    from collector import Collector
    sys.path.insert(0, "hidden")
    import tasks
    sys.path.remove("hidden")
    with Collector(1, sys.argv[1]) as c:
        print(c.submit(tasks.step, 1).result())
        sys.path.insert(0, "hidden")
        print(c.submit(tasks.step, 2).result() if sys.argv[1] == "fork" else 4)
    """
    assert run_well(tmp_path, script, method) == "3\n4\n"


def test_a_module_made_at_run_time_travels(tmp_path: Path) -> None:
    script = """
    import sys, types
    from collector import Collector
    made = sys.modules["made"] = types.ModuleType("made")
    exec("FACTOR = 3\\ndef times(n): return n * FACTOR\\nclass Kept: pass", vars(made))
    with Collector(1) as c:
        print(c.submit(made.times, 2).result(), type(c.submit(made.Kept).result()) is made.Kept)
    """
    assert run_well(tmp_path, script) == "6 True\n"


@pytest.mark.slow
@each_method_in_one_tier
def test_test_modules_of_pytest_travel_whatever_its_import_mode(
    method: str, tmp_path: Path
) -> None:
    inside = tmp_path / "suite" / "unit"
    inside.mkdir(parents=True)
    (inside / "test_it.py").write_text(
        f"""
from collector import Collector
calls = 0
def job(number):
    global calls
    calls += 1
    return number + calls
class Kept:
    pass
def test_it():
    with Collector(1, {method!r}) as c:
        assert [c.submit(job, 10).result() for _ in range(2)] == [11, 12]
        assert type(c.submit(Kept).result()) is Kept
"""
    )
    script = f"""
    import sys, pytest
    sys.path.append({str(ROOT)!r})
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "suite"]))
    """
    done = run_script(tmp_path, script)
    assert done.returncode == 0, done.stdout


IMPORTABLE = """
import threading
LOCK = threading.Lock()
state = None
class Shop:
    sold = 0
    @classmethod
    def sell(cls):
        with LOCK:
            Shop.sold += 1
            return Shop.sold
    @staticmethod
    def double(number):
        with LOCK:
            return 2 * number
    def total(self):
        with LOCK:
            return 7
    class Inner:
        @classmethod
        def get(cls):
            with LOCK:
                return cls.__qualname__
class Sub(Shop):
    pass
def init():
    global state
    state = 5
def get():
    return state
"""


@each_method
@pytest.mark.parametrize(
    "first",
    [
        pytest.param("lambda", marks=pytest.mark.slow),
        "cloudpickle",
        pytest.param("nothing", marks=pytest.mark.slow),
    ],
)
def test_methods_of_an_importable_module_go_by_name_whoever_has_loaded_cloudpickle(
    method: str, first: str, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(IMPORTABLE)
    script = """
    import functools, sys
    from collector import Collector
    import shop
    if sys.argv[2] == "cloudpickle":
        import cloudpickle
    with Collector(1, sys.argv[1], initializer=shop.init) as c:
        def run(fn, *args):
            return c.submit(fn, *args).result()
        if sys.argv[2] == "lambda":
            run(lambda: 1)
        print([run(shop.Shop.sell) for _ in range(3)], run(shop.Sub.sell), run(shop.get))
        print(run(shop.Shop.double, 4), run(shop.Shop().total), run(shop.Shop.Inner.get))
        print(run(functools.partial(shop.Shop.sell)), list(c.map(shop.Shop.double, [1, 2])))
        print(run(lambda fn: fn(), shop.Shop.sell), run(shop.Shop().sell))
    """
    assert run_well(tmp_path, script, method, first) == (
        "[1, 2, 3] 4 5\n8 7 Shop.Inner\n5 [2, 4]\n6 7\n"
    )


def test_everything_that_this_very_process_has_imported_is_known_as_importable() -> None:
    from collector.process.pickling import places

    names = [
        name
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in ("os", "collector", "json", "pandas", "numpy", "asyncio")
        and getattr(module, "__name__", None) == name
    ]
    assert len(names) > 30
    assert [name for name in names if not places.importable(name)] == []


PIPELINE: Final = """
from collector import Collector
from {package}helpers import double
FACTOR = 3
def job(number):
    return double(number) * FACTOR
with Collector(1, {method!r}) as c:
    print(c.submit(job, 1).result(), list(c.map(double, [1, 2])))
"""


@pytest.mark.parametrize("package", ["", pytest.param("pipeline.", marks=pytest.mark.slow)])
@each_method
def test_a_module_may_use_a_collector_while_it_is_imported(
    method: str, package: str, tmp_path: Path
) -> None:
    """Each worker imported it, and so made a Collector whose worker imported it, without end."""
    where = tmp_path / "pipeline" if package else tmp_path
    where.mkdir(exist_ok=True)
    name = "__init__.py" if package else "pipeline.py"
    (where / name).write_text(PIPELINE.format(method=method, package=package))
    (where / "helpers.py").write_text("def double(number):\n    return 2 * number\n")
    assert run_well(tmp_path, "import pipeline", method) == "6 [2, 4]\n"


HIDDEN = """
import calendar, random, sys
from calendar import monthcalendar
from multiprocessing import get_start_method, set_start_method
from random import choice as draw, getrandbits, seed
from secrets import choice, randbits
from collector import Collector
def job():
    assert getrandbits.__self__ is draw.__self__ is random.getrandbits.__self__
    assert monthcalendar.__self__ is calendar.monthcalendar.__self__
    assert get_start_method() == "spawn"
    seed(5)
    assert getrandbits(64) == random.Random(5).getrandbits(64)
    return choice([1]), randbits(8) < 256
def closed():
    from random import choice, random as number
    return lambda: choice.__self__ is number.__self__ is random.choice.__self__
own = random.Random(5).random
set_start_method("spawn")
with Collector(1, sys.argv[1]) as c:
    assert c.submit(job).result() == (1, True)
    assert c.submit(closed()).result()
    assert c.submit(lambda: own()).result() == own()
"""


@each_method
def test_a_method_that_a_script_imports_by_name_is_that_of_the_workers_module(
    method: str, tmp_path: Path
) -> None:
    run_well(tmp_path, HIDDEN, method)
