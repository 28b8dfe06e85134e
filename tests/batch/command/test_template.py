"""Replacement strings: what stands for them, and how they become arguments."""

import os

import pytest

from collector.batch.command.template import (
    Field,
    Finder,
    Inputs,
    Words,
    directory_of,
    filled,
    without_directories,
    without_extension,
)


@pytest.mark.parametrize(
    ("text", "bare", "name", "directory", "stem"),
    [
        ("a/b.c.d", "a/b.c", "b.c.d", "a", "b.c"),
        ("x/", "x/", "", ".", ""),
        ("/r", "/r", "r", "/", "r"),
        ("./q.tar.gz", "./q.tar", "q.tar.gz", ".", "q.tar"),
        ("plain", "plain", "plain", ".", "plain"),
        ("a.b/c", "a.b/c", "c", "a.b", "c"),
        ("", "", "", ".", ""),
        ("/", "/", "", "/", ""),
        ("a\nb/c.\n", "a\nb/c", "c.\n", "a\nb", "c"),
    ],
)
def test_each_form_takes_its_part_of_a_path(
    text: str, bare: str, name: str, directory: str, stem: str
) -> None:
    inputs = Inputs((text,), seq=7, slot=3)
    found = filled(Finder().parts("{}|{.}|{/}|{//}|{/.}|{#}|{%}"), inputs)
    assert found == f"{text}|{bare}|{name}|{directory}|{stem}|7|3"


def test_numbers_count_from_both_ends_and_beyond_them_is_nothing() -> None:
    inputs = Inputs(("a.x", "b.y", "c.z"), 1)
    assert filled(Finder().parts("{1}{3}{-1}{-3.}{4}{2.}"), inputs) == "a.xc.zc.zab"


def test_names_of_a_header_are_replaced_and_others_stay() -> None:
    finder = Finder(["size", "a+b"])
    assert filled(finder.parts("{size} {a+b.} {other}"), Inputs(("1", "q.r"), 1)) == "1 q {other}"


def test_without_a_replacement_string_the_inputs_are_appended() -> None:
    assert Words(["echo", "-n"], Finder()).render(Inputs(("a b", "c"), 1)) == [
        "echo",
        "-n",
        "a b",
        "c",
    ]


def test_an_input_stays_one_argument_whatever_it_holds() -> None:
    hostile = ["a b", "'", '"', "\\", "\n", "$(id)", "`id`", "*", "-rf", "", os.fsdecode(b"\xff")]
    words = Words(["printf", "{}", "x{}y", "--flag={}"], Finder())
    for value in hostile:
        assert words.render(Inputs((value,), 1)) == [
            "printf",
            value,
            f"x{value}y",
            f"--flag={value}",
        ]


def test_what_an_input_holds_is_not_replaced_again() -> None:
    assert Words(["echo", "{1}", "{2}"], Finder()).render(Inputs(("{2}", "{1}"), 1)) == [
        "echo",
        "{2}",
        "{1}",
    ]


def test_a_whole_word_becomes_as_many_arguments_as_there_are_inputs() -> None:
    words = Words(["echo", "{}", "pre{}post", "{1}"], Finder())
    assert words.render(Inputs(("a", "b"), 1)) == ["echo", "a", "b", "prea bpost", "a"]


def test_what_looks_like_a_replacement_string_and_is_none_stays() -> None:
    text = "{0} {a} {..} ${x} {print $1} { } {{}"
    assert filled(Finder().parts(text), Inputs(("v",), 1)) == text.replace("{}", "v")


def test_all_inputs_one_by_one() -> None:
    assert Field(0, ".").one_each(2) == (Field(1, "."), Field(2, "."))
    assert Field(2).one_each(5) == (Field(2),)


def test_the_parts_of_odd_paths() -> None:
    assert (directory_of("a//b"), directory_of("//"), directory_of("a/b/")) == ("a", "/", "a")
    assert (without_extension(".profile"), without_directories("a/")) == ("", "")
