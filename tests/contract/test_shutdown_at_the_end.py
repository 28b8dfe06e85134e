"""`shutdown` where a program ends: in finalizers, exit handlers, generators, threads; as often."""

from pathlib import Path
from typing import Final

import pytest

from tests.contract.kinds import Kind
from tests.contract.test_interpreter_exit import run
from tests.support.tiers import everyday_are

HOLDER: Final = """
class Holder:
    def __init__(self):
        self.executor = make()
        self.job = self.executor.submit(mark, "done")
    def __del__(self):
        self.executor.shutdown()
"""

WAYS: Final = {
    "a finalizer of a global": HOLDER + "holder = Holder()",
    "a finalizer of a global in a cycle": HOLDER + "holder = Holder()\nholder.me = holder",
    "a finalizer of an attribute of a module": HOLDER + "os.holder = Holder()",
    "a finalizer of an unused one": HOLDER
    + "mark('done')\nholder = Holder.__new__(Holder)\nholder.executor = make()",
    "a finalizer that cancels": HOLDER
    + """
class Canceller(Holder):
    def __del__(self):
        self.job.cancel()
        self.executor.shutdown(cancel_futures=True)
holder = Canceller()
holder.job.result()""",
    "a finalizer after a shutdown that did not wait": HOLDER
    + "holder = Holder()\nholder.executor.shutdown(wait=False)",
    "an exit handler": """
executor = make()
executor.submit(mark, "done")
atexit.register(executor.shutdown)""",
    "weakref.finalize": """
import weakref
class Thing: pass
thing = Thing()
executor = make()
executor.submit(mark, "done")
weakref.finalize(thing, executor.shutdown)""",
    "a generator that was not read to its end": """
def generate():
    with make() as executor:
        executor.submit(mark, "done").result()
        yield
generator = generate()
next(generator)""",
    "the iterator of map": """
executor = make()
values = executor.map(mark, ["done", "done"])
next(values)""",
    "a thread that still runs": """
begun = threading.Event()
def work():
    with make() as executor:
        executor.submit(mark, "begun").result()
        begun.set()
        time.sleep(0.2)
        executor.shutdown()
        mark("done")
threading.Thread(target=work).start()
begun.wait()""",
    "a thread that nobody waits for": """
begun = threading.Event()
def work():
    with make() as executor:
        executor.submit(mark, "done").result()
        begun.set()
        time.sleep(1000)
threading.Thread(target=work, daemon=True).start()
begun.wait()""",
}

OURS: Final = {
    "a finalizer that submits": HOLDER
    + """
class Submitter(Holder):
    def __del__(self):
        try:
            self.executor.submit(abs, 1)
        except RuntimeError:
            pass
        self.executor.shutdown()
holder = Submitter()""",
    "a finalizer that kills": HOLDER
    + """
class Killer(Holder):
    def __del__(self):
        self.job.kill()
        self.executor.with_options(name="other").shutdown()
holder = Killer()
holder.job.result()""",
    "the iterator of collect": """
executor = make()
jobs = executor.collect(mark, ["done"] * 20)
next(jobs)""",
    "a child that is forked": HOLDER
    + """
holder = Holder()
holder.job.result()
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 3 << 8""",
}


EVERYDAY: Final = ("a finalizer of a global", "an exit handler", "a thread that still runs")


@pytest.mark.parametrize("way", everyday_are(EVERYDAY, of=WAYS))
def test_a_late_shutdown_prints_nothing_and_changes_no_status(
    kind: Kind, way: str, tmp_path: Path
) -> None:
    status, said, files = run(kind, tmp_path, f"{WAYS[way]}\nsys.exit(3)")
    if kind.ours:
        assert (status, said) == (3, "")
    assert "done" in files


@pytest.mark.parametrize("way", everyday_are(["a finalizer that submits"], of=OURS))
def test_whatever_is_done_with_a_collector_so_late(kind: Kind, way: str, tmp_path: Path) -> None:
    if not kind.ours:
        pytest.skip("this is promised of a Collector only")
    assert run(kind, tmp_path, f"{OURS[way]}\nsys.exit(3)") == (3, "", {"done"})
