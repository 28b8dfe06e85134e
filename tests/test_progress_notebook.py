"""The bars of a notebook."""

import io
import sys
import types
from functools import partial
from typing import Any, ClassVar

import pytest
from tqdm.std import tqdm

from collector import Collector
from collector.progress import notebook


def test_in_a_notebook_each_batch_has_the_bar_of_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", types.ModuleType("ipykernel.zmqshell"))
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with Collector(max_workers=1) as collector:
        assert len(list(collector.collect(abs, range(5), desc="cell"))) == 5
    assert "cell: 100%" in stream.getvalue()
    assert "5/5" in stream.getvalue()
    assert "0 failed]" in stream.getvalue().splitlines()[-1]


class Widget(tqdm):  # type: ignore[type-arg]
    """As tqdm.notebook: its bar reaches as far as it was told to at first, or by `reset`."""

    monitor_interval = 0
    made: ClassVar[list["Widget"]] = []

    def __init__(self, **options: Any) -> None:
        super().__init__(file=io.StringIO(), **options)
        self.most = self.total or 1
        self.begun_s = None if self.disable else self.start_t
        self.made.append(self)

    def reset(self, total: float | None = None) -> None:
        if total is not None:
            self.most = total
        super().reset(total)


@pytest.mark.parametrize("disable", ["", "1"])
def test_in_a_notebook_the_bar_hears_of_a_total_that_is_known_later(
    disable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", types.ModuleType("ipykernel.zmqshell"))
    monkeypatch.setattr(
        notebook, "private_tqdm", lambda **_: partial(Widget, disable=bool(disable))
    )
    with Collector(max_workers=1) as collector:
        assert len(list(collector.collect(abs, iter(range(5))))) == 5
    bar = Widget.made.pop()
    assert (bar.n, bar.total) == (5, 5)
    if not disable:
        assert bar.most == 5, "the bar is full when all jobs are done"
        assert bar.start_t == bar.begun_s
