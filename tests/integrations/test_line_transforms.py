"""Each shipped transform, on the lines that a model writes."""

from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.integrations.postprocess import (
    collapse_blank_runs,
    normalise_line_ends,
    strip_code_fences,
)

LINES = st.lists(st.sampled_from(["", " ", "text", "```", "````", "```py", "~~~", "a\rb", "\t"]))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["```", "text", "```"], ["text"]),
        (["```markdown", "# Title", "", "text", "```", ""], ["# Title", "", "text", ""]),
        (["~~~ text", "a", "~~~~  ", "b"], ["a", "b"]),
        (["````", "```", "inner", "```", "````"], ["```", "inner", "```"]),
        (["```", "~~~", "```"], ["~~~"]),
        (["```", "``` not an end", "```"], ["``` not an end"]),
        (["   ```", "text", "  ```"], ["text"]),
        (["    ```", "an indented block"], ["    ```", "an indented block"]),
        (["``` a `word` ```"], ["``` a `word` ```"]),
        (["``", "text"], ["``", "text"]),
        (["```", "never closed"], ["never closed"]),
        (["no fence at all"], ["no fence at all"]),
    ],
)
def test_code_fences_are_dropped_and_what_is_in_them_stays(
    lines: list[str], expected: list[str]
) -> None:
    assert list(strip_code_fences(lines)) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["one\rtwo", "three"], ["one", "two", "three"]),
        (["one\r"], ["one"]),
        (["one\r\r"], ["one", ""]),
        (["one\u2028two\u2029three\u0085four"], ["one", "two", "three", "four"]),
        (["a form\x0cfeed and a\x0btab stay"], ["a form\x0cfeed and a\x0btab stay"]),
        ([""], [""]),
    ],
)
def test_every_line_end_becomes_one(lines: list[str], expected: list[str]) -> None:
    assert list(normalise_line_ends(lines)) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a", "", "", " \t", "b"], ["a", "", "b"]),
        (["", "", "a", ""], ["a"]),
        (["a", "b"], ["a", "b"]),
        (["", ""], []),
        ([], []),
    ],
)
def test_a_run_of_blank_lines_becomes_one(lines: list[str], expected: list[str]) -> None:
    assert list(collapse_blank_runs(lines)) == expected


@pytest.mark.parametrize("transform", [collapse_blank_runs, normalise_line_ends])
@given(lines=LINES)
def test_doing_it_twice_changes_nothing_more(
    transform: Callable[[Iterable[str]], Iterator[str]], lines: list[str]
) -> None:
    once = list(transform(lines))
    assert list(transform(once)) == once


@pytest.mark.parametrize("transform", [collapse_blank_runs, normalise_line_ends, strip_code_fences])
def test_a_line_is_given_before_the_next_but_one_is_asked_for(
    transform: Callable[[Iterable[str]], Iterator[str]],
) -> None:
    asked: list[int] = []

    def lines() -> Iterator[str]:
        for number in range(100):
            asked.append(number)
            yield f"line {number}"

    assert next(transform(lines())) == "line 0"
    assert asked == [0]
