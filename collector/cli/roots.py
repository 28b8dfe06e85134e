"""The option of the commands that look into temp roots."""

import argparse


def add_root_to(command: argparse.ArgumentParser) -> None:
    """Add `--root`, which may be given again."""
    command.add_argument(
        "--root",
        action="append",
        type=_root,
        metavar="PATH",
        help="look at this temp root, not at all that are yours; may be given again",
    )


def _root(path: str) -> str:
    if not path:
        raise argparse.ArgumentTypeError("a temp root must be a path, not an empty one")
    return path
