"""Say what jobs wait for, beside workers: a closed gate, a pause before they run again.

Runs in:    the parent; pure.
"""

import math
from collections.abc import Iterable

from collector import settings
from collector.process.scheduler.gates import Waits


def waits_text(waits: Iterable[Waits], now_s: float) -> str:
    """Return it in a line; nothing, if no job waits for more than its turn.

    Of very many resources the first ones are named: the line is made for each picture.

    Args:
        waits: What jobs wait for.
        now_s: The time, by the clock of the scheduler.
    """
    texts: list[str] = []
    further: list[int] = []
    for one in filter(is_told_of, waits):
        if one.resource and len(texts) >= settings.RESOURCES_NAMED:
            further.append(one.jobs)
        else:
            texts.append(_text(one, now_s))
    if further:
        resources = "1 other resource" if len(further) == 1 else f"{len(further)} other resources"
        text = f"{_jobs(sum(further))} for {resources}"
        texts.insert(settings.RESOURCES_NAMED, text)
    return "; ".join(texts)


def is_told_of(waits: Waits) -> bool:
    """Whether jobs wait for more than their turn: as many run as may is work, and no pause."""
    return waits.why != "full"


def _text(waits: Waits, now_s: float) -> str:
    jobs = _jobs(waits.jobs)
    left_s = max(0, math.ceil(waits.until_s - now_s)) if waits.until_s < math.inf else None
    if waits.why == "closed":
        return f"{jobs} for {waits.resource}, which has asked for a pause of {left_s} s more"
    if waits.why == "trying":
        return f"{jobs} for {waits.resource}, which one job tries after a pause"
    return f"{jobs} to be run again, the first in {left_s} s"


def _jobs(number: int) -> str:
    return "1 job waits" if number == 1 else f"{number} jobs wait"
