"""A program that makes a pool of two workers, runs one job, and says when it has the result.

Usage: first_result.py PEER FUNCTION, where FUNCTION is `imported` or `own` (a function of this
script).
"""

import os
import sys

if __name__ == "__main__":
    from bench.peers import pool_of


def own(item: int) -> int:
    """A job that is a function of the script."""
    return item


if __name__ == "__main__":
    peer, function = sys.argv[1:]
    with pool_of(peer, 2) as pool:
        pool.one(own if function == "own" else abs, 1)
        os.write(1, b"!")
