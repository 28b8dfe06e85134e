"""One media task as the tests call it, and how they tell the service what to say."""

import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from collector import Collector
from collector.integrations.gemini import GeminiResult, GeminiStatus, run_gemini_media_task
from tests.integrations.fake_gemini import FakeGemini
from tests.integrations.gemini_script import Question, Refuse, Step
from tests.support.tree import ROOT

OVERLOADED = Refuse(503)
TOO_MANY = Refuse(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (check quota).")


def in_this_tree() -> dict[str, str]:
    """The environment for a child that finds the package of this tree."""
    return os.environ | {"PYTHONPATH": os.fspath(ROOT)}


def workers_with_the_sdk(count: int = 1) -> Collector:
    """A Collector whose workers need not load the SDK, for its import takes seconds."""
    import google.genai  # noqa: F401 - what this process has a forked one has, too

    return Collector(count, progress=False, mp_context="fork")


def run(path: Path, **options: Any) -> GeminiResult:
    return run_gemini_media_task(path, prompt="What is said in this video?", **options)


def answer_of(result: GeminiResult) -> bytes:
    assert result.output is not None
    with result.output as output:
        assert output.complete
        return output.read()


def stages(statuses: list[GeminiStatus]) -> list[str]:
    return [stage for stage, _ in groupby(status.stage for status in statuses)]


def says(gemini: FakeGemini, *steps: Step) -> None:
    def script(_question: Question) -> Iterator[Step]:
        yield from steps

    gemini.script = script
