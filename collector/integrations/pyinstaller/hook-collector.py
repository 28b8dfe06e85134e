"""What a program needs of collector that no import statement names: modules are loaded late."""

from PyInstaller.utils.hooks import collect_submodules

_OF_OTHER_PROGRAMS = {"collector.pytest_plugin", "collector.integrations.pyinstaller"}
"""Only pytest and PyInstaller load these, which would bring both of them into the program."""

hiddenimports = collect_submodules("collector", filter=lambda name: name not in _OF_OTHER_PROGRAMS)
