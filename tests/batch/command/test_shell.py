"""Templates for a shell: inputs are variables, and what cannot be one is refused (fault 86)."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from collector.batch.command.shell import ShellTemplate
from collector.batch.command.template import Finder, Inputs, TemplateError

SHELLS = [shell for shell in ("/bin/sh", "bash", "zsh", "ksh") if shutil.which(shell)]

HOSTILE = [
    "a b", "'", '"', "\\", "a\tb", "$(touch pwned)", "`touch pwned`", "!x", "~", "*", "?", "[a-z]",
    "-n", "--", os.fsdecode(b"\xff\xfe"), "", "{}", "$HOME", "${HOME}", "; touch pwned",
    "&& touch pwned", "| touch pwned", "a\rb", "#x", "${COLLECTOR_V1}", "%s", "\x1b[31m", "a\nb",
    "\n", "\n$(touch pwned)\n", "'$(touch pwned)'", '"$(touch pwned)"', "a[$(touch pwned)]",
    "$((1+1))", "<(touch pwned)", "EOF", "\\n", "x" * 100_000,
]  # fmt: skip

PLACES = [
    ("printf '%sX' {}", "{}X"),
    ('printf "%sX" "{}"', "{}X"),
    ("printf '%sX' '{}'", "{}X"),
    ("printf '%sX' pre{}post", "pre{}postX"),
    ("printf '%sX' \"pre{}post\"", "pre{}postX"),
    ("printf '%sX' 'pre{}post'", "pre{}postX"),
    ("printf '%sX' \"$(printf '%sX' {})\"", "{}XX"),
    ("printf '%sX' \"$(printf '%sX' \"{}\")\"", "{}XX"),
    ("v={}; printf '%sX' \"$v\"", "{}X"),
    ("for v in {}; do printf '%sX' \"$v\"; done", "{}X"),
    ("case {} in *) printf '%sX' {};; esac", "{}X"),
    ("(printf '%sX' {})", "{}X"),
    ("{ printf '%sX' {}; }", "{}X"),
    ("f() { printf '%sX' \"$1\"; }; f {}", "{}X"),
    ("printf '%sX' {} # {}", "{}X"),
    ("printf '%sX' \\\n {}", "{}X"),
    ("cat <<'END'\n$(touch pwned)\nEND\nprintf '%sX' {}", "$(touch pwned)\n{}X"),
    ("printf '%sX' \"${NOT_SET:-a b}\" {}", "a bX{}X"),
    ("if [ {} = {} ]; then printf '%sX' {}; fi", "{}X"),
    ("printf '%sX' {}>&1", "{}X"),
    ("cat /dev/null&&printf '%sX' {}", "{}X"),
]


def run_all(shell: str, template: str, where: Path) -> list[str]:
    """Run it with each of the hostile inputs, in one shell after the other."""
    made = ShellTemplate(template, Finder())
    found = []
    for value in HOSTILE:
        inputs = Inputs((value,), 1)
        script = made.script(1)
        ended = subprocess.run(
            [shell, "-c", script.text],
            env={"PATH": os.environ["PATH"], "HOME": "/", **script.environment(inputs)},
            cwd=where,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        found.append(os.fsdecode(ended.stdout))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("template", "expected"), PLACES)
def test_in_each_place_an_input_is_data_for_each_shell(
    shell: str, template: str, expected: str, tmp_path: Path
) -> None:
    operators = {"!x"} if "[ {}" in template else set()
    values = [value for value in HOSTILE if value not in operators]
    found = dict(zip(HOSTILE, run_all(shell, template, tmp_path), strict=True))
    for value in values:
        assert found[value] == expected.replace("{}", value), (template, value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("template", "hint"),
    [
        ("echo `echo {}`", "$(...)"),
        ('echo "`echo {}`"', "$(...)"),
        ("echo $(({} + 1))", "check it"),
        ('echo "$(({} + 1))"', "check it"),
        ("echo $[{} + 1]", "check it"),
        ("(( {} > 1 )) && echo", "test {}"),
        ("cat <<END\n{}\nEND", "printf"),
        ("cat <<'END'\n{}\nEND", "printf"),
        ("cat <<-END\n\t{}\n\tEND", "printf"),
        ("cat <<A; cat <<B\na\nA\n{}\nB", "printf"),
        ("cat <<{}\nx\n{}", "here-document"),
        ("echo ${x:-{}}", "v={}"),
        ('echo "${x:-{}}"', "v={}"),
        ("echo ${x#{}}", "v={}"),
        ("echo \\{}", "backslash"),
        ('echo "\\{}"', "backslash"),
        ("echo $'{}'", "$'...'"),
        ("a[{}]=1", "subscript"),
        ("[[ {} -eq 1 ]]", "[ {}"),
        ("[[ -v {} ]]", "[ {}"),
        ('echo "$(case x in x) echo {};; esac)"', "case"),
        ("echo 'never closed {}", "never closed"),
        ('echo "never closed {}', "never closed"),
        ("echo $(never {}", "never closed"),
        ("echo x #", "no place"),
        ("echo x;", "no place"),
        ("cat <<END\nx\nEND\n", "no place"),
    ],
)
def test_where_an_input_could_be_more_than_data_the_template_is_refused(
    template: str, hint: str
) -> None:
    with pytest.raises(TemplateError) as refused:
        ShellTemplate(template, Finder()).script(1)
    assert hint in str(refused.value)


def test_what_a_shell_has_for_itself_is_left_alone() -> None:
    text = "awk '{print $1}' {} | sed \"s/a{2,3}/b/\" ${#x} $# ${x%.*} `date` $((1 + 2))"
    script = ShellTemplate(text, Finder()).script(1)
    assert script.text == text.replace(" {} ", ' "${COLLECTOR_V1}" ')


def test_an_input_that_is_not_there_is_nothing_in_each_place() -> None:
    script = ShellTemplate("echo {2} x{2} \"{-2}\" '{2}' {1}", Finder()).script(1)
    assert script.text == 'echo  x"" "" \'\'""\'\' "${COLLECTOR_V1}"'


def test_the_script_depends_on_the_number_of_inputs_alone() -> None:
    template = ShellTemplate("echo {} x={} {1.}", Finder())
    assert template.script(2) is template.script(2)
    script = template.script(2)
    assert script.text == (
        'echo "${COLLECTOR_V1}" "${COLLECTOR_V2}" x="${COLLECTOR_V1} ${COLLECTOR_V2}" '
        '"${COLLECTOR_V3}"'
    )
    inputs = Inputs(("$(id).txt", "b"), 1)
    assert script.environment(inputs) == {
        "COLLECTOR_V1": "$(id).txt",
        "COLLECTOR_V2": "b",
        "COLLECTOR_V3": "$(id)",
    }


def test_what_is_shown_runs_the_same_when_it_is_pasted(tmp_path: Path) -> None:
    text = "printf '%sX' {} \"{}\" '{}' a{}b"
    for value in [value for value in HOSTILE if len(value) < 100]:
        shown = ShellTemplate(text, Finder()).shown(Inputs((value,), 1))
        ended = subprocess.run(
            ["/bin/sh", "-c", os.fsencode(shown)], cwd=tmp_path, capture_output=True, check=True
        )
        assert os.fsdecode(ended.stdout) == f"{value}X{value}X{value}Xa{value}bX", shown
    assert os.listdir(tmp_path) == []
