"""A bar in a notebook: what `tqdm.auto` makes of it.

Runs in:    the thread of the cell (`__init__`), which is where the bar appears; else the drawing
            thread.
"""

from collections.abc import Sequence
from typing import final

from collector import settings
from collector.progress.tally import Said
from collector.progress.text import facts, private_tqdm
from collector.progress.view import View


@final
class Notebook:
    """Draws one batch."""

    def __init__(self, view: View) -> None:
        self.pause_s = settings.DRAW_INTERVAL_S
        self._bar = private_tqdm(auto=True)(desc=view.desc, total=view.total, unit="job")

    def say(self, view: View, news: Sequence[Said]) -> None:
        """See `Painter.say`: a widget has no lines above it."""

    def paint(self, views: Sequence[View]) -> None:
        """See `Painter.paint`."""
        for view in views:
            self._expect(view.total)
            self._bar.n = view.done
            self._bar.set_postfix_str(", ".join(facts(view)), refresh=False)
            self._bar.refresh()

    def _expect(self, total: int | None) -> None:
        """Have the bar reach to that many jobs: a widget hears of it by `reset` alone."""
        bar = self._bar
        if total != bar.total and not bar.disable:
            begun_s = bar.start_t
            bar.reset(total)
            bar.start_t = begun_s
        bar.total = total

    def finish(self, view: View, *, last: bool) -> None:
        """See `Painter.finish`."""
        del last
        self.paint([view])
        self._bar.close()

    def abandon(self) -> None:
        """See `Painter.abandon`."""
        self._bar.close()
