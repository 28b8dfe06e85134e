"""Tells PyInstaller where the hook is that has it take all of collector into a program.

Runs in:    PyInstaller, which asks for it by the entry point `pyinstaller40`.
Source:     https://pyinstaller.org/en/stable/hooks.html#provide-hooks-with-package
"""

import os


def hook_directories() -> list[str]:
    """Return the directories in which PyInstaller looks for hooks."""
    return [os.path.dirname(__file__)]
