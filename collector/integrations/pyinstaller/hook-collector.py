"""What a program needs of collector that no import statement names: modules are loaded late."""

from PyInstaller.utils.hooks import collect_submodules

hiddenimports = collect_submodules("collector")
