"""`collector completion`: what bash, zsh and fish complete after they have read it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.running import OnTerminal, shell_on_terminal

CASES: Final = [
    ("collector rep", "report"),
    ("collector run --hal", "--halt"),
    ("collector run --show fai", "fail"),
    ("collector run -a ./some-inp", "./some-inputs"),
    ("collector status some-bat", "some-batch"),
    ("collector run some-progr", "some-program"),
    ("collector run some-program some-inp", "some-inputs"),
]

BASH: Final = """
source {script}
COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
$(complete -p collector | sed 's/.*-F \\([^ ]*\\).*/\\1/') collector \
    "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD - 1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(name="where")
def _where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with something of each kind, in which is typed; and a program on the path."""
    (tmp_path / "some-inputs").touch()
    (tmp_path / "some-batch").mkdir()
    for name in ("some-program", "collector"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(shell: str) -> str:
    return subprocess.check_output(
        [sys.executable, "-m", "collector", "completion", shell], text=True
    )


def needed(shell: str) -> str:
    path = shutil.which(shell)
    assert path, f"apt-get install {shell}"
    return path


@pytest.mark.slow
def test_bash_completes(where: Path) -> None:
    (where / "script").write_text(printed("bash"))
    for line, wanted in CASES:
        typed = BASH.format(script=where / "script", line=line)
        found = subprocess.check_output(["bash", "--norc", "-c", typed], text=True)
        assert wanted in found.split(), line


@pytest.mark.slow
def test_fish_completes(where: Path) -> None:
    script = where / ".config" / "fish" / "completions" / "collector.fish"
    script.parent.mkdir(parents=True)
    script.write_text(printed("fish"))
    for line, wanted in CASES:
        typed = f"complete -C '{line}'"
        found = subprocess.check_output([needed("fish"), "-c", typed], text=True)
        names = [line.partition("\t")[0].rstrip("/") for line in found.splitlines()]
        assert wanted in names, line


@pytest.mark.slow
def test_zsh_completes(where: Path) -> None:
    (where / "functions").mkdir()
    (where / "functions" / "_collector").write_text(printed("zsh"))
    with shell_on_terminal([needed("zsh"), "-f", "-i"], where) as zsh:
        zsh.press(b"fpath=($HOME/functions $fpath); autoload -U compinit; compinit -u -D\n")
        for line, wanted in CASES:
            complete(zsh, line, wanted)


def complete(zsh: OnTerminal, line: str, wanted: str) -> None:
    """Type a line and a tab; it is not run."""
    zsh.seen = b""
    zsh.press(line.encode() + b"\t")
    zsh.read_until(line[: line.rindex(" ") + 1].encode() + wanted.encode())
    zsh.press(b"\x15")  # Ctrl-U: the line is gone


def test_without_the_library_it_is_named(where: Path) -> None:
    (where / "shtab.py").write_text("raise ImportError")
    ended = subprocess.run(
        [sys.executable, "-m", "collector", "completion", "bash"],
        env=os.environ | {"PYTHONPATH": os.fspath(where)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "pip install shtab" in ended.stderr
